"""Every number side by side, from the same noise."""

from __future__ import annotations

import numpy
from coverage_parts.baselines import saturated
from coverage_parts.measure import Variant
from coverage_parts.settings import Row
from coverage_parts.tested import Tested


class OfNumbers(Tested):
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
                "held-out pairs": self.inside(values["pairs"], self.asks("pairs")),
                "held-out shape": self.inside(values["shape"], self.asks("shape")),
            }
            for name, values in numbers.items()
        ]

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
