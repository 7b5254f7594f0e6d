"""What the coverage bench measures of one family of experts. Everything is taken once and kept in a `Store`.

Axes: b prompts, e paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy
import torch
from coverage_parts.baselines import CALIBRATED, Calibration, calibration, unheard
from coverage_parts.estimators import look, parts
from coverage_parts.prompts import Ask, Groups
from coverage_parts.store import Store, Values
from PIL import Image
from torch import Tensor

from emoe import EMoE, Recipe
from emoe.config import read_weights
from emoe.generating import denoising_steps
from emoe.images import to_images
from emoe.miniature.train.data import captions
from emoe.miniature.world import Mention, Scene, World
from emoe.model import Model
from emoe.schedule import timesteps
from emoe.study.baselines import BASELINES, GATED, classifier_error
from emoe.study.observe import observe
from emoe.text import TextStates
from emoe.uncertainty import measure

BATCH = 32  # prompts
FIRST, STEPS = 961, 25  # where the paper reads: the first of 25 steps


@dataclass(frozen=True)
class Variant:
    """A mixture that differs from the family's own in what is not None."""

    experts: tuple[int, ...] | None = None  # which of them
    top: int | None = None
    gate: str | None = None
    split: str | None = None

    def load(self, path: Path) -> EMoE:
        weights = read_weights(path)
        experts = weights.experts if self.experts is None else tuple(weights.experts[i] for i in self.experts)
        gate = self.gate or weights.gate
        top = None if gate == "uniform" else min(self.top or weights.top, len(experts))
        split = self.split or weights.split
        return EMoE.from_weights(replace(weights, experts=experts, gate=gate, top=top, split=split), device="cpu")

    def __str__(self) -> str:
        told = [("experts", self.experts and "".join(str(i + 1) for i in self.experts)), ("top", self.top)]
        told += [("gate", self.gate), ("split", self.split)]
        return ", ".join(f"{key} {value}" for key, value in told if value is not None) or "as shipped"


class Judges(NamedTuple):
    """Who looks at the images. Both (b,)."""

    accuracy: Callable[[Sequence[Image.Image], Sequence[Scene], Sequence[Mention]], Tensor]  # share of what is told
    clip: Callable[[Sequence[Image.Image], Sequence[str]], Tensor]  # 100 · cosine


class Load(Protocol):
    def __call__(self, variant: Variant) -> Model: ...


