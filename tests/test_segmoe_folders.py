"""Mixtures in SegMoE's form: read as they are, with either gate, and their mistakes."""

from __future__ import annotations

import logging

import forms
import pytest
from folders import fails, segmoe, weights, write
from safetensors.torch import load_file

from emoe.pipeline import EMoE


@pytest.mark.parametrize("layers", ["all", *(pytest.param(other, marks=pytest.mark.slow) for other in ("attn", "ff"))])
def test_a_segmoe_folder(states, tmp_path, layers):
    folder = segmoe(tmp_path / "mixture", states, layers)
    toml = tmp_path / "weights.toml"
    numbers = {}
    for gate in ("hidden", "prompt", "uniform"):
        toml.write_text(f'segmoe = "mixture"\ngate = "{gate}"\n')
        scores = EMoE.from_toml(toml).score(["a red bus"], size=64)
        numbers[gate] = scores.eu.item()
        assert (scores.weights is None) == (gate == "hidden")
    assert len(set(numbers.values())) == 3
    assert min(numbers.values()) > 1e-5
    toml.write_text('segmoe = "mixture"\n')
    assert EMoE.from_toml(toml).score(["a red bus"], size=64).eu.item() == numbers["hidden"]
    assert folder.exists()


def test_segmoe_mistakes(states, tmp_path):
    segmoe(tmp_path / "mixture", states)
    plain = write(tmp_path, states[0])[0]
    toml = tmp_path / "weights.toml"
    toml.write_text('segmoe = "mixture"\ntop = 4\n')
    assert "top is 4, more than there are experts" in fails(toml)
    toml.write_text(f'segmoe = "{plain}"\n')
    assert "segmoe names an SD1.x checkpoint" in fails(toml)
    assert "is a SegMoE mixture already" in fails(weights(tmp_path, plain, plain, tmp_path / "mixture"))


@pytest.mark.slow
def test_a_segmoe_mixture_without_gates(states, tmp_path, caplog):
    folder = segmoe(tmp_path / "mixture", states)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    forms.safetensors(path, {n: t for n, t in load_file(path).items() if not n.endswith("gate.weight")})
    toml = tmp_path / "weights.toml"
    toml.write_text('segmoe = "mixture"\n')
    assert "holds no gate vectors" in fails(toml)
    toml.write_text('segmoe = "mixture"\ngate = "prompt"\n')
    with caplog.at_level(logging.INFO):
        assert EMoE.from_toml(toml).score(["a"], size=64).weights.shape == (1, 3)
