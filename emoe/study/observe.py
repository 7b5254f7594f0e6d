"""What a split forward shows, all of it: for the baselines.

Axes: e paths, g guidance halves (the negative one first), b prompts, c channels, h w space.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from emoe.device import wide
from emoe.gate import PromptGate, phi
from emoe.model import Model
from emoe.schedule import Estimate, estimate, next_timestep
from emoe.text import TextStates
from emoe.uncertainty import by_path


class Observed(NamedTuple):
    """What the whole UNet, with both guidance halves, shows at one timestep. All float32 or wider."""

    m_pre: Tensor  # (e, b, c, h/8, w/8), conditional half
    m_post: Tensor
    m_empty: Tensor  # (e, 1, c, h/8, w/8) m_post of the empty prompt, by its own route
    z: Tensor  # (b, 4, h, w) where the paths start
    now: Estimate  # (e, b, 4, h, w) what each path makes of z, guided: image and noise
    unguided: Estimate  # the same, conditional half alone
    timestep: int
    to: int  # the timestep that the run's next step leads to
    logits: Tensor | None  # (b, e) the gate's; None where it has none of a prompt
    weights: Tensor | None  # (b, e) the route
    direction: Tensor  # (b, c) the prompts' mean text state, at unit length
    tokens: Tensor  # (b,) without marks of start and end


@torch.inference_mode()
def observe(
    model: Model, text: TextStates, z: Tensor, timestep: int = 961, steps: int = 25, guidance: float = 7.5
) -> Observed:
    """z: (1, 4, h, w).  steps: of the run that the timestep is one of. The negative prompt is empty."""
    count, empty = len(text.prompts), model.encode([""])
    t = torch.tensor([timestep], device=model.device)
    of_empty = model.unet(
        z.to(model.dtype), t, empty.states.to(model.dtype), model.route(empty, None), stop_at_mid=True
    )

    z = z.expand(count, -1, -1, -1)
    rows = repeat(z, "b ... -> (g b) ...", g=2).to(model.dtype)
    states = torch.cat([empty.states.expand(count, -1, -1), text.states]).to(model.dtype)
    out = model.unet(rows, t, states, model.route(text, None, halves=2))

    output, m_pre, m_post = (
        wide(rearrange(m, "(e g b) ... -> g e b ...", g=2, b=count)) for m in (out.prediction, out.m_pre, out.m_post)
    )
    guided = output[0] + guidance * (output[1] - output[0])
    return Observed(
        m_pre=m_pre[1],
        m_post=m_post[1],
        m_empty=wide(by_path(of_empty.m_post, model.gate.experts)),
        z=z,
        now=estimate(z, guided, timestep, model.prediction_type),
        unguided=estimate(z, output[1], timestep, model.prediction_type),
        timestep=timestep,
        to=next_timestep(timestep, steps),
        logits=model.gate.logits(text) if isinstance(model.gate, PromptGate) else None,
        weights=model.gate(text),
        direction=phi(text),
        tokens=text.content.sum(dim=1) - 1,  # an end token is part of the content
    )
