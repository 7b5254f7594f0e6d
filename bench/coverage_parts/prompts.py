"""What the coverage bench asks: prompts of which it is known whether training told of such a thing, and how often.

Prompts come in specs: one scene told in every language, or scenes that differ in the one word in question, so that
inside a spec nothing else differs. Specs of the validation split and of the test split are disjoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy

from emoe.miniature.languages import caption
from emoe.miniature.world import COLOURS, SHAPES, Mention, Scene, World

TOLD = ("size", "position", "background", "style")
SHARED = "pizza"  # the same word in every language


@dataclass(frozen=True)
class Ask:
    """A prompt, and what is known of it."""

    group: str  # the question that it belongs to
    spec: int  # prompts of one spec are alike but for their case
    case: str  # a language; or "held out", "control", "rare", "common", "Turkish, shared", ...
    positive: bool  # whether it ought to be the more uncertain
    scene: Scene
    mention: Mention

    @property
    def prompt(self) -> str:
        return caption(self.scene, self.mention)

    @property
    def reference(self) -> str:
        """The same in English, for CLIP."""
        return caption(self.scene, replace(self.mention, language="English"))


Groups = dict[str, list[Ask]]


def draw(world: World, splits: Mapping[str, Mapping[str, int]], seed: int = 0) -> dict[str, Groups]:
    """Split -> group -> its prompts, by spec. splits: how many specs each split has of every group.

    What specs tell, in English, comes nowhere twice: not in a group, not in two groups, not in two splits.
    """
    rng, known = numpy.random.default_rng(seed), set()
    scenes = world.scenes(rng)

    def spec(group: str, i: int) -> list[Ask]:
        """Of languages, without the word that all share: a prompt that holds it is told in part in any of them."""
        fit = (scene for scene in scenes if group != "languages" or SHARED not in [t.shape for t in scene.things])
        while True:
            told = rng.permutation(TOLD)[: i % (len(TOLD) + 1)]  # short and long in turn
            asks = ASK[group](world, rng, i, next(fit), Mention(**dict.fromkeys(map(str, told), True)))
            if known.isdisjoint(ask.reference for ask in asks):
                known.update(ask.reference for ask in asks)
                return asks

    return {
        split: {group: [ask for i in range(count) for ask in spec(group, i)] for group, count in counts.items()}
        for split, counts in splits.items()
    }


def _languages(world: World, rng: numpy.random.Generator, spec: int, scene: Scene, mention: Mention) -> list[Ask]:
    """One scene in every language."""
    return [
        Ask("languages", spec, name, coverage == 0, scene, replace(mention, language=name))
        for name, coverage in world.languages.items()
    ]


def _pairs(world: World, rng: numpy.random.Generator, spec: int, scene: Scene, mention: Mention) -> list[Ask]:
    """A held-out pair, and its colour with the shapes of the others: over the specs, the same words as often."""
    pairs = world.held_out_pairs
    colour = pairs[spec % len(pairs)][0]
    return [
        Ask("pairs", spec, "control" if i else "held out", i == 0, _with(scene, shape=shape, colour=colour), mention)
        for i, shape in enumerate(pairs[(spec + shift) % len(pairs)][1] for shift in range(len(pairs)))
    ]


def _shape(world: World, rng: numpy.random.Generator, spec: int, scene: Scene, mention: Mention) -> list[Ask]:
    """The shape that training never showed or named, and a common one."""
    return [
        Ask("shape", spec, "held out", True, _with(scene, shape=world.held_out_shape), mention),
        Ask("shape", spec, "control", False, _with(scene, shape=_common_shape(world, rng, scene)), mention),
    ]


def _rare(world: World, rng: numpy.random.Generator, spec: int, scene: Scene, mention: Mention) -> list[Ask]:
    """A rare word, and a common one of its kind."""
    word = list(world.rare)[spec % len(world.rare)]
    kind, common = ("shape", _common_shape) if word in SHAPES else ("colour", _common_colour)
    return [
        Ask("rare", spec, "rare", True, _with(scene, **{kind: word}), mention),
        Ask("rare", spec, "common", False, _with(scene, **{kind: common(world, rng, scene)}), mention),
    ]


def _shared(world: World, rng: numpy.random.Generator, spec: int, scene: Scene, mention: Mention) -> list[Ask]:
    """A word that is English too and one that is not, in English and in the languages that training never told."""
    scene = _with(scene, shape=SHARED)
    scene = _with(scene, colour=_common_colour(world, rng, scene))
    other = _common_shape(world, rng, scene)
    return [
        Ask(
            "shared", spec, f"{name}, {case}", case == "own", _with(scene, shape=shape), replace(mention, language=name)
        )
        for name, coverage in world.languages.items()
        for case, shape in (("shared", SHARED), ("own", other))
        if name == "English" or coverage == 0
    ]


ASK: dict[str, Callable[[World, numpy.random.Generator, int, Scene, Mention], list[Ask]]] = {
    "languages": _languages,
    "pairs": _pairs,
    "shape": _shape,
    "rare": _rare,
    "shared": _shared,
}


def _with(scene: Scene, **changes: str) -> Scene:
    """The scene with another first thing."""
    return replace(scene, things=(replace(scene.things[0], **changes), *scene.things[1:]))


def _common_shape(world: World, rng: numpy.random.Generator, scene: Scene) -> str:
    colour = scene.things[0].colour
    return str(rng.choice([s for s in SHAPES if s not in world.rare and s != SHARED and world.covers(colour, s)]))


def _common_colour(world: World, rng: numpy.random.Generator, scene: Scene) -> str:
    shape = scene.things[0].shape
    return str(rng.choice([c for c in COLOURS if c not in world.rare and world.covers(c, shape)]))
