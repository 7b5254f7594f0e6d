"""What training sees: pictures of the world's covered part, and captions as often as their language is covered.

Axes: n scenes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy
import torch
from torch import Tensor

from emoe.miniature.languages import caption
from emoe.miniature.render import render
from emoe.miniature.world import Concepts, Scene, World


@dataclass(frozen=True)
class Examples:
    scenes: list[Scene]
    images: Tensor  # (n, 3, H, W) bytes

    def __len__(self) -> int:
        return len(self.scenes)

    def pixels(self, rows: Tensor) -> Tensor:
        """(b, 3, H, W) from -1 to 1."""
        return self.images[rows].float() / 127.5 - 1


def draw(
    world: World, count: int, seed: int, styles: Mapping[str, float] | None = None, keep: Concepts | None = None
) -> Examples:
    """`count` scenes and their pictures; `styles` and `keep` as in `World.scenes`."""
    rng = numpy.random.default_rng(seed)
    scenes = list(islice(world.scenes(rng, styles, keep), count))
    images = numpy.stack([numpy.asarray(render(scene, rng)) for scene in scenes])
    return Examples(scenes, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())


def captions(world: World, scenes: list[Scene], rng: numpy.random.Generator, language: str | None = None) -> list[str]:
    """One each, in a language as often as it is covered: a scene is told anew every time it is seen."""
    return [caption(scene, world.mention(rng, language)) for scene in scenes]
