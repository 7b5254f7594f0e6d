"""What a list's scores say: tables of the paper's section 4, from records on disk.

A record is a line that `emoe score --out` wrote; of its keys, `uncertainty`, `prompt` and (where there is one) `group`
are read. What the list cannot answer, a group of one for instance, is a gap (nan) in a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy

from emoe.records import Record
from emoe.study.statistics import auroc, bootstrap, quartile, quartile_table, spearman, trend

Row = dict[str, Any]


def uncertainties(records: Sequence[Record]) -> numpy.ndarray:
    """(n,)"""
    return numpy.array([record["uncertainty"] for record in records])


def lengths(records: Sequence[Record]) -> numpy.ndarray:
    """(n,) words."""
    return numpy.array([len(record["prompt"].split()) for record in records])


def groups_of(records: Sequence[Record]) -> list[str]:
    """Each once, in the order of the list."""
    return list(dict.fromkeys(str(record["group"]) for record in records if "group" in record))


def of_group(records: Sequence[Record], group: str) -> list[Record]:
    return [record for record in records if str(record.get("group")) == group]


def quarters(records: Sequence[Record], resamples: int) -> list[Row]:
    """Tables 1 and 3, as far as they need no image: does the number fall as prompts get longer?"""
    u, words = uncertainties(records), lengths(records)
    rows: list[Row] = [dict(row) for row in quartile_table(u, words=words)]
    tau = bootstrap(lambda at, of: trend(at, of).tau, quartile(u), words, resamples=resamples)
    return [*rows, {"quartile": "trend (Kendall's tau)", "words": tau}]


def length(records: Sequence[Record], resamples: int) -> list[Row]:
    rank = partial(bootstrap, spearman, uncertainties(records), lengths(records), resamples=resamples)
    return [{"prompts": len(records), "Spearman of uncertainty and words": rank()}]


def groups(records: Sequence[Record], resamples: int) -> list[Row]:
    """Table 2 and Figure 5: each group beside the list's first one."""
    names = groups_of(records)
    first = uncertainties(of_group(records, names[0]))
    rows = []
    for name in names:
        u = uncertainties(of_group(records, name))
        row: Row = {"group": name, "prompts": len(u), "mean": bootstrap(numpy.mean, u, resamples=resamples)}
        row |= {
            "standard deviation": float(u.std(ddof=1)) if len(u) > 1 else float("nan"),
            "median": float(numpy.median(u)),
        }
        if name != names[0]:
            other = numpy.repeat([True, False], [len(u), len(first)])
            both = numpy.concatenate([u, first])
            row[f"AUROC against {names[0]}"] = bootstrap(auroc, both, other, strata=other, resamples=resamples)
        rows.append(row)
    return rows


def word_shares(records: Sequence[Record], word: str) -> list[Row]:
    """Table 4: of a group's prompts that hold the word, how many are among its least uncertain quarter?

    A quarter would be if the word said nothing.
    """
    rows = []
    for name in groups_of(records) or [None]:
        some = records if name is None else of_group(records, name)
        held = numpy.array([word.lower() in record["prompt"].lower() for record in some])
        lowest = quartile(uncertainties(some)) == 1
        share = float(lowest[held].mean()) if held.any() else float("nan")
        rows.append(
            {
                "group": name or "all",
                "prompts": len(some),
                f"with {word!r}": int(held.sum()),
                "in the lowest quarter": share,
            }
        )
    return rows


def extremes(records: Sequence[Record], count: int = 10) -> tuple[list[Row], list[Row]]:
    """The most and the least uncertain prompts."""
    order = numpy.argsort(uncertainties(records), kind="stable")
    rows = [{key: records[i][key] for key in ("uncertainty", "group", "prompt") if key in records[i]} for i in order]
    return rows[::-1][:count], rows[:count]
