"""What a prompt costs, in counted operations: the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from emoe.generating import denoising_steps
from emoe.generations import Recipe
from emoe.pipeline import EMoE
from emoe.scores import Reading
from emoe.scoring import mid_of_empty, score

Row = dict[str, Any]

# Attention as a CPU computes it, which the counter does not know.
ON_A_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
}


def cost(model: EMoE, prompt: str, reading: Reading, recipe: Recipe, kept: float) -> list[Row]:
    """Of a score, of an image by the ordinary mixture, and of one by every path.

    kept: bytes of a score's record.
    """
    one_seed = replace(reading, seeds=1)
    m_empty = mid_of_empty(model, one_seed, [prompt])  # once a list
    one = counted(lambda: score(model, [prompt], [""], one_seed, m_empty)) * reading.seeds
    mixture = recipe.steps * _step(model, prompt, replace(recipe, mode="mixture", steps=1))
    first = _step(model, prompt, replace(recipe, mode="emoe", steps=1))
    later = (recipe.steps - 1) * model.gate.experts * mixture / recipe.steps
    rows = [("score", one), ("image of the mixture", mixture), ("one image of every path", first + later)]
    return [{"what": name, "GFLOP": n / 1e9, "times a score": n / one} for name, n in rows] + [
        {"what": "bytes kept of a score", "GFLOP": "", "times a score": "", "bytes": round(kept)}
    ]


def _step(model: EMoE, prompt: str, recipe: Recipe) -> float:
    return counted(lambda: list(denoising_steps(model, [prompt], [""], recipe)))


def counted(run: Callable[[], object]) -> float:
    """Operations of the matrix products, convolutions and attentions."""
    with FlopCounterMode(display=False, custom_mapping=ON_A_CPU) as counter, torch.inference_mode():
        run()
    return float(counter.get_total_flops())
