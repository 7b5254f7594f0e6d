"""What a network draws in the middle of training: one look says more than its loss."""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from PIL import Image

from emoe.denoise import denoise
from emoe.images import to_images
from emoe.miniature import GUIDANCE
from emoe.miniature.languages import caption
from emoe.miniature.render import SIDE
from emoe.miniature.world import Mention, World
from emoe.schedule import noises
from emoe.text import TextEncoder
from emoe.unet import UNet
from emoe.vae import VAE

ROWS, COLUMNS = 4, 8


def save_samples(unet: UNet, vae: VAE, text: TextEncoder, world: World, path: Path, seed: int = 0) -> None:
    """A sheet of pictures; their captions beside it, in a text file, row by row."""
    scenes = world.scenes(numpy.random.default_rng(seed))
    told = [caption(next(scenes), Mention("English", True, True, True, i % 2 == 0)) for i in range(ROWS * COLUMNS)]
    side = unet.config.sample_size
    drawn = noises(seed, (1, unet.config.latent_channels, side, side))
    nothing = text([""] * len(told)).states
    with torch.inference_mode():
        *_, last = denoise(unet, drawn, text(told).states, nothing, None, guidance=GUIDANCE, prediction_type="v")
    sheet = Image.new("RGB", (SIDE * COLUMNS, SIDE * ROWS))
    for i, image in enumerate(to_images(vae, last.latents[0])):
        sheet.paste(image, (SIDE * (i % COLUMNS), SIDE * (i // COLUMNS)))
    sheet.save(path)
    path.with_suffix(".txt").write_text("\n".join(told) + "\n", encoding="utf-8")
