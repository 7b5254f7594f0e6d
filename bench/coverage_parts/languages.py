"""Does the number rank languages by how often training met them?"""

from __future__ import annotations

import numpy
from coverage_parts.measure import FIRST
from coverage_parts.settings import PAPER, Row, Setting, tell_apart, well_or_not
from coverage_parts.tested import SHOWN, Tested, specs

from emoe.study.statistics import auroc, partial_spearman, spearman

BESIDE = ("Var(z)", "PaiDE W2", "Var(noise)", "classifier error")  # baselines whose rank hangs on length most


class OfLanguages(Tested):
    def settings(self) -> list[Row]:
        """The chosen settings, and how much better than the paper's they are on the same prompts."""
        asks = self.asks("languages")
        positive, paper = well_or_not(self.world, asks), PAPER.of(self.family, "test", "languages")
        rows = []
        for name, setting in self.chosen.items():
            values = setting.of(self.family, "test", "languages")
            gain = self.interval(_gain, values, paper, positive, clusters=specs(asks))
            length = self.lengths("languages")
            rows.append(
                {"number": name, "setting": str(setting)}
                | self.ranks(values, asks)
                | {"gain over the paper's": gain}
                | {"Spearman given tokens": partial_spearman(values, self.coverage(asks), length)}
            )
        return rows

    def languages(self) -> list[Row]:
        """A row per language, from much covered to never."""
        asks = self.asks("languages")
        of = numpy.array([ask.mention.language for ask in asks])
        spec = specs(asks)
        length = self.lengths("languages")
        rows = []
        for name, coverage in self.world.languages.items():
            row: Row = {"language": name, "coverage": coverage, "tokens": float(length[of == name].mean())}
            for label in SHOWN:
                values = self.chosen[label].of(self.family, "test", "languages")
                own, english = values[of == name], values[of == "English"]
                row[f"{label}: mean"] = self.interval(numpy.mean, own)
                row[f"{label}: median"] = self.interval(numpy.median, own)
                if name != "English":
                    row[f"{label}: AUROC against English"] = self.interval(
                        auroc,
                        numpy.concatenate([own, english]),
                        numpy.arange(2 * len(own)) < len(own),
                        clusters=numpy.concatenate([spec[of == name], spec[of == "English"]]),
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
            | {key: self.interval(numpy.median, values[of == name]) for key, values in columns.items()}
            for name, coverage in self.world.languages.items()
        ]

    def length(self) -> list[Row]:
        """Does the number fall with a prompt's length, within a language?"""
        asks, length = self.asks("languages"), self.lengths("languages")
        english = numpy.array([ask.mention.language == "English" for ask in asks])
        rows = []
        for label, setting in self.chosen.items():
            values = setting.of(self.family, "test", "languages")
            rows.append(
                {
                    "number": label,
                    "Spearman with tokens, English": self.interval(spearman, values[english], length[english]),
                    "all languages": self.interval(spearman, values, length, clusters=specs(asks)),
                }
            )
        return rows

    def by_length(self) -> list[Row]:
        """AUROC of uncovered languages among scenes that take few words to tell, and among the others."""
        asks, length = self.asks("languages"), self.lengths("languages")
        spec, positive = specs(asks), well_or_not(self.world, asks)
        english = {
            ask.spec: tokens for ask, tokens in zip(asks, length, strict=True) if ask.mention.language == "English"
        }
        told = numpy.array([english[one] for one in spec])
        middle = numpy.median(list(english.values()))
        baselines = self.family.baselines("test", "languages")
        numbers = {"paper": PAPER.of(self.family, "test", "languages")} | {name: baselines[name] for name in BESIDE}
        parts = {f"English of {middle:g} tokens at most": told <= middle, "of more": told > middle}
        return [
            {"number": name}
            | {
                label: self.interval(tell_apart, values[part], positive[part], clusters=spec[part])
                for label, part in parts.items()
            }
            for name, values in numbers.items()
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
                    row[f"{estimator} ({read_out})"] = self.interval(tell_apart, values, positive, clusters=specs(asks))
            rows.append(row)
        return rows


def _gain(values: numpy.ndarray, others: numpy.ndarray, positive: numpy.ndarray) -> float:
    return tell_apart(values, positive) - tell_apart(others, positive)
