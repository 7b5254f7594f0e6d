"""The denoising loop. With a route that splits it is the paper's Algorithm 1, with any other ordinary sampling.

Axes: p paths (1 before a split, one per expert after it), g guidance halves, b prompts, c channels, h w space.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from emoe.device import wide
from emoe.route import Route
from emoe.schedule import SCHEDULERS, estimate, next_timestep, timesteps
from emoe.unet import UNet


class Denoised(NamedTuple):
    """A step that has been taken, and what was seen on the way (of the conditional half)."""

    index: int  # from 0
    timestep: int
    latents: Tensor  # (p, b, 4, h, w) after the step, float32 or wider
    m_pre: Tensor  # (p, b, c, h/8, w/8)
    m_post: Tensor  # the same shape


@torch.inference_mode()
def denoise(
    unet: UNet,
    noises: Iterator[Tensor],
    text: Tensor,
    negative: Tensor | None,
    route: Route | None,
    *,
    scheduler: str = "ddim",
    steps: int = 25,
    guidance: float = 7.5,
    prediction_type: str = "epsilon",
) -> Iterator[Denoised]:
    """Steps one by one; stop asking and no more are computed.

    noises: (1, 4, h, w) each; the first is where the run starts, DDPM takes one a step.
    text, negative: text states (b, n, c); without `negative` (None) there is no guidance.
    route: over the g·b rows of both halves, the negative one first. Where it splits, the first step does; from then
    on every path is a row of its own, by whose number the route knows that nothing splits again.
    """
    step, ts = SCHEDULERS[scheduler], timesteps(steps)
    states = text if negative is None else torch.cat([negative, text])  # (g·b, n, c)
    prompts, halves = len(text), len(states) // len(text)
    device, dtype = text.device, unet.conv_in.weight.dtype

    def draw() -> Tensor:
        return next(noises).to(device)

    z, before = repeat(draw(), "1 ... -> 1 b ...", b=prompts), None
    for i, t in enumerate(ts):
        rows = repeat(z, "p b ... -> (p g b) ...", g=halves).to(dtype)
        out = unet(rows, torch.tensor([t], device=device), states, route)
        output, m_pre, m_post = (rearrange(m, "(p g b) ... -> g p b ...", g=halves, b=prompts) for m in out)

        output = wide(output)
        guided = output[0] if negative is None else output[0] + guidance * (output[1] - output[0])
        now = estimate(z, guided, t, prediction_type)  # one z becomes p of them at the split
        z = step(t, next_timestep(t, steps), z, now, before, draw)
        before = t, now
        yield Denoised(i, t, z, m_pre[-1], m_post[-1])
