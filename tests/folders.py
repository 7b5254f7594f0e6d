"""Small checkpoints on disk, in the forms that most tests need, and a weights.toml that mixes them."""

from __future__ import annotations

import json
from pathlib import Path

import forms
import pytest
import torch
from conftest import mixture_of

from emoe.assemble import assemble
from emoe.checkpoint.load_unet import load_unet
from emoe.checkpoint.open import open_checkpoint
from emoe.config import read_weights
from emoe.errors import EmoeError
from emoe.unet import UNet

CPU = torch.device("cpu"), torch.float32


def write(folder: Path, *states: forms.State) -> list[Path]:
    return [forms.safetensors(folder / f"{i}.safetensors", state) for i, state in enumerate(states)]


def weights(folder: Path, base: Path, *experts: Path, extra: str = "", keys: str = "") -> Path:
    texts = ("photo", "drawing"), ("anime", "photo"), ("painting", "blurry"), ("x", "y")
    tables = "".join(
        f'[[expert]]\nsource = "{e}"\npositive = "{p}"\nnegative = "{n}"\n{keys}\n'
        for e, (p, n) in zip(experts, texts, strict=False)
    )
    path = folder / "weights.toml"
    path.write_text(f'base = "{base}"\n{extra}\n{tables}', encoding="utf-8")
    return path


def fails(toml: Path) -> str:
    with pytest.raises(EmoeError) as caught:
        assemble(read_weights(toml), *CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def text_part(tmp_path: Path, state: forms.State, **tensors: torch.Tensor | None):
    text = forms.text(state)
    for name, tensor in tensors.items():
        text.pop(name, None)
        if tensor is not None:
            text[name] = tensor
    path = forms.safetensors(
        tmp_path / "text.safetensors", forms.below(state, forms.UNET) | forms.prefixed("te.", text)
    )
    return open_checkpoint(str(path)).parts["text_encoder"]


def segmoe(folder: Path, states: list[forms.State], layers: str = "all") -> Path:
    """A folder in SegMoE's form, gates included."""

    def unet(state):
        found = UNet(load_config)
        found.load_state_dict(
            {n: t.float().reshape(found.get_parameter(n).shape) for n, t in forms.unet(state).items()}
        )
        return found

    path = forms.safetensors(folder / "x.safetensors", states[0])
    load_config = load_unet(open_checkpoint(str(path)), dtype=torch.float32).config
    path.unlink()
    mixed = mixture_of(unet(states[0]), [unet(state) for state in states], layers, gated=True)
    forms.hub(folder, mixed.state_dict(), forms.text(states[0]), {})
    config = folder / "unet" / "config.json"
    experts = [{"source_model": f"{i}", "positive_prompt": f"p{i}", "negative_prompt": f"n{i}"} for i in range(3)]
    told = {"experts": experts, "num_experts_per_tok": 2, "moe_layers": layers, "type": "sd"}
    config.write_text(config.read_text().replace("{", '{"segmoe_config": ' + forms.json.dumps(told) + ",", 1))
    return folder


def change(path: Path, **told: object) -> None:
    """Settings in a JSON file, which need not be there."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | told))
