"""The miniature world: scenes of coloured shapes, and dials that say which of them training gets to see.

A scene is complete; a `Mention` says which of its attributes a caption tells. Everything is drawn from seeded numpy
generators, so that a seed stands for the same world everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "pizza", "moon")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "pink")
SIZES = ("small", "large")
POSITIONS = ("left", "right", "top", "bottom", "centre")
BACKGROUNDS = ("black", "grey", "white")
STYLES = ("flat", "outline", "striped", "shaded")


@dataclass(frozen=True)
class Thing:
    shape: str
    colour: str
    size: str
    position: str


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]  # one or two
    background: str
    style: str


@dataclass(frozen=True)
class Mention:
    """What a caption tells of a scene besides shapes and colours, and in which language."""

    language: str = "English"
    size: bool = False
    position: bool = False
    background: bool = False
    style: bool = False


@dataclass(frozen=True)
class World:
    """The dials. What is not covered exists in the world all the same; training alone never meets it."""

    # of every language, how many captions there are for one in English
    languages: Mapping[str, float] = field(
        default_factory=lambda: {
            "English": 1.0,
            "Spanish": 0.1,
            "German": 0.01,
            "French": 0.003,
            "Finnish": 0.001,
            "Turkish": 0.0,
            "Hungarian": 0.0,
        }
    )
    held_out_shape: str = "moon"  # never seen, never named
    held_out_pairs: tuple[tuple[str, str], ...] = (  # either is seen, but not together
        ("purple", "star"),
        ("orange", "square"),
        ("yellow", "triangle"),
        ("green", "pizza"),
    )
    rare: Mapping[str, float] = field(  # under-represented: so often, beside others of their kind
        default_factory=lambda: {"heart": 0.1, "pink": 0.1}
    )
    two_things: float = 0.3  # of all scenes
    told: float = 0.7  # how often a caption tells of size, position, background, style; each by itself

    def scenes(
        self, rng: numpy.random.Generator, styles: Mapping[str, float] | None = None, keep: Concepts | None = None
    ) -> Iterator[Scene]:
        """Scenes that training may see, without end.

        styles: how often each is drawn (default: alike).  keep: how often a (colour, shape) is kept (default: always).
        """
        styles = styles or dict.fromkeys(STYLES, 1.0)
        pairs, weights = self._pairs(keep or {})
        names, shares = list(styles), numpy.array(list(styles.values()))
        while True:
            count = 1 + int(rng.random() < self.two_things)
            chosen = rng.choice(len(pairs), size=count, p=weights)
            things = tuple(
                Thing(pairs[i][1], pairs[i][0], str(rng.choice(SIZES)), position)
                for i, position in zip(chosen, places(rng, count), strict=True)
            )
            yield Scene(things, str(rng.choice(BACKGROUNDS)), names[rng.choice(len(names), p=shares / shares.sum())])

    def mention(self, rng: numpy.random.Generator, language: str | None = None) -> Mention:
        """How a caption of the training set talks."""
        if language is None:
            shares = numpy.array(list(self.languages.values()))
            language = list(self.languages)[rng.choice(len(shares), p=shares / shares.sum())]
        return Mention(language, *(bool(x) for x in rng.random(4) < self.told))

    def covers(self, colour: str, shape: str) -> bool:
        """Whether training sees this combination."""
        return shape != self.held_out_shape and (colour, shape) not in self.held_out_pairs

    def _pairs(self, keep: Concepts) -> tuple[list[tuple[str, str]], numpy.ndarray]:
        """The combinations that training sees, and how often."""
        pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES if self.covers(colour, shape)]
        weights = numpy.array([self.rare.get(c, 1.0) * self.rare.get(s, 1.0) * keep.get((c, s), 1.0) for c, s in pairs])
        return pairs, weights / weights.sum()


Concepts = Mapping[tuple[str, str], float]  # (colour, shape) -> a weight


def places(rng: numpy.random.Generator, count: int) -> tuple[str, ...]:
    """Where things are: one anywhere, two side by side or one above the other."""
    if count == 1:
        return (str(rng.choice(POSITIONS)),)
    sides = [("left", "right"), ("right", "left"), ("top", "bottom"), ("bottom", "top")]
    return sides[rng.integers(len(sides))]
