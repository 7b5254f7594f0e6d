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

from emoe import choices
from emoe.errors import EmoeError, whole_number

TRAIN_STEPS = 1000
BARS = numpy.cumprod(1 - numpy.linspace(0.00085**0.5, 0.012**0.5, TRAIN_STEPS) ** 2).tolist()


def noises(seed: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """One float32 draw after another, on the CPU whatever the device; the first is where a run starts.

    Every prompt and every path gets the same (common random numbers): what differs is then not the noise.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    while True:  # dtype and device are said, because a caller's defaults may be others
        yield torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Where the run of a seed starts."""
    return next(noises(seed, shape))


def timesteps(steps: int) -> list[int]:
    """Leading spacing, offset 1: 25 steps give 961, 921, ..., 41, 1."""
    if not 1 <= whole_number("steps", steps) < TRAIN_STEPS:
        raise EmoeError(f"steps is {steps!r}; it must lie between 1 and {TRAIN_STEPS - 1}")
    stride = TRAIN_STEPS // steps
    return [stride * i + 1 for i in reversed(range(steps))]


def next_timestep(t: int, steps: int) -> int:
    """The one that follows `t` in a run of `steps` steps; -1 after the last."""
    return t - TRAIN_STEPS // steps if t > 1 else -1


class Estimate(NamedTuple):
    """The clean image and the noise that z is estimated to be made of; either follows from the other."""

    image: Tensor
    noise: Tensor


def estimate(z: Tensor, output: Tensor, t: int, prediction_type: str = "epsilon") -> Estimate:
    """Read the network's output at timestep `t`: the noise ("epsilon"), or a mix of noise and image ("v")."""
    a, s = BARS[t] ** 0.5, (1 - BARS[t]) ** 0.5
    if prediction_type == "v":
        return Estimate(a * z - s * output, a * output + s * z)
    return Estimate((z - s * output) / a, output)


# A step: (timestep, the one it leads to, z, the estimate now, what came before, how to draw noise) -> the next z.
# All take the same arguments; each uses what it needs.
Draw = Callable[[], Tensor]
Before = tuple[int, Estimate] | None  # the step before: its timestep, its estimate
Step = Callable[[int, int, Tensor, Estimate, Before, Draw], Tensor]


def ddim(t: int, to: int, z: Tensor, now: Estimate, before: Before, draw: Draw) -> Tensor:
    """Deterministic (eta = 0): the same image, the same noise, less of it."""
    bar = BARS[max(0, to)]
    return bar**0.5 * now.image + (1 - bar) ** 0.5 * now.noise


def ddpm(t: int, to: int, z: Tensor, now: Estimate, before: Before, draw: Draw) -> Tensor:
    """Ancestral: the mean of the posterior between z and the image, and fresh noise of its (smaller) variance."""
    return posterior_mean(t, to, z, now) + posterior_sigma(t, to) * draw()


def posterior_mean(t: int, to: int, z: Tensor, now: Estimate) -> Tensor:
    """Of DDPM's distribution of the next z, given where the image is predicted."""
    bar, bar_to, beta = _betas(t, to)
    return bar_to**0.5 * beta / (1 - bar) * now.image + (1 - beta) ** 0.5 * (1 - bar_to) / (1 - bar) * z


def posterior_sigma(t: int, to: int) -> float:
    """Its standard deviation; 0 at a run's last step."""
    bar, bar_to, beta = _betas(t, to)
    return ((1 - bar_to) / (1 - bar) * beta) ** 0.5


def dpm(t: int, to: int, z: Tensor, now: Estimate, before: Before, draw: Draw) -> Tensor:
    """DPM-Solver++(2M), midpoint, in half the logarithm of the signal-to-noise ratio; it ends on the image itself."""
    if to < 0:
        return now.image
    h = _half_log_snr(to) - _half_log_snr(t)
    image = now.image
    if before is not None:  # the image predicted for the middle of the step, from the last two
        t_before, earlier = before
        ratio = (_half_log_snr(t) - _half_log_snr(t_before)) / h
        image = image + (image - earlier.image) / (2 * ratio)
    return ((1 - BARS[to]) / (1 - BARS[t])) ** 0.5 * z - BARS[to] ** 0.5 * math.expm1(-h) * image


def _betas(t: int, to: int) -> tuple[float, float, float]:
    """The bars at both ends of a step, and the noise that it takes away."""
    bar, bar_to = BARS[t], BARS[to] if to >= 0 else 1.0
    return bar, bar_to, 1 - bar / bar_to


def _half_log_snr(t: int) -> float:
    return 0.5 * math.log(BARS[t] / (1 - BARS[t]))


SCHEDULERS: dict[str, Step] = dict(zip(choices.SCHEDULERS, (ddim, ddpm, dpm), strict=True))
