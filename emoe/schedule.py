"""From noise to image: the seeded noise, the timesteps, and three ways to take a step between them.

Pure functions on tensors; their numbers are computed in float64. `bar` is the share of the image's variance that is
left at a timestep (the literature's alpha bar): z = sqrt(bar) image + sqrt(1 - bar) noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from emoe.errors import EmoeError

TRAIN_STEPS = 1000
BARS = numpy.cumprod(1 - numpy.linspace(0.00085**0.5, 0.012**0.5, TRAIN_STEPS) ** 2).tolist()


def draws(seed: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """One float32 draw after another, on the CPU whatever the device; the first is where a run starts.

    Every prompt and every path gets the same (common random numbers): what differs is then not the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(shape, generator=generator)


def noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Where the run of a seed starts."""
    return next(draws(seed, shape))


def timesteps(steps: int) -> list[int]:
    """Leading spacing, offset 1: 25 steps give 961, 921, ..., 41, 1."""
    if type(steps) is not int or not 1 <= steps < TRAIN_STEPS:
        raise EmoeError(f"steps is {steps!r}; it must lie between 1 and {TRAIN_STEPS - 1}")
    stride = TRAIN_STEPS // steps
    return [stride * i + 1 for i in reversed(range(steps))]


class Prediction(NamedTuple):
    """What the network makes of z: both parts, as either follows from the other."""

    image: Tensor
    noise: Tensor


def predict(z: Tensor, output: Tensor, t: int, kind: str = "epsilon") -> Prediction:
    """Read the network's output at timestep `t`: by kind the noise ("epsilon"), or a mix of noise and image ("v")."""
    a, s = BARS[t] ** 0.5, (1 - BARS[t]) ** 0.5
    if kind == "v":
        return Prediction(a * z - s * output, a * output + s * z)
    return Prediction((z - s * output) / a, output)


# A step: (timesteps, index, z, prediction now, prediction one step earlier, how to draw noise) -> the next z.
Draw = Callable[[], Tensor]
Step = Callable[[list[int], int, Tensor, Prediction, Prediction | None, Draw], Tensor]


def ddim(ts: list[int], i: int, z: Tensor, now: Prediction, before: Prediction | None, draw: Draw) -> Tensor:
    """Deterministic (eta = 0): the same image, the same noise, less of it."""
    bar = BARS[max(0, _next(ts, i))]
    return bar**0.5 * now.image + (1 - bar) ** 0.5 * now.noise


def ddpm(ts: list[int], i: int, z: Tensor, now: Prediction, before: Prediction | None, draw: Draw) -> Tensor:
    """Ancestral: the mean of the posterior between z and the image, and fresh noise of its (smaller) variance."""
    bar = BARS[ts[i]]
    after = BARS[_next(ts, i)] if _next(ts, i) >= 0 else 1.0
    beta = 1 - bar / after
    mean = after**0.5 * beta / (1 - bar) * now.image + (1 - beta) ** 0.5 * (1 - after) / (1 - bar) * z
    return mean + ((1 - after) / (1 - bar) * beta) ** 0.5 * draw()


def dpm(ts: list[int], i: int, z: Tensor, now: Prediction, before: Prediction | None, draw: Draw) -> Tensor:
    """DPM-Solver++(2M), midpoint, in half the logarithm of the signal-to-noise ratio; it ends on the image itself."""
    if i == len(ts) - 1:
        return now.image
    bar, after = BARS[ts[i]], BARS[ts[i + 1]]
    h = _half_log_snr(after) - _half_log_snr(bar)
    image = now.image
    if before is not None:  # the image predicted for the middle of the step, from the last two
        ratio = (_half_log_snr(bar) - _half_log_snr(BARS[ts[i - 1]])) / h
        image = image + (image - before.image) / (2 * ratio)
    return ((1 - after) / (1 - bar)) ** 0.5 * z - after**0.5 * math.expm1(-h) * image


SCHEDULERS: dict[str, Step] = {"ddim": ddim, "ddpm": ddpm, "dpm++": dpm}


def _next(ts: list[int], i: int) -> int:
    """The timestep that step i leads to; below 0 at the end."""
    return ts[i] - TRAIN_STEPS // len(ts)


def _half_log_snr(bar: float) -> float:
    return 0.5 * math.log(bar / (1 - bar))
