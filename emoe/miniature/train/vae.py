"""The autoencoder: 64x64 pixels to 16x16 latents of four channels, and back.

Axes: b images.
"""

from __future__ import annotations

import dataclasses

import numpy
import torch
from torch import Tensor

from emoe.miniature.train.data import Examples
from emoe.miniature.train.fit import Log, fit
from emoe.vae import VAE, VAEConfig

CONFIG = VAEConfig(channels=(8, 16, 32), groups=4, scaling=1.0)
KL = 1e-6  # what a nat of latent information costs, in squared error of pixels
THINGS = 8.0  # how much a pixel of a thing counts, beside one of the background, of which there are many more


def train_vae(examples: Examples, seed: int, log: Log, steps: int, batch: int = 24) -> VAE:
    torch.manual_seed(seed)
    rng = numpy.random.default_rng(seed)
    vae = VAE(CONFIG).to(memory_format=torch.channels_last)  # a third of the time on a CPU

    def loss(step: int) -> Tensor:
        x = examples.pixels(torch.from_numpy(rng.integers(len(examples), size=batch)))
        x = x.contiguous(memory_format=torch.channels_last)
        mean, log_variance = vae.quant_conv(vae.encoder(x)).chunk(2, dim=1)
        log_variance = log_variance.clamp(-20, 10)
        z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape)
        y = vae.decoder(vae.post_quant_conv(z))
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        weight = 1 + (THINGS - 1) * ((x - x[:, :, :1, :1]).abs().amax(dim=1, keepdim=True) > 0.06)
        error = weight * ((y - x).square() + 0.2 * (y - x).abs())
        return error.mean() + KL * kl

    return fit(vae, loss, steps, 3e-3, "vae", log, average=0.99)


def scaled(vae: VAE, examples: Examples) -> VAEConfig:
    """With the scaling that gives latents the unit variance which noise schedules expect."""
    latents = to_latents(vae, examples, rows=min(2048, len(examples)))
    return dataclasses.replace(CONFIG, scaling=round(1 / latents.std().item(), 5))


@torch.inference_mode()
def to_latents(vae: VAE, examples: Examples, rows: int | None = None) -> Tensor:
    """(n, 4, 16, 16) of the first `rows` examples, or of all."""
    count = rows or len(examples)
    return torch.cat([vae.encode(examples.pixels(torch.arange(i, min(i + 256, count)))) for i in range(0, count, 256)])
