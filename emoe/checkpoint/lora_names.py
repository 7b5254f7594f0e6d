"""A LoRA's tensor names -> the UNet's layers. Pure functions on strings, by rule.

Of one layer, `…` standing for down_blocks.0.attentions.0.transformer_blocks.0.attn1:

    lora_unet_…_to_q.lora_down.weight, .lora_up.weight, .alpha      kohya's: every dot a _, in our names or LDM's
    unet.….to_q.lora_A.weight, .lora_B.weight                       PEFT's, and diffusers' of today
    unet.….to_q.lora.down.weight, .lora.up.weight                   diffusers' of 2023
    unet.….processor.to_q_lora.down.weight, …_lora.up.weight        diffusers' before
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import torch

from emoe.checkpoint.names import unet_to_ldm
from emoe.unet import UNet

ROLES = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",  # of an adapter that was saved by its name
    "lora_B.default.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
}
SQUASHED = re.compile(r"(?:lora_unet|lycoris)_([^.]+)\.(.+)")
DOTTED = re.compile(r"(?:base_model\.model\.)?(?:unet\.)?(.+)")
OF_TEXT = re.compile(r"lora_te1?_|text_encoder\.|(base_model\.model\.)?text_model\.")


class Place(NamedTuple):
    layer: str  # of the UNet, in our names
    role: str  # "down", "up", "alpha", or what the file calls it


def place_of(name: str) -> Place | None:
    """ "lora_unet_down_blocks_0_…_to_q.lora_up.weight" -> ("down_blocks.0.….to_q", "up"); None: SD1.x has no such."""
    if squashed := SQUASHED.fullmatch(name):
        layer, role = _squashed_layers().get(squashed[1]), squashed[2]
        return Place(layer, ROLES.get(role, role)) if layer else None
    dotted = re.sub(r"\.processor\.(to_[a-z]+)_lora\.", r".\1.lora.", DOTTED.fullmatch(name)[1])
    words = re.sub(r"\.to_out\.(?!0\.)", ".to_out.0.", dotted).split(".")
    for length in range(len(words) - 1, 0, -1):
        layer, role = ".".join(words[:length]), ".".join(words[length:])
        if layer in _layers():
            return Place(layer, ROLES.get(role, role))
    return None


@cache
def _layers() -> frozenset[str]:
    """The layers with weights of an SD1.5 UNet."""
    with torch.device("meta"):
        return frozenset(name for name, module in UNet().named_modules() if list(module.parameters(recurse=False)))


@cache
def _squashed_layers() -> dict[str, str]:
    """Every dot a _, in our names and in LDM's."""
    return {theirs.replace(".", "_"): ours for ours in _layers() for theirs in (ours, _in_ldm(ours))}


def _in_ldm(layer: str) -> str:
    return unet_to_ldm(f"{layer}.weight").removesuffix(".weight")
