"""A mixture that SegMoE saved: what weights.toml leaves open of it, its own config and tensors tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from emoe.checkpoint.detect import SEGMOE
from emoe.checkpoint.load_unet import build
from emoe.checkpoint.parts import Checkpoint
from emoe.checkpoint.settings import positive
from emoe.config import Expert, Weights
from emoe.errors import EmoeError
from emoe.moe import layers_of, mixtures


def completed(weights: Weights, base: Checkpoint) -> Weights:
    """The description with experts, layers, gate and top. EmoeError for what is no such mixture."""
    if base.kind.name != SEGMOE:
        raise EmoeError(
            f"{weights.path}: segmoe names {base.kind.name}; name it as base and expert, or a SegMoE folder"
        )
    part = base.parts["unet"]
    empty = build(part)
    if not mixtures(empty):
        raise EmoeError(f"{weights.path}: {base.source} has experts in no layer that SegMoE mixes; use another")
    count = len(next(iter(mixtures(empty).values())).experts)
    told = part.config.get("segmoe_config")
    told = told if isinstance(told, dict) else {}
    descriptors = told.get("experts")
    descriptors = descriptors if isinstance(descriptors, list) else []
    descriptors = (descriptors + [None] * count)[:count]
    gate = weights.gate or "hidden"
    usual = None if gate == "uniform" else min(count, positive(told, "num_experts_per_tok", 2, part.where))
    if gate == "hidden" and any(mixture.gate is None for mixture in mixtures(empty).values()):
        raise EmoeError(f'{weights.path}: {base.source} holds no gate vectors; set gate = "prompt" or "uniform"')
    return replace(
        weights,
        experts=tuple(
            Expert(weights.segmoe, _text_or_none(d, "positive_prompt"), _text_or_none(d, "negative_prompt"))
            for d in descriptors
        ),
        layers=layers_of(empty),
        gate=gate,
        top=weights.top or usual,
    )


def _text_or_none(table: Any, key: str) -> str | None:
    value = table.get(key) if isinstance(table, dict) else None
    return value if isinstance(value, str) else None
