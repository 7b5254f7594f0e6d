"""From measurements to answers: what the test prompts say about the settings that the validation prompts chose.

A row is a dict with a column a key. Intervals are of resampled specs, never of single prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy
from coverage_measure import FIRST, Family, Judges, Variant
from coverage_prompts import Ask
from coverage_settings import PAPER, Plan, Row, Setting, tell_apart, well_or_not
from coverage_store import Values
from numpy.typing import ArrayLike

from emoe.schedule import timesteps
from emoe.study.baselines import saturated
from emoe.study.statistics import (
    Interval,
    aurc,
    auroc,
    ause,
    bootstrap,
    partial_spearman,
    pearson,
    quartile,
    quartile_table,
    risk_coverage,
    spearman,
    trend,
)

Found = dict[str, Any]  # answers by name: rows, curves, pictures
SHOWN = ("paper", "best")  # of the chosen settings, where a table has no room for all


class Answers:
    """Of one family, on the test prompts."""

    def __init__(self, family: Family, plan: Plan, chosen: Mapping[str, Setting], judges: Callable[[], Judges]):
        self.family, self.plan, self.chosen, self.judges, self.world = family, plan, chosen, judges, family.world

    def all(self) -> Found:
        """Every answer, by its name here; and the mixture's fingerprint."""
        names = (
            "summary",
            "settings",
            "languages",
            "hearing",
            "length",
            "timesteps",
            "later",
            "gaps",
            "correct",
            "quartiles",
        )
        names += ("across", "rejects", "curves", "pictures", "beside", "elsewhere", "saturation", "variants")
        return {name: getattr(self, name)() for name in names} | {"mixture": self.family.model(Variant()).mixture}

    def asks(self, group: str, specs: int | None = None) -> list[Ask]:
        return self.family.asks("test", group, specs)

    def _interval(self, statistic: Callable[..., float], asks: list[Ask], *columns: ArrayLike) -> Interval:
        return bootstrap(statistic, *columns, clusters=[ask.spec for ask in asks], resamples=self.plan.resamples)

    def _coverage(self, asks: list[Ask]) -> numpy.ndarray:
        return numpy.array([self.world.languages[ask.mention.language] for ask in asks])

    def ranks(self, values: numpy.ndarray, asks: list[Ask]) -> Row:
        """How a number ranks the coverage of languages."""
        coverage, positive = self._coverage(asks), well_or_not(self.world, asks)
        heard = coverage > 0
        some = [ask for ask, is_heard in zip(asks, heard, strict=True) if is_heard]
        return {
            "AUROC uncovered": self._interval(tell_apart, asks, values, positive),
            "Spearman with coverage": self._interval(spearman, asks, values, coverage),
            "Spearman, coverage above 0": self._interval(spearman, some, values[heard], coverage[heard]),
        }

    def settings(self) -> list[Row]:
        """The chosen settings, and how much better than the paper's they are on the same prompts."""
        asks = self.asks("languages")
        positive, paper = well_or_not(self.world, asks), PAPER.of(self.family, "test", "languages")
        rows = []
        for name, setting in self.chosen.items():
            values = setting.of(self.family, "test", "languages")
            gain = self._interval(
                lambda a, b, p: tell_apart(a, p) - tell_apart(b, p), asks, values, paper, positive
            )  # fmt: skip
            length = self._lengths("languages")
            rows.append(
                {"number": name, "setting": str(setting)}
                | self.ranks(values, asks)
                | {"gain over the paper's": gain}
                | {"Spearman given tokens": partial_spearman(values, self._coverage(asks), length)}
            )
        return rows

    def languages(self) -> list[Row]:
        """A row a language, from much covered to never."""
        asks = self.asks("languages")
        of = numpy.array([ask.mention.language for ask in asks])
        spec = numpy.array([ask.spec for ask in asks])
        length = self._lengths("languages")
        rows = []
        for name, coverage in self.world.languages.items():
            row: Row = {"language": name, "coverage": coverage, "tokens": float(length[of == name].mean())}
            for label in SHOWN:
                values = self.chosen[label].of(self.family, "test", "languages")
                own, english = values[of == name], values[of == "English"]
                row[f"{label}: mean"] = bootstrap(numpy.mean, own, resamples=self.plan.resamples)
                row[f"{label}: median"] = bootstrap(numpy.median, own, resamples=self.plan.resamples)
                if name != "English":
                    row[f"{label}: AUROC against English"] = bootstrap(
                        auroc,
                        numpy.concatenate([own, english]),
                        numpy.arange(2 * len(own)) < len(own),
                        clusters=numpy.concatenate([spec[of == name], spec[of == "English"]]),
                        resamples=self.plan.resamples,
                    )
                    row[f"{label}: share above English"] = float((own > english).mean())
                else:
                    row |= {f"{label}: AUROC against English": "", f"{label}: share above English": ""}
            rows.append(row)
        return rows

    def hearing(self) -> list[Row]:
        """What reaches the network of every language: medians at the first step."""
        of = numpy.array([ask.mention.language for ask in self.asks("languages")])
        parts = self.family.parts("test", "languages", FIRST)
        columns = {
            "variance over the paths": parts["post variance"],
            "what the prompt changes at the mid-block": parts["post answer's power"],
            "text, cosine with the empty prompt": self.family.baselines("test", "languages")["text to nothing"],
        }
        return [
            {"language": name, "coverage": coverage}
            | {
                key: bootstrap(numpy.median, values[of == name], resamples=self.plan.resamples)
                for key, values in columns.items()
            }
            for name, coverage in self.world.languages.items()
        ]

    def timesteps(self) -> list[Row]:
        """AUROC of uncovered languages at every timestep, for some estimators: from noise, seed 0."""
        asks = self.asks("languages")
        positive = well_or_not(self.world, asks)
        shown = dict.fromkeys(["eu", "relative", self.chosen["best at the first step"].estimator,
                               self.chosen["best"].estimator])  # fmt: skip
        rows = []
        for t in self.plan.timesteps:
            row: Row = {"timestep": t}
            for estimator in shown:
                for read_out in ("post", "pre") if estimator == "eu" else ("post",):
                    values = Setting(estimator, read_out, t).of(self.family, "test", "languages")
                    row[f"{estimator} ({read_out})"] = self._interval(tell_apart, asks, values, positive)
            rows.append(row)
        return rows

    def _lengths(self, group: str) -> numpy.ndarray:
        return -self.family.baselines("test", group)["tokens"]

    # Other gaps -----------------------------------------------------------------------------------------------------

    def gaps(self) -> list[Row]:
        """What was held out or seldom, beside what differs from it in a word: chance is 0.5."""
        rows = []
        for group, of in (("pairs", "held-out pairs"), ("shape", "held-out shape"), ("rare", "rare words")):
            row: Row = {"gap": of}
            for label, setting in self.chosen.items():
                row[label] = self._inside(setting.of(self.family, "test", group), self.asks(group))
            rows.append(row)
        for language in dict.fromkeys(ask.mention.language for ask in self.asks("shared")):
            asks = self.asks("shared")
            own = numpy.array([ask.mention.language == language for ask in asks])
            row = {"gap": f"own word rather than shared, {language}"}
            for label, setting in self.chosen.items():
                values = setting.of(self.family, "test", "shared")[own]
                row[label] = self._inside(values, [ask for ask, is_own in zip(asks, own, strict=True) if is_own])
            rows.append(row)
        return rows

    def _inside(self, values: numpy.ndarray, asks: list[Ask]) -> Interval:
        """AUROC inside each spec, averaged over specs."""
        spec, positive = numpy.array([ask.spec for ask in asks]), numpy.array([ask.positive for ask in asks])
        each = [auroc(values[spec == i], positive[spec == i]) for i in dict.fromkeys(spec.tolist())]
        return bootstrap(numpy.mean, each, resamples=self.plan.resamples)

    def length(self) -> list[Row]:
        """Does the number fall with a prompt's length, within a language?"""
        asks, length = self.asks("languages"), self._lengths("languages")
        english = numpy.array([ask.mention.language == "English" for ask in asks])
        rows = []
        for label, setting in self.chosen.items():
            values = setting.of(self.family, "test", "languages")
            rows.append(
                {
                    "number": label,
                    "Spearman with tokens, English": bootstrap(
                        spearman, values[english], length[english], resamples=self.plan.resamples
                    ),
                    "all languages": self._interval(spearman, asks, values, length),
                }
            )
        return rows

    # Against images -------------------------------------------------------------------------------------------------

    def drawn(self) -> tuple[list[Ask], Values]:
        """Prompts that have images, covered and not, and what was measured of them. Numbers go by "paper", "best"."""
        asks, found = [], []
        for group, specs in self.plan.drawn.items():
            mine = self.asks(group, specs)
            values = self.family.images("test", group, specs, self.judges, self._steps())
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
            return bootstrap(numpy.mean, values, clusters=clusters, resamples=self.plan.resamples)

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
        return bootstrap(tau, quarters, values, clusters=cluster, resamples=self.plan.resamples)

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
                    "Spearman with error": bootstrap(
                        spearman, values, error, clusters=cluster, resamples=self.plan.resamples
                    ),
                    "AUROC of images less than half right": bootstrap(
                        auroc, values, error > 0.5, clusters=cluster, resamples=self.plan.resamples
                    ),
                    "AURC": aurc(values, error),
                    "AUSE": bootstrap(ause, values, error, clusters=cluster, resamples=self.plan.resamples),
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
                f"r with {fit}": bootstrap(
                    r, language, found[label][mine], found[fit][mine],
                    clusters=found["cluster"][mine], resamples=self.plan.resamples,
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
        """A row a language, a column a spec."""
        languages, columns = len(self.world.languages), min(10, self.plan.drawn["languages"])
        return [
            [self.family.picture("test", "languages", i * languages + row) for i in range(columns)]
            for row in range(languages)
        ]

    # Side by side ---------------------------------------------------------------------------------------------------

    @cache  # noqa: B019
    def beside(self) -> list[Row]:
        """Every number at the first step, from the same noise; and the chosen ones."""
        found = {group: self.family.baselines("test", group) for group in ("languages", "pairs", "shape")}
        numbers: dict[str, dict[str, numpy.ndarray]] = {
            label: {group: setting.of(self.family, "test", group) for group in found}
            for label, setting in self.chosen.items()
        }
        names = list(found["languages"])
        numbers |= {name: {group: values[name] for group, values in found.items()} for name in names}
        return [
            {"number": name}
            | self.ranks(values["languages"], self.asks("languages"))
            | {
                "held-out pairs": self._inside(values["pairs"], self.asks("pairs")),
                "held-out shape": self._inside(values["shape"], self.asks("shape")),
            }
            for name, values in numbers.items()
        ]

    def summary(self) -> list[Row]:
        """Every number: what it knows of coverage, and of the image to come."""
        error = {row["number"]: row["Spearman with error"] for row in self.rejects()}
        return [row | {"Spearman with image's error": error[row["number"]]} for row in self.beside()]

    def elsewhere(self) -> list[Row]:
        """The baselines that depend on the timestep, at the chosen one."""
        t = self.chosen["best"].timestep
        found = self.family.baselines("test", "languages", t)
        asks = self.asks("languages")
        return [
            {"number": f"{name} at {t}"} | self.ranks(values, asks)
            for name, values in found.items()
            if not name.startswith(("gate", "text", "tokens"))
        ]

    def saturation(self) -> list[Row]:
        """The share of prompts within 1e-3 of PaiDE's largest value."""
        found = self.family.baselines("test", "languages")
        experts = self.family.model(Variant()).gate.experts
        return [
            {"number": name, "share within 0.001 of ln M": saturated(values, experts)}
            for name, values in found.items()
            if name.startswith("PaiDE")
        ]

    # Ablations ------------------------------------------------------------------------------------------------------

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
            "AUROC uncovered": self._interval(mean(tell_apart), asks, stacked, positive),
            "Spearman with coverage": self._interval(mean(spearman), asks, stacked, self._coverage(asks)),
        }

    def later(self) -> list[Row]:
        """Later steps of a run: ordinary until there; and the paper's paths, alone from the first step on."""
        specs, first = self.plan.drawn["languages"], timesteps(self.plan.steps)[0]
        asks, few = self.asks("languages", specs), self.asks("languages", self.plan.alone)
        shared = self.family.images("test", "languages", specs, self.judges, self._steps())
        alone = self.family.algorithm1("test", "languages", self.plan.alone)
        rows = []
        for t in (first, *self._steps()):
            row: Row = {"timestep": t}
            for name in ("eu", "relative"):
                if t == first:  # a run starts from the noise
                    values = Setting(name, timestep=t).of(self.family, "test", "languages", specs=specs)
                else:
                    values = shared[f"t {t} {name}"]
                row[f"run, then split: {name}"] = self.ranks(values, asks)["AUROC uncovered"]
                row[f"paths alone: {name}"] = self.ranks(alone[f"t {t} {name}"], few)["AUROC uncovered"]
            rows.append(row)
        return rows

    def _steps(self) -> list[int]:
        """Later steps of a run at which it is looked at."""
        return [t for t in self.plan.timesteps if t in timesteps(self.plan.steps)[1:]]
