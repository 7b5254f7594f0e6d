"""The UNet, from scratch (the base), or from the base on (the experts).

It predicts v. In so short a training, predicting the noise teaches nothing about the first steps of a run, where nearly
all is noise and the prompt alone says what is to be drawn; an error in v counts the same there as anywhere.

Axes: b examples, n tokens.
"""

from __future__ import annotations

import copy

import numpy
import torch
from torch import Tensor

from emoe.miniature.train.data import Examples, captions
from emoe.miniature.train.fit import Log, fit
from emoe.miniature.world import World
from emoe.schedule import BARS, TRAIN_STEPS
from emoe.text import TextEncoder
from emoe.unet import UNet, UNetConfig

CONFIG = UNetConfig(channels=(24, 32, 32, 32), heads=2, groups=8, text_dim=64, sample_size=16)
UNTOLD = 0.1  # of captions are empty: guidance needs what the network makes of no prompt
SNR = 5.0  # above this signal-to-noise ratio, errors count less (min-SNR weighting)
OFFSET = 0.15  # noise that a whole channel shares, so that its mean does not tell the picture's (offset noise)


def new_unet(seed: int) -> UNet:
    torch.manual_seed(seed)
    return UNet(CONFIG)


def train_unet(
    unet: UNet,
    world: World,
    examples: Examples,
    latents: Tensor,
    text: TextEncoder,
    seed: int,
    log: Log,
    stage: str,
    steps: int,
    rate: float,
    batch: int = 64,
    average: float = 0.995,
) -> UNet:
    """A trained copy. latents: (n, 4, 16, 16), of the examples."""
    unet = copy.deepcopy(unet)
    rng, generator = numpy.random.default_rng(seed), torch.Generator().manual_seed(seed)
    bars = torch.tensor(BARS, dtype=torch.float32)

    def loss(step: int) -> Tensor:
        rows = rng.integers(len(examples), size=batch)
        told = captions(world, [examples.scenes[i] for i in rows], rng)
        states = text([caption if rng.random() > UNTOLD else "" for caption in told]).states.clone()
        t = torch.randint(TRAIN_STEPS, (batch,), generator=generator)
        bar = bars[t][:, None, None, None]
        noise = torch.randn(batch, *latents.shape[1:], generator=generator)
        noise = noise + OFFSET * torch.randn(batch, latents.shape[1], 1, 1, generator=generator)
        image = latents[rows]
        z = bar.sqrt() * image + (1 - bar).sqrt() * noise
        target = bar.sqrt() * noise - (1 - bar).sqrt() * image
        error = (unet(z, t, states).prediction - target).square().mean(dim=(1, 2, 3))
        weight = (SNR + 1) / (bars[t] / (1 - bars[t]) + 1)
        return (error * weight.clamp(max=1)).mean()

    return fit(unet, loss, steps, rate, stage, log, average)
