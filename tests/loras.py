"""LoRAs by every name that trainers give their matrices, and the checkpoint that they make when merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import forms
import torch
from folders import weights
from torch import Tensor

from emoe.checkpoint.names import unet_to_ldm

RANK = 4
ATTN = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"  # with layers that all forms have
HEAD = f"lora_unet_{ATTN.replace('.', '_')}_to_q"
TEXT = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(RANK, 64)}
Matrices = dict[str, tuple[Tensor, Tensor]]  # layer -> down (rank, in), up (out, rank)


def matrices(state: forms.State, only: str = "", seed: int = 0) -> Matrices:
    """Of every layer in a transformer whose weight is a matrix, the mid-block's and to_out too."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in forms.unet(state).items():
        layer = name.removesuffix(".weight")
        if layer != name and "transformer_blocks" in layer and weight.ndim == 2 and only in layer:
            out, width = weight.shape
            found[layer] = (
                torch.randn(RANK, width, generator=generator) / width**0.5,
                torch.randn(out, RANK, generator=generator) / RANK**0.5 * 0.3,
            )
    return found


def merged(state: forms.State, lora: Matrices, scale: float) -> forms.State:
    """The checkpoint with scale · up @ down added to every layer, in float32."""
    result = forms.wide(state)
    for layer, (down, up) in lora.items():
        name = f"{forms.UNET}{unet_to_ldm(f'{layer}.weight')}"
        result[name] = result[name] + scale * torch.einsum("or,ri->oi", up, down)
    return result


def kohya(layer: str, down: Tensor, up: Tensor, alpha: float = RANK) -> forms.State:
    head = f"lora_unet_{layer.replace('.', '_')}"
    return {f"{head}.lora_down.weight": down, f"{head}.lora_up.weight": up, f"{head}.alpha": torch.tensor(alpha)}


def kohya_ldm(layer: str, down: Tensor, up: Tensor) -> forms.State:
    return kohya(unet_to_ldm(f"{layer}.weight").removesuffix(".weight"), down, up)


def kohya_convolutions(layer: str, down: Tensor, up: Tensor) -> forms.State:
    return kohya(layer, down[:, :, None, None], up[:, :, None, None])


def peft(layer: str, down: Tensor, up: Tensor, head: str = "unet.", name: str = "") -> forms.State:
    return {f"{head}{layer}.lora_A{name}.weight": down, f"{head}{layer}.lora_B{name}.weight": up}


def diffusers_2023(layer: str, down: Tensor, up: Tensor) -> forms.State:
    return {f"unet.{layer}.lora.down.weight": down, f"unet.{layer}.lora.up.weight": up}


def diffusers_old(layer: str, down: Tensor, up: Tensor) -> forms.State:
    """Only attention had them."""
    if ".attn" not in layer:
        return diffusers_2023(layer, down, up)
    above, leaf = layer.removesuffix(".0").rsplit(".", 1)
    head = f"unet.{above}.processor.{leaf}_lora"
    return {f"{head}.down.weight": down, f"{head}.up.weight": up}


SPELLINGS: dict[str, Callable[[str, Tensor, Tensor], forms.State]] = {
    "kohya": kohya,
    "kohya, LDM's names": kohya_ldm,
    "kohya, convolutions": kohya_convolutions,
    "kohya, another alpha": lambda layer, down, up: kohya(layer, down / 8, up, 8 * RANK),
    "LyCORIS": lambda layer, down, up: {
        name.replace("lora_unet_", "lycoris_"): t for name, t in kohya(layer, down, up).items()
    },
    "PEFT": peft,
    "PEFT, of a bare UNet": lambda layer, down, up: peft(layer, down, up, ""),
    "PEFT, its own": lambda layer, down, up: peft(layer, down, up, "base_model.model."),
    "PEFT, by an adapter's name": lambda layer, down, up: peft(layer, down, up, "base_model.model.", ".default"),
    "diffusers 2023": diffusers_2023,
    "diffusers, before": diffusers_old,
    "float16": lambda layer, down, up: {n: t.half() for n, t in kohya(layer, down.half(), up.half()).items()},
}


def save(path: Path, lora: Matrices, spelling: str = "kohya", more: forms.State | None = None, **told: str) -> Path:
    tensors = {n: t for layer, pair in lora.items() for n, t in SPELLINGS[spelling](layer, *pair).items()}
    return forms.safetensors(path, tensors | (more or {}), **told)


def two(folder: Path, files: list[Path], keys: str = "", extra: str = "") -> Path:
    """A mixture of a base and another; both experts have `keys`."""
    return weights(folder, files[0], *files, keys=keys, extra=extra)


def loras(*entries: tuple[str, float]) -> str:
    tables = ", ".join(f'{{ source = "{source}", scale = {scale} }}' for source, scale in entries)
    return f"loras = [{tables}]"
