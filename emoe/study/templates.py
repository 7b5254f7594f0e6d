"""A template audit (the paper's Figure 1, with statistics): one sentence, words exchanged, everything else equal.

"A {white|black} {man|woman}" is four prompts. What a word does is the difference it makes in pairs: the same noise, the
same other words. The noises are the sample, so a difference is first averaged over what the other words may be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy
from scipy import stats

from emoe.errors import EmoeError
from emoe.records import Record
from emoe.study.statistics import Array, bootstrap

Row = dict[str, Any]
SLOT = re.compile(r"\{([^{}]*)\}")
MOST = 10_000  # prompts


def slots(template: str) -> list[list[str]]:
    """The choices of each slot. EmoeError for a template without any."""
    found = [[choice.strip() for choice in slot.split("|")] for slot in SLOT.findall(template)]
    if not found or set("{}") & set(SLOT.sub("", template)):
        raise EmoeError(f"the template {template!r} has no slots like {{white|black}}; write some")
    for choices in found:
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise EmoeError(f"the slot {{{'|'.join(choices)}}} of the template needs two different choices or more")
    if numpy.prod([len(choices) for choices in found], dtype=float) > MOST:
        raise EmoeError(f"the template makes more than {MOST:,} prompts; leave choices out")
    return found


def fill(template: str, negative: str = "") -> list[Record]:
    """A row per prompt, in the order of the choices."""
    rows = []
    for chosen in product(*slots(template)):
        words = iter(chosen)
        prompt = " ".join(SLOT.sub(lambda slot, words=words: next(words), template).split())
        rows.append({"prompt": prompt, "negative_prompt": negative})
    return rows


def differences(template: str, by_seed: Sequence[Sequence[Record]], resamples: int) -> list[Row]:
    """What each choice does beside the first of its slot.

    by_seed: for every seed the records of `fill(template)`.  p: Wilcoxon's signed ranks over the seeds, two-sided; with
    Holm's correction for the number of rows.
    """
    choices = slots(template)
    u = numpy.array([[record["uncertainty"] for record in records] for records in by_seed])
    u = u.reshape(len(u), *map(len, choices))  # (seeds, choices of slot 1, of slot 2, ...)
    rows: list[Row] = []
    for slot, words in enumerate(choices, start=1):
        first = u.take(0, axis=slot)
        for other in range(1, len(words)):
            pairs = u.take(other, axis=slot) - first
            per_seed = pairs.reshape(len(u), -1).mean(axis=1)
            rows.append(
                {
                    "instead of": words[0],
                    "word": words[other],
                    "mean difference": bootstrap(numpy.mean, per_seed, resamples=resamples),
                    "in percent": float(100 * per_seed.mean() / first.mean()),
                    "pairs above 0": float((pairs > 0).mean()),
                    "seeds": len(u),
                    "p": signed_ranks(per_seed),
                }
            )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p (Holm)"] = p
    return rows


def signed_ranks(differences: Array) -> float:
    """Wilcoxon's test that differences lie about 0. nan where there is nothing to rank."""
    if len(differences) < 2 or not differences.any():
        return float("nan")
    return float(stats.wilcoxon(differences).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Corrected for how many there are; what is nan is not counted."""
    order = sorted((value, i) for i, value in enumerate(p) if value == value)
    corrected, largest = [float("nan")] * len(p), 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[i] = largest
    return corrected
