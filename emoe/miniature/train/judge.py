"""The judge: a classifier of real renders, of everything the world has, held out or not.

Axes: b pictures, s places.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from emoe.miniature.judge import NOTHING, Judge, Seen
from emoe.miniature.train.data import draw
from emoe.miniature.train.fit import Log, fit
from emoe.miniature.world import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES, STYLES, Scene, World

EVERYTHING = World(held_out_shape="", held_out_pairs=(), rare={})


def train_judge(count: int, seed: int, log: Log, steps: int, batch: int = 128) -> Judge:
    """Noise, and now and then half the resolution: generated pictures are never as crisp as rendered ones."""
    torch.manual_seed(seed)
    rng = numpy.random.default_rng(seed)
    examples = draw(EVERYTHING, count, seed)
    answers = right_answers(examples.scenes)
    judge = Judge()

    def loss(step: int) -> Tensor:
        rows = torch.from_numpy(rng.integers(len(examples), size=batch))
        x = examples.pixels(rows)
        if rng.random() < 0.5:
            x = interpolate(avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
        seen = judge(x + 0.1 * torch.rand(1) * torch.randn(x.shape))
        return mistakes(seen, Seen(*(answer[rows] for answer in answers)))

    return fit(judge, loss, steps, 2e-3, "judge", log)


def mistakes(seen: Seen, right: Seen) -> Tensor:
    """The cross-entropies' sum; of a thing's colour and size, where there is one."""
    filled = right.shape != NOTHING
    return (
        cross_entropy(seen.shape.flatten(0, 1), right.shape.flatten())
        + cross_entropy(seen.colour[filled], right.colour[filled])
        + cross_entropy(seen.size[filled], right.size[filled])
        + cross_entropy(seen.background, right.background)
        + cross_entropy(seen.style, right.style)
    )


def right_answers(scenes: list[Scene]) -> Seen:
    """Indices instead of logits: shape, colour, size (n, s); background, style (n,)."""
    shape = torch.full((len(scenes), len(POSITIONS)), NOTHING)
    colour, size = torch.zeros_like(shape), torch.zeros_like(shape)
    for row, scene in enumerate(scenes):
        for thing in scene.things:
            place = POSITIONS.index(thing.position)
            shape[row, place] = SHAPES.index(thing.shape)
            colour[row, place] = COLOURS.index(thing.colour)
            size[row, place] = SIZES.index(thing.size)
    background = torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes])
    style = torch.tensor([STYLES.index(scene.style) for scene in scenes])
    return Seen(shape, colour, size, background, style)
