"""The score of a batch of prompts: gate, route, split forward, variance.

Axes: b prompts, e experts (paths), s seeds, c channels, h w space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emoe.device import check_finite
from emoe.errors import EmoeError
from emoe.model import Model
from emoe.route import Route
from emoe.scores import Reading, Scores
from emoe.text import TextStates
from emoe.uncertainty import by_path, measure


@torch.inference_mode()
def score(
    model: Model, prompts: list[str], negatives: list[str], reading: Reading, m_empty: Tensor | None = None
) -> Scores:
    """All of them at once. The reading has a size.

    m_empty: what `mid_of_empty` returned for the whole list, so that batches share it; None computes it here.
    """
    text = model.encode(prompts)  # (b, 77, c)
    negative = model.encode(negatives) if any(negatives) else None
    route = model.route(text, negative)
    m = mid_activations(model, text, route, reading)
    if m_empty is None:
        m_empty = mid_of_empty(model, reading, prompts)
    found = measure(m, m_empty)  # (s, e, b, c, h, w) -> (b,)
    for values in (found.eu, found.uncertainty):
        check_finite(prompts, values, model.dtype)
    return Scores(
        prompts=prompts,
        negative_prompts=negatives,
        eu=found.eu.cpu(),
        uncertainty=found.uncertainty.cpu(),
        relative=found.relative.cpu(),
        aleatoric=found.aleatoric.cpu() if reading.seeds > 1 else None,
        by_seed=found.by_seed.cpu() if reading.seeds > 1 else None,
        shares=found.shares.cpu(),
        map=found.map.cpu(),
        weights=route.weights,
        truncated=text.truncated,
        reading=reading,
        mixture=model.mixture,
    )


def mid_activations(model: Model, text: TextStates, route: Route, reading: Reading) -> Tensor:
    """Every path's activation where the reading says (after or before the mid-block), (s, e, b, c, h, w)."""
    states, t = text.states.to(model.dtype), torch.tensor([reading.timestep], device=model.device)
    m = []
    for seed in range(reading.seed, reading.seed + reading.seeds):
        z = model.noise(seed, reading.size).to(model.dtype)  # the same for every prompt
        out = model.unet(z.expand(len(states), -1, -1, -1), t, states, route, stop_at_mid=True)
        m.append(by_path(out.m_post if reading.read_out == "post" else out.m_pre, model.gate.experts))
    return torch.stack(m)


@torch.inference_mode()
def mid_of_empty(model: Model, reading: Reading, prompts: Sequence[str]) -> Tensor | None:
    """The empty prompt's activation, (s, e, 1, c, h, w), which "eu-over-answer" needs; None for "eu".

    EmoeError if one of the prompts is empty, too.
    """
    if reading.estimator != "eu-over-answer":
        return None
    check_not_empty(model, prompts)
    text = model.encode([""])
    return mid_activations(model, text, model.route(text, None), reading)


def check_not_empty(model: Model, prompts: Sequence[str]) -> None:
    """EmoeError for a prompt that "eu-over-answer" cannot read: it changes nothing, so there is no answer to it."""
    for prompt, empty in zip(prompts, model.text.empty(prompts), strict=True):
        if empty:
            raise EmoeError(
                f"the prompt {prompt!r} is empty, and estimator 'eu-over-answer' holds prompts against the empty one; "
                "leave it out, or take 'eu'"
            )
