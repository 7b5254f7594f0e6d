"""How far a run has come: a bar on a terminal, a line a minute in a log, where a bar would be noise."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

from tqdm import tqdm

from emoe.terminal import say

EVERY = 60  # seconds; a run that takes less says nothing


def progress(total: int, unit: str, done: int = 0, name: str | None = None) -> tqdm | Lines:
    """To be told of every `unit` that is done, by `update`. name: of the run's part, where it has several."""
    if sys.stderr.isatty():
        return tqdm(total=total, initial=done, unit=unit, desc=name)
    return Lines(total, unit, done, name)


class Lines:
    """As much of a tqdm as is used here."""

    def __init__(self, total: int, unit: str, done: int = 0, name: str | None = None):
        self.total, self.unit, self.n, self.name = total, unit, done, name
        self.first, self.began, self.said = done, monotonic(), monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        self.n += n
        self.refresh()

    def refresh(self) -> None:
        now = monotonic()
        if now < self.said + EVERY or self.n <= self.first:
            return
        self.said = now
        left = (now - self.began) / (self.n - self.first) * (self.total - self.n)
        name = f"{self.name}: " if self.name else ""
        say(f"{name}{self.unit} {self.n} of {self.total}, {tqdm.format_interval(left)} to go")

    def set_postfix(self, **values: Any) -> None:
        """A line says no more than how far the run has come."""
