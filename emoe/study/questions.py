"""What a list's scores say: tables of the paper's section 4, from records on disk.

What the list cannot answer, a word that no prompt holds for instance, is a gap (nan) in a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from scipy import stats

from emoe.records import Record
from emoe.study.columns import FIRST_NOISE, estimates, groups_of, measures, of_group, scenes, uncertainties
from emoe.study.groups import separation
from emoe.study.statistics import (
    Array,
    Interval,
    auroc,
    bootstrap,
    gain,
    partial_spearman,
    quartile,
    quartile_table,
    spearman,
    trend,
)
from emoe.words import pattern

Row = dict[str, Any]
CEILING = 1e-3  # of the largest value: such prompts count as equal to it


def quarters(records: Sequence[Record], resamples: int) -> list[Row]:
    """Tables 1, 3 and 5: do prompts get shorter, and images worse, as the number rises?

    p of prompts that tell the same scenes is a gap: the test takes prompts for independent.
    """
    u, known, told = uncertainties(records), measures(records), scenes(records)
    rows: list[Row] = [dict(row) for row in quartile_table(u, **known)]
    at = quartile(u)
    tau: Row = {
        name: bootstrap(lambda at, of: trend(at, of).tau, at, of, clusters=told, resamples=resamples)
        for name, of in known.items()
    }
    p = {name: trend(at, of).p if told is None else float("nan") for name, of in known.items()}
    return [*rows, {"quartile": "trend (Kendall's tau)"} | tau, {"quartile": "p of the trend"} | p]


def ranks(records: Sequence[Record], resamples: int) -> list[Row]:
    u, known, told = uncertainties(records), measures(records), scenes(records)
    rows = []
    for name, of in known.items():
        row: Row = {"uncertainty and": name, "prompts": len(u)}
        row["Spearman"] = bootstrap(spearman, u, of, clusters=told, resamples=resamples)
        if name != "words":
            given = partial_spearman(u, of, known["words"])
            row["given the number of words"] = given
        rows.append(row)
    return rows


def word_shares(records: Sequence[Record], word: str) -> list[Row]:
    """Table 4: of a group's prompts that hold the word, how many are among its least uncertain quarter?

    A quarter would be if the word said nothing; p is the chance of so many or more then (hypergeometric). It is a gap
    where the prompts tell the same scenes: the test takes them for independent.
    """
    rows, whole = [], pattern(word)
    for name in groups_of(records) or [None]:
        some = records if name is None else of_group(records, name)
        held = numpy.array([bool(whole.search(record["prompt"])) for record in some])
        lowest = quartile(uncertainties(some)) == 1
        both, share = int((held & lowest).sum()), float(lowest[held].mean()) if held.any() else float("nan")
        p = float(stats.hypergeom.sf(both - 1, len(some), int(lowest.sum()), int(held.sum())))
        rows.append(
            {
                "group": "all" if name is None else name,
                "prompts": len(some),
                f"with {word!r}": int(held.sum()),
                "in the lowest quarter": share,
                "of all prompts": float(lowest.mean()),
                "p": p if held.any() and scenes(some) is None else float("nan"),
            }
        )
    return rows


def extremes(records: Sequence[Record], count: int = 10) -> tuple[list[Row], list[Row]]:
    """The most and the least uncertain prompts."""
    order = numpy.argsort(uncertainties(records), kind="stable")
    rows = [{key: records[i][key] for key in ("uncertainty", "group", "prompt") if key in records[i]} for i in order]
    return rows[::-1][:count], rows[:count]


def every_prompt(records: Sequence[Record]) -> list[Row]:
    """All of them, the most uncertain first, with the percentage of the list that is less uncertain."""
    u = uncertainties(records)
    percent = 100 * (stats.rankdata(u) - 0.5) / len(u)
    keys = ("id", "group", "prompt", "uncertainty", "eu", "relative", "clip", "ssim", "truncated")
    return [
        {"rank": rank, "percentile": round(float(percent[i]), 2)} | {k: records[i][k] for k in keys if k in records[i]}
        for rank, i in enumerate(numpy.argsort(-u, kind="stable"), start=1)
    ]


def experts(records: Sequence[Record]) -> list[Row]:
    """A row per expert: what the gate makes of it in this list. [] with the hidden gate, which has no one route."""
    if not all(record.get("weights") for record in records):
        return []
    weights, u = numpy.array([record["weights"] for record in records]), uncertainties(records)
    rows = []
    for i, own in enumerate(weights.T, start=1):
        chosen = own > 0
        row: Row = {"expert": i, "chosen for": float(chosen.mean()), "mean weight": float(own.mean())}
        for name, those in (("median uncertainty where chosen", chosen), ("elsewhere", ~chosen)):
            row[name] = float(numpy.median(u[those])) if those.any() else float("nan")
        rows.append(row)
    return rows


def compared(records: Sequence[Record], resamples: int) -> list[Row]:
    """A row per number, the best first: does it rank images by how badly they fit, and groups from the list's first?

    "better by": how much stronger its rank correlation is than uncertainty's, on the same resamples. Baselines are of
    the first noise of several, and so is the uncertainty that they are held against.
    """
    names, known, told = groups_of(records), measures(records), scenes(records)
    numbers = estimates(records)
    ours = numbers.get(FIRST_NOISE, numbers["uncertainty"])
    rows, merits = [], []
    for name, values in numbers.items():
        row: Row = {"number": name}
        merit = 0.0  # where nothing judges them, all stay in their order: likeness to ourselves is no merit
        own = numbers["uncertainty"] if name in ("uncertainty", "relative") else ours
        if len(names) > 1:
            apart = _apart(records, values, resamples)
            merit = _known(apart)
        if "CLIP score" in known:
            error = 100 - known["CLIP score"]
            rank = bootstrap(spearman, values, known["CLIP score"], clusters=told, resamples=resamples)
            merit = -_known(rank)
            row["Spearman with CLIP score"] = rank
            row["better by"] = bootstrap(_better, values, own, error, clusters=told, resamples=resamples)
            row["of the best gain"] = bootstrap(gain, values, error, clusters=told, resamples=resamples)
            worst = error > numpy.quantile(error, 0.75)
            row["AUROC of the worst quarter"] = bootstrap(auroc, values, worst, clusters=told, resamples=resamples)
            if len(names) > 1:
                row["within groups"] = _within(records, values, known["CLIP score"])
        if len(names) > 1:
            row[f"AUROC of other groups than {names[0]}"] = apart
        row["Spearman with uncertainty"] = spearman(values, uncertainties(records))
        row["at its ceiling"] = float(numpy.mean(values >= values.max() - CEILING * abs(values.max())))
        rows.append(row)
        merits.append(merit)
    return [rows[i] for i in numpy.argsort(-numpy.array(merits), kind="stable")]


def _better(values: Array, ours: Array, error: Array) -> float:
    return spearman(values, error) - spearman(ours, error)


def _within(records: Sequence[Record], values: Array, clip: Array) -> float:
    """The mean over groups of Spearman's, each within its group: what is left where groups differ in both."""
    of = numpy.array([record.get("group") for record in records], object)
    found = [spearman(values[of == name], clip[of == name]) for name in groups_of(records)]
    return float(numpy.nanmean(found)) if not numpy.isnan(found).all() else float("nan")


