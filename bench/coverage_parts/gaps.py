"""Does the number see what else was held out, or told seldom?"""

from __future__ import annotations

import numpy
from coverage_parts.settings import Row
from coverage_parts.tested import Tested


class OfGaps(Tested):
    def gaps(self) -> list[Row]:
        """What was held out or seldom, beside what differs from it in a word: chance is 0.5."""
        rows = []
        for group, of in (("pairs", "held-out pairs"), ("shape", "held-out shape"), ("rare", "rare words")):
            row: Row = {"gap": of}
            for label, setting in self.chosen.items():
                row[label] = self.inside(setting.of(self.family, "test", group), self.asks(group))
            rows.append(row)
        for language in dict.fromkeys(ask.mention.language for ask in self.asks("shared")):
            asks = self.asks("shared")
            own = numpy.array([ask.mention.language == language for ask in asks])
            row = {"gap": f"own word rather than shared, {language}"}
            for label, setting in self.chosen.items():
                values = setting.of(self.family, "test", "shared")[own]
                row[label] = self.inside(values, [ask for ask, is_own in zip(asks, own, strict=True) if is_own])
            rows.append(row)
        return rows
