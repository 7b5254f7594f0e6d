"""Checkpoints -> a UNet with mixtures in it: streamed, strict, one copy of the weights.

The network is built on the meta device, where it weighs nothing, and takes the files' tensors over one by one.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from emoe.checkpoint.architecture import unet_config
from emoe.checkpoint.checkpoint import Checkpoint, Part
from emoe.checkpoint.detect import SEGMOE
from emoe.errors import EmoeError
from emoe.moe import mix, origin
from emoe.unet import UNet

log = logging.getLogger("emoe")


def load_unet(checkpoint: Checkpoint, **to: Any) -> UNet:
    """One checkpoint's UNet: dense, or with the mixtures and gates that SegMoE saved in it.

    to: device and dtype.
    """
    unet = build(checkpoint.part("unet"))
    _check(checkpoint.part("unet"), shapes_of(unet), "SD1.5's")
    return _fill(unet, {name: (checkpoint, name) for name in unet.state_dict()}, **to)


def load_mixture(base: Checkpoint, experts: Sequence[Checkpoint], layers: str, **to: Any) -> UNet:
    """The base's UNet, its `layers` ("attn", "ff" or "all") replaced by mixtures of the experts'.

    Of experts that are not the base only the mixed tensors are read; an expert that is (the same object), and any
    checkpoint that comes twice, is read once. to: device and dtype.
    """
    unet = build(base.part("unet"))
    for checkpoint in _distinct(base, *experts):
        if checkpoint.kind.name == SEGMOE:
            raise EmoeError(f"{checkpoint.source} is a SegMoE mixture already; name it under `segmoe`, alone")
        _check(checkpoint.part("unet"), shapes_of(unet), "the base's" if checkpoint is not base else "SD1.5's")
        if checkpoint.prediction != base.prediction:
            log.warning(
                "%s predicts %s, the base %s; mixing them makes little sense",
                *(checkpoint.source, checkpoint.prediction, base.prediction),
            )
    mix(unet, len(experts), layers)
    sources = {}
    for name in unet.state_dict():
        expert, original = origin(name)
        sources[name] = (base if expert is None else experts[expert], original)
    return _fill(unet, sources, **to)


def build(part: Part) -> UNet:
    """An empty UNet of the part's shape, with mixtures where its names have them."""
    with torch.device("meta"):
        unet = UNet(unet_config(part.shapes, part.config, part.where))
        mixed = {m[1]: int(m[2]) for name in part.places if (m := re.search(r"\.(to_q|ff)\.experts\.(\d+)\.", name))}
        if mixed:
            layers = "all" if len(mixed) == 2 else "ff" if "ff" in mixed else "attn"
            experts = 1 + max(int(m[1]) for name in part.places if (m := re.search(r"\.experts\.(\d+)\.", name)))
            mix(unet, experts, layers, gated=any(name.endswith(".gate.weight") for name in part.places))
    return unet


def shapes_of(unet: UNet) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}


def _check(part: Part, expected: Mapping[str, tuple[int, ...]], whose: str) -> None:
    """EmoeError unless the part has exactly the expected tensors."""
    for problem in part.problems(expected):
        raise EmoeError(f"{part.where}: its UNet is not like {whose}: it {problem}; use another file")


def _fill(unet: UNet, sources: Mapping[str, tuple[Checkpoint, str]], **to: Any) -> UNet:
    """Give every tensor of `unet` its value. sources: name -> the checkpoint that has it, its name there."""
    shapes, state = shapes_of(unet), {}
    for checkpoint in _distinct(*(owner for owner, _ in sources.values())):
        wanted = defaultdict(list)  # a tensor of the checkpoint -> the places it goes to
        for name, (owner, original) in sources.items():
            if owner is checkpoint:
                wanted[original].append(name)
        for original, names in wanted.items():
            tensor = checkpoint.part("unet").read(original, shapes[names[0]], **to)
            state |= dict.fromkeys(names, tensor)
        checkpoint.release()
    unet.load_state_dict(state, strict=True, assign=True)
    return unet.eval().requires_grad_(False)


def _distinct(*checkpoints: Checkpoint) -> list[Checkpoint]:
    return list({id(checkpoint): checkpoint for checkpoint in checkpoints}.values())
