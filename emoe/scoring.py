"""The score of a batch of prompts: gate, route, split forward, variance.

Axes: b prompts, e experts (paths), s seeds, c channels, h w space.
"""

from __future__ import annotations

import torch

from emoe.device import check_finite
from emoe.model import Model
from emoe.schedule import noise
from emoe.scores import Reading, Scores
from emoe.uncertainty import measure, paths


@torch.inference_mode()
def score(model: Model, prompts: list[str], negatives: list[str], reading: Reading) -> Scores:
    """All of them at once. The reading has a size."""
    text = model.encode(prompts)  # (b, 77, c)
    negative = model.encode(negatives) if any(negatives) else None
    route = model.route(text, negative)
    states, t = text.states.to(model.dtype), torch.tensor([reading.timestep], device=model.device)
    side = reading.size // model.pixels
    shape = (1, model.unet.config.latent_channels, side, side)

    m = []
    for seed in range(reading.seed, reading.seed + reading.seeds):
        z = noise(seed, shape).to(model.device, model.dtype)  # the same for every prompt
        out = model.unet(z.expand(len(prompts), -1, -1, -1), t, states, route, stop_at_mid=True)
        m.append(paths(out.m_post if reading.read_out == "post" else out.m_pre, model.gate.experts))
    found = measure(torch.stack(m))  # (s, e, b, c, h, w) -> (b,)

    check_finite(prompts, found.eu, model.dtype)
    return Scores(
        prompts=prompts,
        negative_prompts=negatives,
        eu=found.eu.cpu(),
        uncertainty=found.uncertainty.cpu(),
        relative=found.relative.cpu(),
        aleatoric=found.aleatoric.cpu() if reading.seeds > 1 else None,
        map=found.map.cpu(),
        weights=route.weights,
        reading=reading,
        mixture=model.mixture,
    )
