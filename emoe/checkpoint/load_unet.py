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
from torch import Tensor

from emoe.checkpoint.architecture import unet_config
from emoe.checkpoint.detect import SEGMOE
from emoe.checkpoint.parts import Checkpoint, Part
from emoe.errors import EmoeError
from emoe.moe import is_gate, mix, mixed_layers, origin
from emoe.unet import UNet

log = logging.getLogger("emoe")

MOST_EXPERTS = 64


def load_unet(checkpoint: Checkpoint, **to: Any) -> UNet:
    """One checkpoint's UNet: dense, or with the mixtures and gates that SegMoE saved in it.

    to: device and dtype.
    """
    part = checkpoint.parts["unet"]
    unet = build(part)
    check(part, unet)
    return _fill(unet, {name: (checkpoint, name) for name in unet.state_dict()}, {}, **to)


def load_mixture(base: Checkpoint, experts: Sequence[Checkpoint], layers: str, gated: bool = False, **to: Any) -> UNet:
    """The base's UNet, its `layers` ("attn", "ff" or "all") replaced by mixtures of the experts'.

    Of experts that are not the base only the mixed tensors are read; an expert that is (the same object), and any
    checkpoint that comes twice, is read once. Gate vectors, where asked for, are zero yet. to: device and dtype.
    """
    unet = build(base.parts["unet"])
    for checkpoint in _distinct(base, *experts):
        if checkpoint.kind.name == SEGMOE:
            raise EmoeError(f"{checkpoint.source} is a SegMoE mixture already; name it under `segmoe`, alone")
        check(checkpoint.parts["unet"], unet, "SD1.5's" if checkpoint is base else "the base's")
        if checkpoint.prediction_type != base.prediction_type:  # then features mean something else
            log.warning(
                "%s predicts %s, the base %s; where they disagree may say more of that than of the prompt",
                *(checkpoint.source, checkpoint.prediction_type, base.prediction_type),
            )
    mix(unet, len(experts), layers, gated)
    sources, vectors = {}, {}
    for name, tensor in unet.state_dict().items():
        if is_gate(name):
            vectors[name] = torch.zeros(tensor.shape, **to)
        else:
            expert, original = origin(name)
            sources[name] = (base if expert is None else experts[expert], original)
    return _fill(unet, sources, vectors, **to)


def build(part: Part) -> UNet:
    """An empty UNet of the part's shape, with mixtures where its names have them."""
    found = [m for name in part.places if (m := re.search(r"\.(to_q|ff)\.experts\.(\d{1,4})\.", name))]
    experts = 1 + max((int(m[2]) for m in found), default=0)
    if experts > MOST_EXPERTS:
        raise EmoeError(f"{part.where}: its names count {experts} experts; the file is broken, use another")
    with torch.device("meta"):
        unet = UNet(unet_config(part.shapes, part.config, part.where))
        if found:
            leaves = {m[1] for m in found}
            layers = "all" if len(leaves) == 2 else "ff" if "ff" in leaves else "attn"
            mix(unet, experts, layers, gated=any(map(is_gate, part.places)))
    return unet


def check(part: Part, unet: UNet, whose: str = "SD1.5's") -> None:
    """EmoeError unless the part has exactly the tensors of `unet`, and heads and groups that its config.json says."""
    for problem in part.problems(shapes_of(unet)):
        raise EmoeError(f"{part.where}: its UNet is not like {whose}: it {problem}; use another file")
    if part.config:  # heads and groups do not show in shapes
        config = unet_config(part.shapes, part.config, part.where)
        for name in ("heads", "groups"):
            theirs, ours = getattr(config, name), getattr(unet.config, name)
            if theirs != ours:
                raise EmoeError(f"{part.where}: its UNet has {theirs} {name}, {whose} has {ours}; they do not mix")


def mixed_shapes(unet: UNet, layers: str) -> dict[str, tuple[int, ...]]:
    """The layers that an expert brings to a mixture in this dense UNet, and the shapes of their weights."""
    heads = tuple(f"{name}." for name in mixed_layers(unet, layers))
    weights = {name: shape for name, shape in shapes_of(unet).items() if name.endswith(".weight")}
    return {name.removesuffix(".weight"): shape for name, shape in weights.items() if name.startswith(heads)}


def shapes_of(unet: UNet) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}


def _fill(unet: UNet, sources: Mapping[str, tuple[Checkpoint, str]], state: dict[str, Tensor], **to: Any) -> UNet:
    """Give every tensor of `unet` its value.

    sources: name -> the checkpoint that has it, its name there.  state: those tensors that none has.
    """
    shapes = shapes_of(unet)
    for checkpoint in _distinct(*(owner for owner, _ in sources.values())):
        wanted = defaultdict(list)  # a tensor of the checkpoint -> the places it goes to
        for name, (owner, original) in sources.items():
            if owner is checkpoint:
                wanted[original].append(name)
        for original, names in wanted.items():
            tensor = checkpoint.parts["unet"].read(original, shapes[names[0]], **to)
            state |= dict.fromkeys(names, tensor)
        checkpoint.release()
    unet.load_state_dict(state, strict=True, assign=True)
    return unet.eval().requires_grad_(False)


def _distinct(*checkpoints: Checkpoint) -> list[Checkpoint]:
    return list({id(checkpoint): checkpoint for checkpoint in checkpoints}.values())
