"""A LoRA's tensor names -> the UNet's layers. Pure functions on strings, by rule.

Of one layer, `…` standing for down_blocks.0.attentions.0.transformer_blocks.0.attn1, or for what LDM calls it:

    lora_unet_…_to_q.lora_down.weight, .lora_up.weight, .alpha      kohya's: every dot a _
    unet.….to_q.lora_A.weight, .lora_B.weight                       PEFT's, and diffusers' of today
    unet.….to_q.lora.down.weight, .lora.up.weight                   diffusers' of 2023
    unet.….processor.to_q_lora.down.weight, …_lora.up.weight        diffusers' before
    diffusion_model.….to_q.lora_down.weight, .lora_up.weight        ComfyUI's
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
    "lora.down.weight": "down",
    "lora.up.weight": "up",
}
ADAPTER = re.compile(r"(?<=lora_[AB])\.\w+(?=\.weight$)")  # the name of one, that some files keep
SQUASHED = re.compile(r"(?:lora_unet|oft_unet|lycoris)_([^.]+)\.(.+)")
HEAD = re.compile(r"(?:(?:unet|diffusion_model|base_model\.model)\.)+")
DEEPEST = 10  # words of a layer's name
# The text encoder's, and the embeddings that some trainers bundle with a LoRA.
OF_TEXT = re.compile(
    r"lora_te1?_|lycoris_text_model_|text_encoder\.|(text_encoders\.)?clip_l\.|bundle_emb\."
    r"|(base_model\.model\.|te\.)?text_model\."
)


class Place(NamedTuple):
    layer: str  # of the UNet, in our names
    role: str  # "down", "up", "alpha", or what the file calls it


def place_of(name: str) -> Place | None:
    """ "lora_unet_down_blocks_0_…_to_q.lora_up.weight" -> ("down_blocks.0.….to_q", "up"); None: SD1.x has no such."""
    if squashed := SQUASHED.fullmatch(name):
        return _place(_squashed_layers().get(squashed[1]), squashed[2])
    dotted = HEAD.sub("", name, count=1) if HEAD.match(name) else name
    dotted = re.sub(r"\.processor\.(to_[a-z]+)_lora\.", r".\1.lora.", dotted)
    words = re.sub(r"\.to_out\.(?!0\.)", ".to_out.0.", dotted).split(".")
    for length in range(min(len(words) - 1, DEEPEST), 0, -1):
        if layer := _dotted_layers().get(".".join(words[:length])):
            return _place(layer, ".".join(words[length:]))
    return None


def _place(layer: str | None, role: str) -> Place | None:
    role = ADAPTER.sub("", role)
    return layer and Place(layer, ROLES.get(role, role))


@cache
def _dotted_layers() -> dict[str, str]:
    """The layers with weights of an SD1.5 UNet, by our names and by LDM's -> by ours."""
    with torch.device("meta"):
        layers = [name for name, module in UNet().named_modules() if list(module.parameters(recurse=False))]
    return {name: name for name in layers} | {_in_ldm(name): name for name in layers}


@cache
def _squashed_layers() -> dict[str, str]:
    return {name.replace(".", "_"): ours for name, ours in _dotted_layers().items()}


def _in_ldm(layer: str) -> str:
    return unet_to_ldm(f"{layer}.weight").removesuffix(".weight")
