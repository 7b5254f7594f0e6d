"""Decoding large images tile by tile, which bounds the memory.

Norms and attention see one tile at a time, so the image is close to that of one piece, not equal to it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor


def tiled(decode: Callable[[Tensor], Tensor], z: Tensor, f: int, size: int = 64, overlap: int = 16) -> Tensor:
    """`decode` of z (b, c, h, w) -> (b, 3, f·h, f·w), in tiles of `size` latent pixels per side.

    f: image pixels per latent pixel, along a side. Tiles overlap by `overlap` or more latent pixels, over
    which each fades linearly into the next.
    """
    b, _, h, w = z.shape
    image = torch.zeros(b, 3, f * h, f * w, device=z.device)
    total = torch.zeros(f * h, f * w, device=z.device)
    for top, left in product(starts(h, size, overlap), starts(w, size, overlap)):
        tile = decode(z[:, :, top : top + size, left : left + size])
        down, across = (ramp(length, f * overlap).to(z.device) for length in tile.shape[-2:])
        weight = down[:, None] * across
        place = (..., slice(f * top, f * (top + size)), slice(f * left, f * (left + size)))
        image[place] += weight * tile
        total[place] += weight
    return (image / total).to(z.dtype)


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where the fewest tiles begin that cover an axis, evenly spaced; [0] for a short one."""
    rest = max(0, length - size)
    steps = -(-rest // (size - overlap))  # rounded up
    return [0] + [rest * i // steps for i in range(1, steps + 1)]


def ramp(length: int, edge: int) -> Tensor:
    """Weights (length,) of a tile's pixels along an axis: up over `edge` pixels, level, and down, never 0."""
    step = torch.arange(1, length + 1)
    return torch.minimum(step, step.flip(0)).clamp(max=edge) / edge
