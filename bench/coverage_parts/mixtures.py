"""Does it depend on the mixture, or on the step at which paths part?"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, islice

import numpy
from coverage_parts.measure import Variant
from coverage_parts.prompts import Ask
from coverage_parts.settings import Row, Setting, tell_apart, well_or_not
from coverage_parts.tested import SHOWN, Tested, specs

from emoe.schedule import timesteps
from emoe.study.statistics import spearman


class OfMixtures(Tested):
    def variants(self) -> list[Row]:
        """The mixture otherwise: fewer experts, other routes, other places to part. Mean over mixtures of a kind."""
        count = self.family.model(Variant()).gate.experts
        kinds: dict[str, list[Variant]] = {"as shipped": [Variant()]}
        for m in range(2, count):
            few = islice(combinations(range(count), m), self.plan.mixtures)
            kinds[f"M = {m}"] = [Variant(experts=chosen) for chosen in few]
        kinds |= {f"top {n}": [Variant(top=n)] for n in range(1, count + 1)}
        kinds["gate uniform"] = [Variant(gate="uniform")]
        kinds |= {f"split {place}": [Variant(split=place)] for place in ("attn1", "ff")}
        asks = self.asks("languages", self.plan.ablated)
        rows = []
        for kind, variants in kinds.items():
            row: Row = {"mixture": kind, "mixtures": len(variants)}
            for label in SHOWN:
                setting = self.chosen[label]
                values = [
                    setting.of(self.family, "test", "languages", variant=v, specs=self.plan.ablated) for v in variants
                ]
                row |= {f"{label}: {key}": value for key, value in self._mean_ranks(values, asks).items()}
            rows.append(row)
        return rows

    def _mean_ranks(self, values: list[numpy.ndarray], asks: list[Ask]) -> Row:
        """`ranks`, averaged over mixtures; what is resampled are the specs."""
        stacked, positive = numpy.stack(values, axis=1), well_or_not(self.world, asks)

        def mean(of: Callable[..., float]) -> Callable[..., float]:
            return lambda v, truth: float(numpy.mean([of(column, truth) for column in v.T]))

        return {
            "AUROC uncovered": self.interval(mean(tell_apart), stacked, positive, clusters=specs(asks)),
            "Spearman with coverage": self.interval(mean(spearman), stacked, self.coverage(asks), clusters=specs(asks)),
        }

    def later(self) -> list[Row]:
        """Later steps of a run: ordinary until there; and the paper's paths, alone from the first step on."""
        count, first = self.plan.drawn["languages"], timesteps(self.plan.steps)[0]
        asks, few = self.asks("languages", count), self.asks("languages", self.plan.alone)
        shared = self.family.images("test", "languages", count, self.judges, self.later_steps())
        alone = self.family.algorithm1("test", "languages", self.plan.alone)
        rows = []
        for t in (first, *self.later_steps()):
            row: Row = {"timestep": t}
            for name in ("eu", "relative"):
                if t == first:  # a run starts from the noise
                    values = Setting(name, timestep=t).of(self.family, "test", "languages", specs=count)
                else:
                    values = shared[f"t {t} {name}"]
                row[f"run, then split: {name}"] = self.ranks(values, asks)["AUROC uncovered"]
                row[f"paths alone: {name}"] = self.ranks(alone[f"t {t} {name}"], few)["AUROC uncovered"]
            rows.append(row)
        return rows
