"""Baselines for which one must know what training was told, and where they stop telling prompts apart.

Axes: b prompts, e experts (paths), r captions, c channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from emoe.gate import phi
from emoe.model import Model
from emoe.study.baselines import distances, paide
from emoe.study.observe import Observed
from emoe.text import TextStates


class Calibration(NamedTuple):
    """What is known from elsewhere: captions like those of training, and how far paths usually are apart."""

    captions: Tensor  # (r, c) directions, as `Observed.direction`
    distance: float  # the median W2 between two paths, over other prompts than those to be judged


def calibration(captions: TextStates, seen: Observed) -> Calibration:
    """captions: what training was told (or as like it as there is).  seen: prompts that are kept apart."""
    between = distances(seen, "W2")
    pairs = torch.triu_indices(*between.shape[-2:], offset=1)
    return Calibration(phi(captions), float(between[:, pairs[0], pairs[1]].median()))


CALIBRATED: dict[str, Callable[[Observed, Calibration], Tensor]] = {
    # KL, Bhattacharyya and W2 are multiples of one another here, so that over their medians they are one
    "PaiDE, D/median": lambda seen, known: paide(distances(seen, "W2"), known.distance),
    "text to mean caption": lambda seen, known: 1 - seen.direction @ known.captions.mean(dim=0),
    "text to nearest caption": lambda seen, known: 1 - (seen.direction @ known.captions.T).max(dim=-1).values,
}


def unheard(model: Model, text: TextStates) -> Tensor:
    """How near a text is to the empty prompt, (b,), cosine: words that the text encoder never learnt say nothing."""
    return phi(text) @ phi(model.encode([""]))[0]


def saturated(value: ArrayLike, experts: int, within: float = 1e-3) -> float:
    """The share of prompts whose PaiDE, (b,), has reached its largest value, ln e, and says no more."""
    return float(numpy.mean(numpy.asarray(value) > math.log(experts) - within))
