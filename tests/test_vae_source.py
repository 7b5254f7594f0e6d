"""Whose VAE draws: the one named under `vae`, else the base's, else SD1.5's own; and none while scoring."""

from __future__ import annotations

from pathlib import Path

import forms
import pytest
import torch
from test_load import weights, write

from emoe import EMoE, EmoeError
from emoe.assemble import STOCK
from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.open import examine

FEW = {"mode": "mixture", "steps": 1, "size": 64}


@pytest.fixture(scope="module")
def states() -> list[forms.State]:
    return [forms.state(seed) for seed in (1, 2)]


def model(folder: Path, base: Path, **extra: str) -> EMoE:
    told = "\n".join(f'{key} = "{value}"' for key, value in extra.items())
    return EMoE.from_toml(weights(folder, base, base, base, extra=f"top = 2\n{told}"))


def holds(vae, state: forms.State) -> bool:
    return torch.equal(vae.decoder.conv_in.weight, forms.vae(state)["decoder.conv_in.weight"].float())


@pytest.mark.parametrize("form", ["ldm-fp16", "hub-flat-text", "ckpt-legacy"])
def test_the_bases(states, tmp_path, form):
    found = model(tmp_path, forms.COMPLETE[form](tmp_path, states[0]))
    assert holds(found.vae, states[0])
    assert found.generate("a", **FEW)[0].images[0].size == (64, 64)


ALONE = {
    "file": lambda f, s: forms.safetensors(f / "v.safetensors", forms.vae(s)),
    "LDM file": lambda f, s: forms.safetensors(f / "v.safetensors", forms.below(s, forms.VAE)),
    "pickle": lambda f, s: forms.pickled(f / "v.pt", {"state_dict": forms.below(s, forms.VAE)}),
    "folder": lambda f, s: forms.safetensors(f / "v" / "diffusion_pytorch_model.safetensors", forms.vae(s)).parent,
    "whole checkpoint": lambda f, s: forms.safetensors(f / "v.safetensors", s),
    "pipeline": lambda f, s: forms.hub(f / "v", forms.unet(s), forms.text(s), forms.vae(s)),
}


@pytest.mark.parametrize("form", ALONE)
def test_another(states, tmp_path, form):
    other = ALONE[form](tmp_path, states[1])
    found = model(tmp_path, write(tmp_path, states[0])[0], vae=str(other))
    assert holds(found.vae, states[1])


def test_scoring_opens_none(states, tmp_path, monkeypatch):
    folder = forms.hub(tmp_path / "a", forms.unet(states[0]), forms.text(states[0]), forms.vae(states[0]))
    opened = []
    original = WeightsFile.__init__
    monkeypatch.setattr(
        WeightsFile, "__init__", lambda self, path: opened.append(path.parent.name) or original(self, path)
    )
    found = model(tmp_path, folder)
    found.score("a", size=64)
    assert set(opened) == {"unet", "text_encoder"}
    _ = found.vae
    assert set(opened) == {"unet", "text_encoder", "vae"}


def test_none(states, tmp_path):
    base = forms.safetensors(tmp_path / "a.safetensors", forms.without(states[0], forms.VAE))
    found = model(tmp_path, base)
    assert found.score("a", size=64).eu.item() == 0
    with pytest.raises(EmoeError, match=r"weights.toml: base: .*a.safetensors has no VAE; name one under vae"):
        found.generate("a", **FEW)
    with pytest.raises(EmoeError, match=r"weights.toml: vae: .*a.safetensors has no VAE"):
        _ = model(tmp_path, base, vae=str(base)).vae


def test_a_broken_one(states, tmp_path):
    vae = forms.vae(states[1])
    vae.pop("decoder.conv_out.bias")
    path = forms.safetensors(tmp_path / "v.safetensors", vae)
    found = model(tmp_path, write(tmp_path, states[0])[0], vae=str(path))
    with pytest.raises(EmoeError, match=r"weights.toml: vae: .*lacks decoder.conv_out.bias"):
        found.generate("a", **FEW)


def test_sd15s_own(states, tmp_path, monkeypatch, caplog):
    """For a base of SD1.5's width; here the small one passes for it."""
    base = forms.safetensors(tmp_path / "a.safetensors", forms.without(states[0], forms.VAE))
    other = forms.hub(tmp_path / "v", forms.unet(states[1]), forms.text(states[1]), forms.vae(states[1]))
    asked = []

    def stock(text, **more):
        asked.append(text)
        return examine(str(other) if text == STOCK else text, **more)

    monkeypatch.setattr("emoe.assemble.STOCK_WIDTH", 64)
    monkeypatch.setattr("emoe.assemble.examine", stock)
    found = model(tmp_path, base)
    assert STOCK not in asked
    assert holds(found.vae, states[1])
    assert f"has no VAE; using the one of {STOCK}" in caplog.text
