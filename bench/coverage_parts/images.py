"""Does the number know beforehand how well an image will fit its prompt?"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy
from coverage_parts.prompts import Ask
from coverage_parts.settings import Row
from coverage_parts.store import Values
from coverage_parts.tested import SHOWN, Tested
from numpy.typing import ArrayLike

from emoe.study.statistics import (
    Interval,
    aurc,
    auroc,
    ause,
    pearson,
    quartile,
    quartile_table,
    risk_coverage,
    spearman,
    trend,
)


class OfImages(Tested):
    def drawn(self) -> tuple[list[Ask], Values]:
        """Prompts that have images, covered and not, and what was measured of them. Numbers go by "paper", "best"."""
        asks, found = [], []
        for group, specs in self.plan.drawn.items():
            mine = self.asks(group, specs)
            values = self.family.images("test", group, specs, self.judges, self.later_steps())
            numbers = {label: s.of(self.family, "test", group)[: len(mine)] for label, s in self.chosen.items()}
            baselines = self.family.baselines("test", group)
            numbers |= {name: column[: len(mine)] for name, column in baselines.items()}
            numbers["cluster"] = numpy.array([f"{group} {ask.spec}" for ask in mine])
            asks += mine
            found.append(values | numbers)
        return asks, {key: numpy.concatenate([values[key] for values in found]) for key in found[0]}

    def correct(self) -> list[Row]:
        """How well images of every kind of prompt fit."""
        asks, found = self.drawn()
        kind = numpy.array([ask.mention.language if ask.group == "languages" else f"{ask.group}, {ask.case}"
                            for ask in asks])  # fmt: skip

        def mean(column: str, name: str) -> Interval:
            of = kind == name
            values, clusters = found[column][of], found["cluster"][of]
            return self.interval(numpy.mean, values, clusters=clusters)

        return [
            {"prompts": name, "images": int((kind == name).sum())}
            | {"told attributes right": mean("accuracy", name), "CLIP score": mean("clip", name)}
            for name in dict.fromkeys(kind.tolist())
        ]

    def quartiles(self) -> list[Row]:
        """The paper's Table 1: quarters of the prompts by their number, and how well their images fit."""
        _, found = self.drawn()
        tokens, rows = -found["tokens"], []
        for label in SHOWN:
            columns = {"accuracy": found["accuracy"], "clip": found["clip"], "tokens": tokens}
            at = quartile(found[label])
            for row in quartile_table(found[label], **columns):
                rows.append({"number": label} | row)
            told = {name: self._tau(at, values, found["cluster"]) for name, values in columns.items()}
            rows.append({"number": label, "quartile": "trend (tau)", "prompts": len(at), "uncertainty": ""} | told)
        return rows

    def _tau(self, quarters: ArrayLike, values: ArrayLike, cluster: ArrayLike) -> Interval:
        """Prompts of one scene are no independent witnesses, so that a test's p would flatter."""
        tau = lambda at, of: trend(at, of).tau  # noqa: E731
        return self.interval(tau, quarters, values, clusters=cluster)

    @cache  # noqa: B019 (as long-lived as the process)
    def rejects(self) -> list[Row]:
        """Which number knows beforehand that an image will not fit? Its error: what share of what was told is wrong."""
        _, found = self.drawn()
        error, cluster = 1 - found["accuracy"], found["cluster"]
        skip = {"accuracy", "clip", "cluster"}
        rows = []
        for name, values in found.items():
            if name in skip or name.startswith("t "):
                continue
            rows.append(
                {
                    "number": name,
                    "Spearman with error": self.interval(spearman, values, error, clusters=cluster),
                    "AUROC of images less than half right": self.interval(auroc, values, error > 0.5, clusters=cluster),
                    "AURC": aurc(values, error),
                    "AUSE": self.interval(ause, values, error, clusters=cluster),
                }
            )
        return rows

    def across(self) -> list[Row]:
        """The paper's Figure 7: languages as points, mean number against mean fit. Pearson's r of seven points."""
        asks, found = self.drawn()
        mine = numpy.array([ask.group == "languages" for ask in asks])
        language = numpy.array([ask.mention.language for ask in asks])[mine]

        def r(of: numpy.ndarray, values: numpy.ndarray, fit: numpy.ndarray) -> float:
            means = [(values[of == name].mean(), fit[of == name].mean()) for name in self.world.languages]
            return pearson(*numpy.transpose(means))

        return [
            {"number": label}
            | {
                f"r with {fit}": self.interval(
                    r, language, found[label][mine], found[fit][mine],
                    clusters=found["cluster"][mine],
                )
                for fit in ("clip", "accuracy")
            }
            for label in self.chosen
        ]  # fmt: skip

    def curves(self) -> dict[str, tuple[numpy.ndarray, numpy.ndarray]]:
        """Risk over coverage, for the plot."""
        _, found = self.drawn()
        error = 1 - found["accuracy"]
        shown = ["paper", "best", "Var(z)", "PaiDE W2, D/d", "text to nearest caption", "text to nothing"]
        return {name: risk_coverage(found[name], error) for name in shown} | {"oracle": risk_coverage(error, error)}

    def pictures(self) -> list[list[Path]]:
        """A row per language, a column per spec."""
        languages, columns = len(self.world.languages), min(10, self.plan.drawn["languages"])
        return [
            [self.family.picture("test", "languages", i * languages + row) for i in range(columns)]
            for row in range(languages)
        ]