class Family:
    """One family's measurements, by split and group of prompts; `specs` limits them to the group's first ones."""

    def __init__(
        self,
        name: str,
        load: Load,
        prompts: dict[str, Groups],
        world: World,
        store: Store,
        work: Path,
        steps: int = STEPS,
        captions: int = 2000,
    ):
        """steps: of an image's run.  captions: of training's kind, for the distance of a text from them."""
        self.name, self.prompts, self.world, self.store, self.work = name, prompts, world, store, work
        self.steps, self.captions = steps, captions
        self.model = cache(load)

    def asks(self, split: str, group: str, specs: int | None = None) -> list[Ask]:
        return [ask for ask in self.prompts[split][group] if specs is None or ask.spec < specs]

    # The number, and others at its cost -----------------------------------------------------------------------------

    def parts(
        self,
        split: str,
        group: str,
        timestep: int,
        seed: int = 0,
        variant: Variant = Variant(),
        specs: int | None = None,
    ) -> Values:
        """ "post variance", "pre power", ...: the parts of all estimators, of either read-out."""
        name = f"{self.name} | {variant} | {split} {group} {specs or 'all'} | parts | t {timestep} seed {seed}"

        def read() -> dict[str, list[float]]:
            model = self.model(variant)
            z, found = model.noise(seed), []
            empty = look(model, model.encode([""]), z, timestep)
            for batch in _batches(self.asks(split, group, specs)):
                seen = look(model, model.encode([ask.prompt for ask in batch]), z, timestep)
                pairs = {"pre": (seen.m_pre, empty.m_pre), "post": (seen.m_post, empty.m_post)}
                found.append(
                    {f"{r} {k}": v for r, pair in pairs.items() for k, v in parts(*pair).items()}
                )  # fmt: skip
            return _joined(found)

        return self.store(name, read)

    # Every baseline -------------------------------------------------------------------------------------------------

    def baselines(self, split: str, group: str, timestep: int = FIRST, specs: int | None = None) -> Values:
        """By name; from the noise of seed 0."""
        name = f"{self.name} | {split} {group} {specs or 'all'} | baselines | t {timestep}"

        def read() -> dict[str, list[float]]:
            model, found, known = self.model(Variant()), [], self.calibration(timestep)
            z = model.noise(0)
            for batch in _batches(self.asks(split, group, specs)):
                text = model.encode([ask.prompt for ask in batch])
                seen = observe(model, text, z, timestep, STEPS)
                tables = BASELINES | (GATED if seen.logits is not None else {})
                row = {key: of(seen) for key, of in tables.items() if key != "silence"}  # an estimator here
                row |= {key: of(seen, known) for key, of in CALIBRATED.items()}
                found.append(row | {"classifier error": classifier_error(model, text, seen)})
            return _joined(found)

        def read_text() -> dict[str, list[float]]:
            model = self.model(Variant())
            texts = (model.encode([ask.prompt for ask in batch]) for batch in _batches(self.asks(split, group, specs)))
            return _joined([{"text to nothing": unheard(model, text)} for text in texts])

        return self.store(name, read) | self.store(f"{self.name} | {split} {group} {specs or 'all'} | text", read_text)

    @cache  # noqa: B019 (as long-lived as the process)
    def calibration(self, timestep: int) -> Calibration:
        """From captions as training drew them, and from validation prompts."""
        model, rng = self.model(Variant()), numpy.random.default_rng(99)
        scenes = self.world.scenes(rng)
        told = captions(self.world, [next(scenes) for _ in range(self.captions)], rng)
        states = [model.encode(told[i : i + BATCH]) for i in range(0, self.captions, BATCH)]
        prompts = [ask.prompt for ask in self.asks("validation", "languages")[: 2 * BATCH]]
        seen = observe(model, model.encode(prompts), model.noise(0), timestep, STEPS)
        return calibration(_all(states), seen)

    # Images ---------------------------------------------------------------------------------------------------------

    def images(self, split: str, group: str, specs: int, judges: Callable[[], Judges], at: Sequence[int]) -> Values:
        """ "accuracy" and "clip" of an image each (seed 0), and at timesteps `at` of its run "t 721 eu" and
        "t 721 relative": the paths part there, from where the ordinary run has come.
        """
        name = f"{self.name} | {split} {group} {specs} | images"

        def read() -> dict[str, list[float]]:
            model, judge, found = self.model(Variant()), judges(), []
            for i, batch in enumerate(_batches(self.asks(split, group, specs))):
                latents, row = _run(model, [ask.prompt for ask in batch], self.steps, at)
                images = to_images(model.vae, latents)
                row["accuracy"] = judge.accuracy(images, [a.scene for a in batch], [a.mention for a in batch])
                row["clip"] = judge.clip(images, [ask.reference for ask in batch])
                for j, image in enumerate(images):
                    path = self.picture(split, group, i * BATCH + j)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image.save(path)
                found.append(row)
            return _joined(found)

        return self.store(name, read)

    def picture(self, split: str, group: str, i: int) -> Path:
        """Where the image of the group's prompt i is."""
        return self.work / "images" / f"{self.name}-{split}-{group}-{i}.png"

    def algorithm1(self, split: str, group: str, specs: int) -> Values:
        """ "t 961 eu", "t 921 relative", ...: the paper's runs, whose paths part at the first step and go on alone."""
        name = f"{self.name} | {split} {group} {specs} | algorithm 1"

        def read() -> dict[str, list[float]]:
            model, found = self.model(Variant()), []
            recipe = model.at_own_size(Recipe("emoe", steps=self.steps))
            for batch in _batches(self.asks(split, group, specs)):
                row = {}
                for step in denoising_steps(model, [ask.prompt for ask in batch], [""] * len(batch), recipe):
                    row |= _numbers(step.timestep, step.m_post)
                found.append(row)
            return _joined(found)

        return self.store(name, read)


def _run(model: Model, prompts: list[str], count: int, at: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """An ordinary run of `count` steps: the latents that it ends on, and the number at some of its steps."""
    text, row, ts = model.encode(prompts), {}, timesteps(count)
    recipe = model.at_own_size(Recipe("mixture", steps=count))
    for step in denoising_steps(model, prompts, [""] * len(prompts), recipe):
        ahead = ts[step.index + 1] if step.index + 1 < count else None
        if ahead in at:
            row |= _numbers(ahead, look(model, text, step.latents[0], ahead).m_post)
    return step.latents[0], row


def _numbers(timestep: int, m: Tensor) -> dict[str, Tensor]:
    found = measure(m[None].float())
    return {f"t {timestep} eu": found.eu, f"t {timestep} relative": found.relative}


def _batches(asks: list[Ask]) -> Iterator[list[Ask]]:
    yield from (asks[i : i + BATCH] for i in range(0, len(asks), BATCH))


def _joined(batches: list[dict[str, Tensor]]) -> dict[str, list[float]]:
    return {key: [x for batch in batches for x in batch[key].tolist()] for key in batches[0]}


def _all(batches: list[TextStates]) -> TextStates:
    return TextStates(
        [prompt for batch in batches for prompt in batch.prompts],
        torch.cat([batch.states for batch in batches]),
        torch.cat([batch.content for batch in batches]),
        [cut for batch in batches for cut in batch.truncated],
    )
