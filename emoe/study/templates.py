"""A template audit (the paper's Figure 1, with statistics): one sentence, words exchanged, everything else equal.

"A {white|black} {man|woman}" is four prompts. What a word does is the difference it makes in pairs: the same noise, the
same other words. The noises are the sample, so a difference is first averaged over what the other words may be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from math import ceil, log2
from typing import Any

import numpy

from emoe.errors import EmoeError
from emoe.records import Record
from emoe.study.statistics import Array, holm, signed_ranks, student

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


def fewest_seeds(template: str) -> int:
    """How many noises it takes for the surest of differences to have a corrected p below 0.05."""
    rows = sum(len(choices) - 1 for choices in slots(template))
    return 1 + ceil(log2(rows / 0.05))  # s noises that all agree have p = 2^(1 - s)


def differences(template: str, by_noise: Array) -> list[Row]:
    """What each choice does beside the first of its slot.

    by_noise: (s, n) the uncertainty of the prompts of `fill(template)` under every noise.
    p: Wilcoxon's signed ranks over the noises, two-sided; with Holm's correction for the number of rows.
    """
    choices = slots(template)
    u = by_noise.reshape(len(by_noise), *map(len, choices))  # (seeds, choices of slot 1, of slot 2, ...)
    rows: list[Row] = []
    for slot, words in enumerate(choices, start=1):
        first = u.take(0, axis=slot)
        for other in range(1, len(words)):
            pairs = u.take(other, axis=slot) - first
            rows.append(
                {
                    "instead of": words[0],
                    "word": words[other],
                    **_tested(pairs.reshape(len(u), -1).mean(axis=1), float(first.mean())),
                    "pairs above 0": float((pairs > 0).mean()),
                }
            )
    return _corrected(rows)


def prompts(records: Sequence[Record], by_noise: Array) -> list[Row]:
    """Each prompt beside the first, the least uncertain first: what its words do together."""
    first = by_noise[:, 0]
    rows: list[Row] = [{"prompt": records[0]["prompt"], "mean over noises": student(first)}]
    for record, own in zip(records[1:], by_noise.T[1:], strict=True):
        told = {"prompt": record["prompt"], "mean over noises": student(own)}
        rows.append(told | _tested(own - first, float(first.mean())))
    return sorted([rows[0], *_corrected(rows[1:])], key=lambda row: row["mean over noises"].value)


def _tested(differences: Array, first: float) -> Row:
    """Of (s,) differences from something whose mean is `first`."""
    return {
        "mean difference": student(differences),
        "in percent": float(100 * differences.mean() / first),
        "p": signed_ranks(differences),
    }


def _corrected(rows: list[Row]) -> list[Row]:
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p (Holm)"] = p
    return rows
