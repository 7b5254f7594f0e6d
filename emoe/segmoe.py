"""SegMoE's mixtures: what weights.toml leaves open of one that it saved, and a folder in its form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from emoe.atomic import atomic, check_new
from emoe.checkpoint.detect import SEGMOE
from emoe.checkpoint.mixture import saved_mixture
from emoe.checkpoint.parts import Checkpoint
from emoe.checkpoint.save import save_pipeline
from emoe.checkpoint.source import plain
from emoe.config import Expert, Weights
from emoe.errors import EmoeError
from emoe.model import Model
from emoe.moe import layers_of


def with_saved_settings(weights: Weights, base: Checkpoint) -> Weights:
    """The description with experts, layers, gate and top. EmoeError for what is no such mixture."""
    if base.kind.name != SEGMOE:
        raise EmoeError(
            f"{weights.path}: segmoe names {base.kind.name}; name it as base and expert, or a SegMoE folder"
        )
    saved = saved_mixture(base.parts["unet"])
    if saved is None:
        raise EmoeError(f"{weights.path}: {base.source} has experts in no layer that SegMoE mixes; use another")
    gate = weights.gate or "hidden"
    if gate == "hidden" and not saved.gates:
        raise EmoeError(f'{weights.path}: {base.source} holds no gate vectors; set gate = "prompt" or "uniform"')
    return replace(
        weights,
        experts=tuple(Expert(weights.segmoe, *told) for told in saved.descriptors),
        layers=saved.layers,
        gate=gate,
        top=weights.top or (None if gate == "uniform" else saved.top),
    )


def save_segmoe(model: Model, folder: Path, base: str, dtype: torch.dtype = torch.float16) -> None:
    """Write a folder that SegMoE's loader reads, and ours; it appears when it is whole.

    model: with a hidden gate.  base: where the rest comes from, for the record.  dtype: of the files.
    """
    check_new(folder)
    vae = model.vae
    with atomic(folder) as new:
        new.mkdir()
        told = {"segmoe_config": _segmoe_config(model, base)}
        save_pipeline(new, model.unet, vae, model.text, model.prediction_type, dtype, **told)


def _segmoe_config(model: Model, base: str) -> dict[str, Any]:
    levels, with_attention = len(model.unet.config.channels), sum(model.unet.config.attention)
    return {
        "base_model": base,
        "experts": [
            {
                "source_model": plain(expert.source),
                "positive_prompt": expert.positive,
                "negative_prompt": expert.negative,
                "loras": [{"source": plain(lora.source), "scale": lora.scale} for lora in expert.loras],
            }
            for expert in model.experts
        ],
        "moe_layers": layers_of(model.unet),
        "num_experts": model.gate.experts,
        "num_experts_per_tok": model.gate.top,
        "type": "sd",
        # the levels with mixtures: the first ones on the way down, the last ones on the way up
        "down_idx_start": 0,
        "down_idx_end": with_attention,
        "up_idx_start": levels - with_attention,
        "up_idx_end": levels,
    }
