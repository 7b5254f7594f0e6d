"""Where and how a number is read, how much is measured, and which setting the validation prompts choose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy
from coverage_parts.estimators import ESTIMATORS
from coverage_parts.measure import FIRST, Family
from coverage_parts.prompts import Ask
from coverage_parts.store import Values

from emoe.miniature.world import World
from emoe.study.statistics import auroc

WELL = 0.1  # from this coverage on, a language counts as covered; between it and 0 lies what is seldom told
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Where and how a number is read."""

    estimator: str = "eu"
    read_out: str = "post"
    timestep: int = FIRST
    seeds: int = 1

    def of(self, family: Family, split: str, group: str, **others: Any) -> numpy.ndarray:
        """(prompts,)"""
        return self.combine([family.parts(split, group, self.timestep, seed, **others) for seed in range(self.seeds)])

    def combine(self, seeds: list[Values]) -> numpy.ndarray:
        part = {
            name.removeprefix(f"{self.read_out} "): numpy.mean([values[name] for values in seeds], axis=0)
            for name in seeds[0]
            if name.startswith(f"{self.read_out} ")
        }
        return ESTIMATORS[self.estimator](part)

    def __str__(self) -> str:
        seeds = f", {self.seeds} seeds" if self.seeds > 1 else ""
        return f"{self.estimator} ({self.read_out}) at {self.timestep}{seeds}"


PAPER = Setting()


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    splits: Mapping[str, Mapping[str, int]]  # specs of every group
    timesteps: tuple[int, ...]
    seeds: int
    ablated: int  # specs in all languages for each variant of the mixture
    mixtures: int  # of fewer experts, of each number: so many choices of experts at most
    drawn: Mapping[str, int]  # specs of every group that get images
    alone: int  # specs in all languages whose paths go on alone to the end
    steps: int  # of a run that draws
    captions: int  # of training's kind
    resamples: int

    def of(self, share: float) -> Plan:
        """The same with fewer prompts."""

        def some(counts: Mapping[str, int]) -> dict[str, int]:
            return {group: max(1, round(share * count)) for group, count in counts.items()}

        return replace(
            self,
            splits={split: some(groups) for split, groups in self.splits.items()},
            drawn=some(self.drawn),
            **some({"ablated": self.ablated, "alone": self.alone}),
        )


FULL = Plan(
    splits={
        "validation": {"languages": 30},
        "test": {"languages": 70, "pairs": 48, "shape": 48, "rare": 40, "shared": 24},
    },
    timesteps=(961, 801, 641, 481, 321, 161, 41),
    seeds=4,
    ablated=30,
    mixtures=6,
    drawn={"languages": 30, "pairs": 12, "shape": 15},
    alone=6,
    steps=25,
    captions=2000,
    resamples=400,
)
SMALL = Plan(
    splits={
        "validation": {"languages": 3},
        "test": {"languages": 5, "pairs": 4, "shape": 4, "rare": 4, "shared": 3},
    },
    timesteps=(961, 601),
    seeds=2,
    ablated=2,
    mixtures=1,
    drawn={"languages": 1, "pairs": 1, "shape": 1},
    alone=1,
    steps=5,
    captions=100,
    resamples=50,
)


# The choice ---------------------------------------------------------------------------------------------------------


def well_or_not(world: World, asks: Iterable[Ask]) -> numpy.ndarray:
    """(prompts,) 1 in a language that training never told, 0 in one it often did, nan in between."""
    coverage = numpy.array([world.languages[ask.mention.language] for ask in asks])
    return numpy.select([coverage == 0, coverage >= WELL], [1.0, 0.0], numpy.nan)


def tell_apart(values: numpy.ndarray, positive: numpy.ndarray) -> float:
    """AUROC of 1 against 0, without nan."""
    known = ~numpy.isnan(positive)
    return auroc(values[known], positive[known] == 1)


def validation(family: Family, plan: Plan) -> dict[Setting, float]:
    """Every setting on the validation prompts: AUROC of uncovered against covered languages.

    With one seed, the mean over the AUROCs of the seeds one by one, which is what a user's one seed gives on average.
    """
    positive = well_or_not(family.world, family.asks("validation", "languages"))
    found = {}
    for t in plan.timesteps:
        readings = [family.parts("validation", "languages", t, seed) for seed in range(plan.seeds)]
        for estimator, read_out, seeds in product(ESTIMATORS, ("post", "pre"), (1, plan.seeds)):
            setting = Setting(estimator, read_out, t, seeds)
            sets = [readings] if seeds > 1 else [[one] for one in readings]
            found[setting] = float(numpy.mean([tell_apart(setting.combine(one), positive) for one in sets]))
    return found


def rank(found: Mapping[str, Mapping[Setting, float]]) -> list[Row]:
    """Settings, the best first, by the mean over the families. found: of every family."""
    rows = [
        {"setting": setting}
        | {name: of[setting] for name, of in found.items()}
        | {"mean": float(numpy.mean([of[setting] for of in found.values()]))}
        for setting in next(iter(found.values()))
    ]
    return sorted(rows, key=lambda row: -row["mean"])


def choose(rows: list[Row]) -> dict[str, Setting]:
    """The best on validation, over the families, by what it may cost: of disagreements, and of what is none."""

    def best(estimators: Iterable[str], may: Callable[[Setting], bool] = lambda setting: True, more: bool = False):
        fitting = (row["setting"] for row in rows)
        return next(s for s in fitting if s.estimator in estimators and (s.seeds > 1) == more and may(s))

    disagreements = set(ESTIMATORS) - {"silence"}
    return {
        "paper": PAPER,
        "paper, more seeds": best(["eu"], lambda s: s.read_out == "post" and s.timestep == FIRST, more=True),
        "paper, best timestep": best(["eu"], lambda s: s.read_out == "post"),
        "relative, best timestep": best(["relative"], lambda s: s.read_out == "post"),
        "best at the first step": best(disagreements, lambda s: s.timestep == FIRST),
        "best": best(disagreements),
        "best, more seeds": best(disagreements, more=True),
        "silence": best(["silence"]),
    }
