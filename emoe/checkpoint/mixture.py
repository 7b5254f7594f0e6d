"""The mixture in a UNet that SegMoE saved: its tensors tell how it is built, its config how it is routed."""

from __future__ import annotations

from typing import Any, NamedTuple

from emoe.checkpoint.load_unet import build
from emoe.checkpoint.parts import Part
from emoe.checkpoint.settings import positive
from emoe.moe import layers_of, mixtures

USUAL_TOP = 2  # SegMoE's own, where a config names none


class SavedMixture(NamedTuple):
    experts: int
    layers: str  # "attn", "ff" or "all"
    gates: bool  # whether every mixture has its gate vectors
    top: int
    descriptors: list[tuple[str | None, str | None]]  # of every expert, positive and negative; None where none is told


def saved_mixture(unet: Part) -> SavedMixture | None:
    """None where no layer that SegMoE mixes has experts. EmoeError for a top that is none."""
    found = list(mixtures(empty := build(unet)).values())
    if not found:
        return None
    count = len(found[0].experts)
    told = unet.config.get("segmoe_config")
    told = told if isinstance(told, dict) else {}
    experts = told.get("experts")
    experts = experts if isinstance(experts, list) else []
    return SavedMixture(
        experts=count,
        layers=layers_of(empty),
        gates=all(mixture.gate is not None for mixture in found),
        top=min(count, positive(told, "num_experts_per_tok", USUAL_TOP, unet.where)),
        descriptors=[
            (_text(expert, "positive_prompt"), _text(expert, "negative_prompt"))
            for expert in (experts + [None] * count)[:count]
        ],
    )


def _text(table: Any, key: str) -> str | None:
    value = table.get(key) if isinstance(table, dict) else None
    return value if isinstance(value, str) else None
