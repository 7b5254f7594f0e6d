"""Whose VAE draws: the one named under `vae`, else the base's, else SD1.5's own; and none while scoring."""

from __future__ import annotations

import json
from pathlib import Path

import forms
import pytest
import torch
from conftest import THREE_LEVELS, random_vae
from folders import weights, write

from emoe import EMoE, EmoeError
from emoe.assemble import STOCK
from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.open import examine
from emoe.vae import VAEConfig

FEW = {"mode": "mixture", "steps": 1, "size": 64}


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
        WeightsFile,
        "__init__",
        lambda self, path, inner: opened.append(path.parent.name) or original(self, path, inner),
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


# Other than four levels ----------------------------------------------------------------------------------------------


def small(folder: Path, state: forms.State, levels: int | None = 3) -> Path:
    """In the Hub's layout, for 16 latents a side. Its VAE has three levels, and `levels` as its config tells."""
    forms.hub(folder, forms.unet(state), forms.text(state), random_vae(THREE_LEVELS).state_dict())
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"sample_size": 16}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    if levels is not None:
        (folder / "vae" / "config.json").write_text(json.dumps({"block_out_channels": [32, 64, 128, 128][:levels]}))
    return folder


def latents_of(found: EMoE) -> list[tuple[int, ...]]:
    """The heights and widths that the UNet is given from now on."""
    seen = []
    found.unet.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[-2:])))
    return seen


def test_three_levels(states, tmp_path):
    found = model(tmp_path, small(tmp_path / "a", states[0]))
    seen = latents_of(found)
    scores = found.score("a")
    assert (scores.reading.size, scores.map.shape) == (64, (1, 2, 2))
    assert "vae" not in vars(found)  # it has not been loaded
    assert found.generate("a", mode="fast", steps=2)[0].images[0].size == (64, 64)
    assert found.generate("a", mode="mixture", steps=1, size=128)[0].images[0].size == (128, 128)
    assert seen == [(16, 16)] * 4 + [(32, 32)]


@pytest.mark.slow
def test_a_vae_of_three_levels_for_another_base(states, tmp_path):
    base, other = write(tmp_path, states[0])[0], small(tmp_path / "a", states[1])
    own = model(tmp_path, base)
    for folder in (other, other / "vae"):
        found = model(tmp_path, base, vae=str(folder))
        assert (found.downsampling, own.downsampling) == (4, 8)
        assert found.generate("a", **FEW)[0].images[0].size == (64, 64)
        assert found.mixture != own.mixture  # a size means other latents, so that scores do not compare


def test_a_single_file_with_a_vae_of_three_levels(states, tmp_path):
    vae = {f"{forms.VAE}{name}": tensor for name, tensor in random_vae(THREE_LEVELS).state_dict().items()}
    base = forms.safetensors(tmp_path / "a.safetensors", forms.without(states[0], forms.VAE) | vae)
    found = model(tmp_path, base)
    assert found.downsampling == 4
    assert found.generate("a", **FEW)[0].images[0].size == (64, 64)


@pytest.mark.parametrize(("levels", "expected"), [(None, 8), (4, 8), (2, 2)])
def test_a_vae_of_other_levels_than_its_config_tells(states, tmp_path, levels, expected):
    """Scores have been read by then, of latents that this VAE does not draw."""
    found = model(tmp_path, small(tmp_path / "a", states[0], levels))
    assert found.score("a", size=64).eu.item() == 0
    sentence = f"^the VAE makes 4 pixels of a latent one, and {expected} were expected: .*$"  # in one line
    with pytest.raises(EmoeError, match=sentence):
        found.generate("a", **FEW)


def test_a_vae_of_other_latents(states, tmp_path):
    """As those of later models are."""
    vae = random_vae(VAEConfig(channels=(32, 64, 128, 128), latent_channels=16))
    other = forms.safetensors(tmp_path / "v.safetensors", vae.state_dict())
    with pytest.raises(EmoeError, match="the VAE reads latents of 16 channels, the UNet draws 4"):
        model(tmp_path, write(tmp_path, states[0])[0], vae=str(other)).generate("a", **FEW)


@pytest.mark.parametrize("widths", [[32], [32] * 7, "32", 3, {}])
def test_configs_of_no_vae(states, tmp_path, widths):
    folder = small(tmp_path / "a", states[0])
    (folder / "vae" / "config.json").write_text(json.dumps({"block_out_channels": widths}))
    sentence = r"weights.toml: base: .*a: its config.json sets block_out_channels to .* than a list of 2 to 6 widths"
    with pytest.raises(EmoeError, match=sentence):
        model(tmp_path, folder)


@pytest.mark.parametrize(("levels", "step"), [(5, 128), (6, 256)])
def test_sizes_that_leave_the_unet_too_little(states, tmp_path, levels, step):
    folder = small(tmp_path / "a", states[0])
    (folder / "vae" / "config.json").write_text(json.dumps({"block_out_channels": [32] * levels}))
    found = model(tmp_path, folder)
    for ask in (found.score, found.generate):
        with pytest.raises(EmoeError, match=f"size is 64 pixels; with .* VAE it must be a multiple of {step}"):
            ask("a", size=64)
    assert found.score("a", size=step).map.shape == (1, 1, 1)
