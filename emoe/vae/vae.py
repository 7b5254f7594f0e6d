"""The SD1.5 autoencoder: images to latents, which the UNet works on, and back.

Axes: b images, c channels, H W image pixels, h w latent pixels, `config.downsampling` of the former to one of
the latter.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import silu

from emoe.vae.blocks import DownBlock, MidBlock, UpBlock, norm
from emoe.vae.config import VAEConfig
from emoe.vae.tiles import tiled

LARGE = 96  # latent pixels per side (SD1.5's 768 image pixels); above, images are decoded in tiles


class Encoder(nn.Module):
    """Image (b, 3, H, W) -> (b, 2c, h, w), the means and log-variances of c latent channels before `quant_conv`."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = config.channels
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.Sequential()
        for level, (before, width) in enumerate(pairwise([widths[0], *widths]), start=1):
            self.down_blocks.append(DownBlock(before, width, level == len(widths), config))
        self.mid_block = MidBlock(widths[-1], config)
        self.conv_norm_out = norm(widths[-1], config)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.down_blocks(self.conv_in(x)))
        return self.conv_out(silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """Latents (b, c, h, w), after `post_quant_conv` -> image (b, 3, H, W)."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = config.channels[::-1]  # levels count from the lowest resolution here
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], config)
        self.up_blocks = nn.Sequential()
        for level, (before, width) in enumerate(pairwise([widths[0], *widths]), start=1):
            self.up_blocks.append(UpBlock(before, width, level == len(widths), config))
        self.conv_norm_out = norm(widths[-1], config)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up_blocks(self.mid_block(self.conv_in(x)))
        return self.conv_out(silu(self.conv_norm_out(x)))


class VAE(nn.Module):
    """Images <-> latents. 83.7 M parameters with the default config.

    Takes any dtype and device, answers in its own: the UNet may be in float16, which this network overflows.
    """

    def __init__(self, config: VAEConfig = VAEConfig()):  # noqa: B008 (frozen)
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, image: Tensor) -> Tensor:
        """Image (b, 3, H, W) in [-1, 1], sides multiples of `config.downsampling` -> latents (b, 4, h, w): the mean."""
        x = image.to(self.quant_conv.weight)
        mean, _ = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean * self.config.scaling

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, 4, h, w) -> image (b, 3, H, W); [-1, 1] is black to white, and may be overshot."""
        z = latents.to(self.post_quant_conv.weight) / self.config.scaling
        return tiled(self._decode, z, self.config.downsampling) if max(z.shape[-2:]) > LARGE else self._decode(z)

    def _decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))
