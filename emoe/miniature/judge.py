"""A small classifier of the world's pictures: does a picture show what its prompt says?

Axes: b pictures, s places (POSITIONS).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import NamedTuple

import numpy
import torch
from PIL.Image import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from emoe.miniature import WEIGHTS
from emoe.miniature.world import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES, STYLES, Mention, Scene, Thing

NOTHING = len(SHAPES)  # what an empty place holds
HEADS = (NOTHING + 1, len(COLOURS), len(SIZES))
ANSWERS = len(POSITIONS) * sum(HEADS) + len(BACKGROUNDS) + len(STYLES)


class Seen(NamedTuple):
    """Logits."""

    shape: Tensor  # (b, s, shapes + 1), the last one: nothing is here
    colour: Tensor  # (b, s, colours)
    size: Tensor  # (b, s, sizes)
    background: Tensor  # (b, backgrounds)
    style: Tensor  # (b, styles)

    @classmethod
    def split(cls, answers: Tensor) -> Seen:
        """From the last layer of a classifier, (b, ANSWERS)."""
        places, background, style = answers.split([len(POSITIONS) * sum(HEADS), len(BACKGROUNDS), len(STYLES)], dim=1)
        return cls(*places.unflatten(1, (len(POSITIONS), sum(HEADS))).split(HEADS, dim=2), background, style)


class Judge(nn.Module):
    """Pictures (b, 3, 64, 64) from -1 to 1 -> what is where. Trained on real renders of the whole world."""

    def __init__(self):
        super().__init__()
        widths = (3, 16, 24, 32, 32)
        layers = []
        for before, width in pairwise(widths):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4 * 4, 128), nn.ReLU())
        self.answers = nn.Linear(128, ANSWERS)

    def forward(self, x: Tensor) -> Seen:
        return Seen.split(self.answers(self.features(x)))

    @torch.inference_mode()
    def accuracy(self, images: Sequence[Image], scenes: Sequence[Scene], mentions: Sequence[Mention]) -> Tensor:
        """The share of the attributes told that each picture has right, (b,): shapes and colours always."""
        seen = Seen(*(logits.cpu() for logits in self(to_pixels(images))))
        told = zip(scenes, mentions, strict=True)
        return torch.tensor([_share(Seen(*(logits[i] for logits in seen)), *pair) for i, pair in enumerate(told)])


def to_pixels(images: Sequence[Image]) -> Tensor:
    """(b, 3, H, W) from -1 to 1."""
    stacked = numpy.stack([numpy.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_judge() -> Judge:
    judge = Judge()
    state = load_file(WEIGHTS / "judge.safetensors")
    judge.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return judge.eval().requires_grad_(False)


def _share(seen: Seen, scene: Scene, mention: Mention) -> float:
    """Of one picture. Things are looked for where most is to be seen; the assignment that fits best counts."""
    emptiness = seen.shape.softmax(-1)[:, NOTHING]
    places = emptiness.argsort()[: len(scene.things)].tolist()
    right = max(
        sum(_right(seen, place, thing, mention) for place, thing in zip(order, scene.things, strict=True))
        for order in permutations(places)
    )
    total = len(scene.things) * (2 + mention.size + mention.position)
    for told, logits, name, names in (
        (mention.background, seen.background, scene.background, BACKGROUNDS),
        (mention.style, seen.style, scene.style, STYLES),
    ):
        total += told
        right += told and names[int(logits.argmax())] == name
    return right / total


def _right(seen: Seen, place: int, thing: Thing, mention: Mention) -> int:
    """How many of a thing's attributes are right."""
    found = (
        int(seen.shape[place].argmax()) == SHAPES.index(thing.shape),
        COLOURS[int(seen.colour[place].argmax())] == thing.colour,
        mention.size and SIZES[int(seen.size[place].argmax())] == thing.size,
        mention.position and POSITIONS[place] == thing.position,
    )
    return sum(found)
