"""Other numbers from the same split trunk, at the same cost as the paper's.

Experts differ in what they were made for, whatever the prompt. What they make of the empty prompt shows that; it is the
same for all prompts, so it is computed once, and what is left without it is their disagreement about this prompt.

Axes: e paths, b prompts, c channels, h w space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from emoe.device import wide
from emoe.model import Model
from emoe.text import TextStates
from emoe.uncertainty import by_path, population_variance


class Trunk(NamedTuple):
    """What a score costs: the conditional half, up to the mid-block."""

    m_pre: Tensor  # (e, b, c, h/8, w/8) what enters the mid-block
    m_post: Tensor  # the same shape, what leaves it


@torch.inference_mode()
def look(model: Model, text: TextStates, z: Tensor, timestep: int) -> Trunk:
    """z: (1, 4, h, w) for all prompts, or (b, 4, h, w)."""
    z = z.expand(len(text.prompts), -1, -1, -1).to(model.dtype)
    t = torch.tensor([timestep], device=model.device)
    out = model.unet(z, t, text.states.to(model.dtype), model.route(text, None), stop_at_mid=True)
    return Trunk(*(wide(by_path(m, model.gate.experts)) for m in (out.m_pre, out.m_post)))


def parts(m: Tensor, empty: Tensor) -> dict[str, Tensor]:
    """What the estimators are put together from, each (b,); over several seeds, their means.

    m: (e, b, c, h, w) at the mid-block.  empty: (e, 1, c, h, w), the same of the empty prompt.
    """
    answer = m - empty
    return {
        "variance": _variance(m).mean(dim=(1, 2, 3)),
        "power": _power(m).mean(dim=(1, 2, 3)),
        "by channel": (_variance(m).mean(dim=(2, 3)) / _power(m).mean(dim=(2, 3))).mean(dim=1),
        "angle": _angle(m),
        "answer's variance": _variance(answer).mean(dim=(1, 2, 3)),
        "answer's power": _power(answer).mean(dim=(1, 2, 3)),
        "answer's angle": _angle(answer),
    }


# Higher is more uncertain.
ESTIMATORS: dict[str, Callable[[Mapping[str, Tensor]], Tensor]] = {
    "eu": lambda part: part["variance"],  # Eq. 8
    "relative": lambda part: part["variance"] / part["power"],
    "by channel": lambda part: part["by channel"],  # as relative, every channel on its own scale
    "angle": lambda part: part["angle"],  # 1 - mean cosine between two paths
    "answer": lambda part: part["answer's variance"],  # eu of what the prompt changes
    "relative answer": lambda part: part["answer's variance"] / part["answer's power"],
    "answer's angle": lambda part: part["answer's angle"],
    "eu over answer": lambda part: part["variance"] / part["answer's power"],
    "silence": lambda part: -part["answer's power"],  # the control: no disagreement, only how little the prompt changes
}


def _variance(m: Tensor) -> Tensor:
    """Over the paths, (b, c, h, w)."""
    return population_variance(m, dim=0)


def _power(m: Tensor) -> Tensor:
    """The square of the paths' mean, (b, c, h, w)."""
    return m.mean(dim=0).square()


def _angle(m: Tensor) -> Tensor:
    """1 - the mean cosine between two different paths, (b,)."""
    count = len(m)
    unit = normalize(m.flatten(2), dim=-1)  # (e, b, d)
    together = unit.sum(dim=0).square().sum(dim=-1)  # all pairs, with each path itself
    return 1 - (together - unit.square().sum(dim=(0, 2))) / (count * (count - 1))


def join(seeds: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The parts of several seeds, as one."""
    return {name: torch.stack([part[name] for part in seeds]).mean(dim=0) for name in seeds[0]}
