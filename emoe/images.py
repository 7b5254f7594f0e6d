"""From latents to pictures, and maps drawn over them.

Axes: p images, H W pixels, h w mid-block pixels.
"""

from __future__ import annotations

import numpy
import torch
from PIL import Image
from torch import Tensor

from emoe.errors import EmoeError
from emoe.vae import VAE


@torch.inference_mode()
def to_images(vae: VAE, latents: Tensor) -> list[Image.Image]:
    """(p, 4, h, w) -> p images, decoded one by one to bound the memory."""
    pixels = [vae.decode(z[None])[0].float().cpu() for z in latents]  # (3, H, W), -1 to 1
    if not all(torch.isfinite(x).all() for x in pixels):
        raise EmoeError("the VAE makes pixels that are not finite; name another under vae")
    return [Image.fromarray(_bytes(x / 2 + 0.5)) for x in pixels]


def _bytes(x: Tensor) -> numpy.ndarray:
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def draw_map(image: Image.Image, variance: Tensor) -> Image.Image:
    """The map (h, w) over its image: the redder, the more the paths disagree there (scaled to the map's own range)."""
    low, high = variance.min(), variance.max()
    heat = (variance - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    mask = (
        Image.fromarray(_bytes(0.75 * heat.expand(3, -1, -1))).convert("L").resize(image.size, Image.Resampling.BICUBIC)
    )
    grey = image.convert("L").convert("RGB")
    return Image.composite(Image.new("RGB", image.size, (255, 32, 0)), grey, mask)
