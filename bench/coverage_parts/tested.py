"""The test prompts of one family, and what every question about them needs.

A row is a dict with a column a key. Intervals are of resampled specs, never of single prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy
from coverage_parts.measure import Family, Judges
from coverage_parts.prompts import Ask
from coverage_parts.settings import Plan, Row, Setting, tell_apart, well_or_not
from numpy.typing import ArrayLike

from emoe.schedule import timesteps
from emoe.study.statistics import Interval, auroc, bootstrap, spearman

SHOWN = ("paper", "best")  # of the chosen settings, where a table has no room for all


def specs(asks: list[Ask]) -> numpy.ndarray:
    """Which spec each of them tells."""
    return numpy.array([ask.spec for ask in asks])


class Tested:
    """Of one family; the questions are asked by its subclasses."""

    def __init__(self, family: Family, plan: Plan, chosen: Mapping[str, Setting], judges: Callable[[], Judges]):
        self.family, self.plan, self.chosen, self.judges, self.world = family, plan, chosen, judges, family.world

    def asks(self, group: str, count: int | None = None) -> list[Ask]:
        """The test prompts of a group, or of its first `count` specs."""
        return self.family.asks("test", group, count)

    def interval(self, statistic: Callable[..., float], *columns: ArrayLike, clusters: Any = None) -> Interval:
        """clusters: what each row belongs to (`specs`), resampled as a whole; without them, rows stand alone."""
        return bootstrap(statistic, *columns, clusters=clusters, resamples=self.plan.resamples)

    def ranks(self, values: numpy.ndarray, asks: list[Ask]) -> Row:
        """How a number ranks the coverage of languages."""
        coverage, positive, spec = self.coverage(asks), well_or_not(self.world, asks), specs(asks)
        heard = coverage > 0
        return {
            "AUROC uncovered": self.interval(tell_apart, values, positive, clusters=spec),
            "Spearman with coverage": self.interval(spearman, values, coverage, clusters=spec),
            "Spearman, coverage above 0": self.interval(spearman, values[heard], coverage[heard], clusters=spec[heard]),
        }

    def coverage(self, asks: list[Ask]) -> numpy.ndarray:
        """How much training met of the language of each."""
        return numpy.array([self.world.languages[ask.mention.language] for ask in asks])

    def lengths(self, group: str) -> numpy.ndarray:
        """In tokens."""
        return -self.family.baselines("test", group)["tokens"]

    def inside(self, values: numpy.ndarray, asks: list[Ask]) -> Interval:
        """AUROC inside each spec, averaged over specs."""
        spec, positive = specs(asks), numpy.array([ask.positive for ask in asks])
        each = [auroc(values[spec == i], positive[spec == i]) for i in dict.fromkeys(spec.tolist())]
        return self.interval(numpy.mean, each)

    def later_steps(self) -> list[int]:
        """Later steps of a run at which it is looked at."""
        return [t for t in self.plan.timesteps if t in timesteps(self.plan.steps)[1:]]