def _apart(records: Sequence[Record], values: Array, resamples: int) -> Interval:
    """AUROC of every other group against the list's first; prompts of no group take no part."""
    first = groups_of(records)[0]
    grouped = [i for i, record in enumerate(records) if "group" in record]
    some = [records[i] for i in grouped]
    return separation(some, values[grouped], numpy.array([r["group"] != first for r in some]), resamples)


def thresholds(records: Sequence[Record], shares: Sequence[float] = (1.0, 0.95, 0.9, 0.75, 0.5, 0.25)) -> list[Row]:
    """What a limit on uncertainty saves and costs: images that are not drawn, and how well the others fit."""
    u, clip = uncertainties(records), measures(records)["CLIP score"]
    rows = []
    for share in shares:
        limit = float(numpy.quantile(u, share, method="inverted_cdf"))
        kept = u <= limit
        row: Row = {"limit": limit, "drawn": float(kept.mean()), "CLIP score of the drawn": float(clip[kept].mean())}
        rows.append(row | {"of the others": float(clip[~kept].mean()) if not kept.all() else float("nan")})
    return rows


def ablations(ways: Mapping[str, Sequence[Record]], resamples: int) -> list[Row]:
    """Figure 8: a row per way of reading the list, the study's own first."""
    own, *_ = ways.values()
    base, names, known, told = uncertainties(own), groups_of(own), measures(own), scenes(own)
    rows = []
    for name, records in ways.items():
        u = uncertainties(records)
        row: Row = {"way": name, "mean": float(u.mean()), "Spearman with the first": spearman(u, base)}
        if "CLIP score" in known:
            clip = known["CLIP score"]
            row["Spearman with CLIP score"] = bootstrap(spearman, u, clip, clusters=told, resamples=resamples)
            row |= {f"Q{q['quartile']}": q["CLIP score"] for q in quartile_table(u, **{"CLIP score": clip})}
        if len(names) > 1:
            row[f"AUROC of other groups than {names[0]}"] = _apart(own, u, resamples)
        rows.append(row)
    return rows


def _known(value: float | Interval) -> float:
    value = value.value if isinstance(value, Interval) else value
    return 0.0 if value != value else value
