"""The UNet, from scratch (the base), or from the base on (the experts).

The base learns to predict the noise first, as SD1.5 did, and then v. In so short a training the former teaches nothing
about the first steps of a run, where nearly all is noise and the prompt alone says what is to be drawn: places and
backgrounds then come from the starting noise. An error in v counts the same there as anywhere.

Axes: b examples, n tokens.
"""

from __future__ import annotations

import copy

import numpy
import torch
from torch import Tensor, nn

from emoe.miniature.train.data import Examples, captions
from emoe.miniature.train.fit import Log, fit
from emoe.miniature.world import World
from emoe.schedule import BARS, TRAIN_STEPS
from emoe.text import TextEncoder
from emoe.unet import UNet, UNetConfig

CONFIG = UNetConfig(channels=(24, 32, 32, 32), heads=2, groups=8, text_dim=64, sample_size=16)
UNTOLD = 0.1  # of captions are empty: guidance needs what the network makes of no prompt
SNR = 5.0  # above this signal-to-noise ratio, errors count less (min-SNR weighting)
EARLY = 600  # half of the batch is from here up, where a run decides what goes where
OFFSET = 0.15  # noise that a whole channel shares, so that its mean does not tell the picture's (offset noise)


def new_unet(seed: int) -> UNet:
    """Random, each residual branch silent at first, which trains faster."""
    torch.manual_seed(seed)
    unet = UNet(CONFIG)
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "conv_out")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return unet


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
    prediction: str = "v",
    early: bool = True,
    batch: int = 64,
    average: float = 0.995,
) -> UNet:
    """A trained copy. latents: (n, 4, 16, 16), of the examples.  prediction: what it learns, "epsilon" or "v".

    early: half of the batch is of timesteps from EARLY up.
    """
    unet = copy.deepcopy(unet)
    rng, generator = numpy.random.default_rng(seed), torch.Generator().manual_seed(seed)
    bars = torch.tensor(BARS, dtype=torch.float32)

    def loss(step: int) -> Tensor:
        rows = rng.integers(len(examples), size=batch)
        told = captions(world, [examples.scenes[i] for i in rows], rng)
        states = text([caption if rng.random() > UNTOLD else "" for caption in told]).states.clone()
        t = torch.randint(TRAIN_STEPS, (batch,), generator=generator)
        if early:
            t[: batch // 2] = t[: batch // 2] % (TRAIN_STEPS - EARLY) + EARLY
        bar = bars[t][:, None, None, None]
        noise = torch.randn(batch, *latents.shape[1:], generator=generator)
        if prediction == "v":
            noise = noise + OFFSET * torch.randn(batch, latents.shape[1], 1, 1, generator=generator)
        image = latents[rows]
        z = bar.sqrt() * image + (1 - bar).sqrt() * noise
        target = noise if prediction == "epsilon" else bar.sqrt() * noise - (1 - bar).sqrt() * image
        error = (unet(z, t, states).noise - target).square().mean(dim=(1, 2, 3))
        snr = bars[t] / (1 - bars[t])
        weight = SNR / snr if prediction == "epsilon" else (SNR + 1) / (snr + 1)
        return (error * weight.clamp(max=1)).mean()

    return fit(unet, loss, steps, rate, stage, log, average)
