"""Where a run starts: the seeded noise and the timesteps."""

from __future__ import annotations

import torch
from torch import Tensor

from emoe.errors import EmoeError

TRAIN_STEPS = 1000


def noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """One float32 draw per seed, on the CPU, whatever the device: every prompt starts from the same noise.

    Common random numbers: a difference between two prompts is then the prompts'.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def timesteps(steps: int) -> list[int]:
    """Leading spacing, offset 1: 25 steps give 961, 921, ..., 41, 1."""
    if type(steps) is not int or not 1 <= steps < TRAIN_STEPS:
        raise EmoeError(f"steps is {steps!r}; it must lie between 1 and {TRAIN_STEPS - 1}")
    stride = TRAIN_STEPS // steps
    return [stride * i + 1 for i in reversed(range(steps))]
