"""What a split forward shows: all of it, for the baselines, or as much as a score costs.

Axes: e paths, g guidance halves (the negative one first), b prompts, c channels, h w space.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from emoe.gate import PromptGate, phi
from emoe.model import Model
from emoe.schedule import Prediction, noise, predict
from emoe.text import TextStates
from emoe.uncertainty import paths


class Trunk(NamedTuple):
    """What a score costs: the conditional half, up to the mid-block."""

    m_pre: Tensor  # (e, b, c, h/8, w/8) what enters the mid-block
    m_post: Tensor  # the same shape, what leaves it


class Observed(NamedTuple):
    """What the whole UNet, with both guidance halves, shows at one timestep. All float32 or wider."""

    m_pre: Tensor  # (e, b, c, h/8, w/8), conditional half
    m_post: Tensor
    z: Tensor  # (b, 4, h, w) where the paths start
    now: Prediction  # (e, b, 4, h, w) what each path makes of z, guided: image and noise
    unguided: Prediction  # the same, conditional half alone
    timestep: int
    steps: int  # of the run that the timestep is one of: how far the next step goes
    logits: Tensor | None  # (b, e) the gate's; None where it has none of a prompt
    weights: Tensor | None  # (b, e) the route
    direction: Tensor  # (b, c) the prompts' mean text state, at unit length
    tokens: Tensor  # (b,) without marks of start and end


def starting_noise(model: Model, seed: int, size: int | None = None) -> Tensor:
    """(1, 4, h, w), the one that a score starts from. size: pixels a side; None: the checkpoint's own."""
    side = size // model.pixels if size else model.unet.config.sample_size
    return noise(seed, (1, model.unet.config.latent_channels, side, side)).to(model.device)


@torch.inference_mode()
def look(model: Model, text: TextStates, z: Tensor, timestep: int) -> Trunk:
    """z: (1, 4, h, w) for all prompts, or (b, 4, h, w)."""
    z = z.expand(len(text.prompts), -1, -1, -1).to(model.dtype)
    t = torch.tensor([timestep], device=model.device)
    out = model.unet(z, t, text.states.to(model.dtype), model.route(text, None), stop_at_mid=True)
    return Trunk(*(_wide(paths(m, model.gate.experts)) for m in (out.m_pre, out.m_post)))


@torch.inference_mode()
def observe(
    model: Model, text: TextStates, z: Tensor, timestep: int = 961, steps: int = 25, guidance: float = 7.5
) -> Observed:
    """The same place, seen whole. The negative prompt is empty, as in `look`."""
    count = len(text.prompts)
    z = z.expand(count, -1, -1, -1)
    rows = repeat(z, "b ... -> (g b) ...", g=2).to(model.dtype)
    empty = model.encode([""]).states.expand(count, -1, -1)
    states = torch.cat([empty, text.states]).to(model.dtype)
    t = torch.tensor([timestep], device=model.device)
    out = model.unet(rows, t, states, model.route(text, None, halves=2))

    output, m_pre, m_post = (
        _wide(rearrange(m, "(e g b) ... -> g e b ...", g=2, b=count)) for m in (out.noise, out.m_pre, out.m_post)
    )
    guided = output[0] + guidance * (output[1] - output[0])
    return Observed(
        m_pre=m_pre[1],
        m_post=m_post[1],
        z=z,
        now=predict(z, guided, timestep, model.prediction),
        unguided=predict(z, output[1], timestep, model.prediction),
        timestep=timestep,
        steps=steps,
        logits=model.gate.logits(text) if isinstance(model.gate, PromptGate) else None,
        weights=model.gate(text),
        direction=phi(text),
        tokens=text.content.sum(dim=1) - 1,  # an end token is part of the content
    )


def _wide(t: Tensor) -> Tensor:
    return t if t.itemsize > 4 else t.float()
