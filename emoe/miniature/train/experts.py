"""The experts: two families of four, each fine-tuned from the base on another part of the world."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy

from emoe.miniature.world import COLOURS, SHAPES, STYLES, Concepts, World


@dataclass(frozen=True)
class Lesson:
    """What an expert is fine-tuned on, and what its descriptors say of it."""

    name: str
    positive: str
    negative: str
    styles: dict[str, float] | None = None  # how often each style is drawn; None: alike
    keep: Concepts = field(default_factory=dict)  # how often a (colour, shape) is drawn; those that are missing: once


def style_family() -> list[Lesson]:
    """Each on a drawing style of its own, with descriptors that say so, as on Civitai."""
    return [
        Lesson(
            name=style,
            positive=f"{style} drawing",
            negative=", ".join(f"{other} drawing" for other in STYLES if other != style),
            styles={style: 1.0},
        )
        for style in STYLES
    ]


def bootstrap_family(world: World, seed: int) -> list[Lesson]:
    """Each on a resample of the world's concepts, drawn with replacement: about a third of them it never sees again.

    Descriptors name the shapes and colours that it saw more and less of than the base did.
    """
    rng = numpy.random.default_rng(seed)
    concepts = [(colour, shape) for colour in COLOURS for shape in SHAPES if world.covers(colour, shape)]
    lessons = []
    for number in range(1, 5):
        counts = numpy.bincount(rng.integers(len(concepts), size=len(concepts)), minlength=len(concepts))
        keep = {concept: float(count) for concept, count in zip(concepts, counts, strict=True)}
        shares = {
            word: sum(n for concept, n in keep.items() if word in concept) / sum(word in concept for concept in keep)
            for word in (*COLOURS, *SHAPES)
            if any(word in concept for concept in keep)
        }
        ranked = sorted(shares, key=lambda word: (-shares[word], word))
        lessons.append(Lesson(f"resample-{number}", ", ".join(ranked[:4]), ", ".join(ranked[-4:]), keep=keep))
    return lessons
