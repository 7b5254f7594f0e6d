"""What a list's scores say: tables of the paper's section 4, from records on disk.

A record is a line that `emoe score --out` wrote, with what the study's other stages found of the prompt: `clip` and
`ssim` of its image, `baselines`. What the list cannot answer, a group of one for instance, is a gap (nan) in a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from emoe.errors import EmoeError
from emoe.records import Record
from emoe.study.statistics import (
    Array,
    Interval,
    auroc,
    ause,
    bootstrap,
    pearson,
    quartile,
    quartile_table,
    spearman,
    trend,
)

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


def check_sizes(records: Sequence[Record]) -> None:
    """EmoeError for a group that the list gives two sizes."""
    sizes: dict[str, float] = {}
    for record in records:
        if "group" in record and "group_size" in record:
            size = sizes.setdefault(str(record["group"]), record["group_size"])
            if size != record["group_size"]:
                raise EmoeError(
                    f"the group {record['group']!r} has the sizes {size:g} and {record['group_size']:g}; give all of "
                    "its prompts the same"
                )


def measures(records: Sequence[Record]) -> dict[str, Array]:
    """What is known of every prompt beside the number: its words, and how well its image fits."""
    found = {"words": lengths(records)}
    for key, name in (("clip", "CLIP score"), ("ssim", "SSIM")):
        if all(key in record for record in records):
            found[name] = numpy.array([record[key] for record in records])
    return found


def quarters(records: Sequence[Record], resamples: int) -> list[Row]:
    """Tables 1, 3 and 5: do prompts get shorter, and images worse, as the number rises?"""
    u, known = uncertainties(records), measures(records)
    rows: list[Row] = [dict(row) for row in quartile_table(u, **known)]
    at = quartile(u)
    tau: Row = {
        name: bootstrap(lambda at, of: trend(at, of).tau, at, of, resamples=resamples) for name, of in known.items()
    }
    p = {name: trend(at, of).p for name, of in known.items()}
    return [*rows, {"quartile": "trend (Kendall's tau)"} | tau, {"quartile": "p of the trend"} | p]


def ranks(records: Sequence[Record], resamples: int) -> list[Row]:
    u = uncertainties(records)
    return [
        {"uncertainty and": name, "prompts": len(u), "Spearman": bootstrap(spearman, u, of, resamples=resamples)}
        for name, of in measures(records).items()
    ]


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
        some = of_group(records, name)
        row |= {f"mean {key}": float(of.mean()) for key, of in measures(some).items() if key != "words"}
        if name != names[0]:
            other = numpy.repeat([True, False], [len(u), len(first)])
            both = numpy.concatenate([u, first])
            row[f"AUROC against {names[0]}"] = bootstrap(auroc, both, other, strata=other, resamples=resamples)
        rows.append(row)
    return rows


def word_shares(records: Sequence[Record], word: str) -> list[Row]:
    """Table 4: of a group's prompts that hold the word, how many are among its least uncertain quarter?

    A quarter would be if the word said nothing. "red" is not in "a covered wagon", but it is in "Red, red wine"; with
    "pizza*" the word may go on, as in "pizzaa", its Finnish partitive.
    """
    stem = word.strip().removesuffix("*")
    end = "" if word.strip().endswith("*") else r"(?!\w)"
    rows, whole = [], re.compile(rf"(?<!\w){re.escape(stem)}{end}", re.IGNORECASE)
    for name in groups_of(records) or [None]:
        some = records if name is None else of_group(records, name)
        held = numpy.array([bool(whole.search(record["prompt"])) for record in some])
        lowest = quartile(uncertainties(some)) == 1
        share = float(lowest[held].mean()) if held.any() else float("nan")
        rows.append(
            {
                "group": "all" if name is None else name,
                "prompts": len(some),
                f"with {word!r}": int(held.sum()),
                "in the lowest quarter": share,
                "of all prompts": float(lowest.mean()),
            }
        )
    return rows


def extremes(records: Sequence[Record], count: int = 10) -> tuple[list[Row], list[Row]]:
    """The most and the least uncertain prompts."""
    order = numpy.argsort(uncertainties(records), kind="stable")
    rows = [{key: records[i][key] for key in ("uncertainty", "group", "prompt") if key in records[i]} for i in order]
    return rows[::-1][:count], rows[:count]


def group_means(records: Sequence[Record]) -> list[Row]:
    """Figure 7: of each group the mean uncertainty, the mean CLIP score, and the size, where the list has one."""
    rows = []
    for name in groups_of(records):
        some = of_group(records, name)
        sizes = [record["group_size"] for record in some if "group_size" in record]
        row = {"group": name, "uncertainty": float(uncertainties(some).mean())}
        row |= {"CLIP score": float(measures(some)["CLIP score"].mean())}
        rows.append(row | ({"size": sizes[0]} if sizes else {}))
    return rows


def group_correlation(records: Sequence[Record], resamples: int) -> Interval:
    """Pearson's r of the two, over groups."""
    rows = group_means(records)
    columns = ([row[key] for row in rows] for key in ("uncertainty", "CLIP score"))
    return bootstrap(pearson, *columns, resamples=resamples)


def estimates(records: Sequence[Record]) -> dict[str, Array]:
    """Every number that ranks these prompts, higher is more uncertain: ours, and the baselines where they were run."""
    found = {key: numpy.array([record[key] for record in records]) for key in ("uncertainty", "relative")}
    for name in records[0].get("baselines", {}):
        found[name] = numpy.array([record["baselines"][name] for record in records], float)  # None: nan
    return found


def compared(records: Sequence[Record], resamples: int) -> list[Row]:
    """A row per number, the best first: does it rank images by how badly they fit, and groups from the list's first?"""
    names, known = groups_of(records), measures(records)
    rows, merits = [], []
    for name, values in estimates(records).items():
        row: Row = {"number": name}
        merit = 0.0  # where nothing judges them, all stay in their order: likeness to ourselves is no merit
        if len(names) > 1:
            apart = _apart(records, values, resamples)
            merit = _known(apart)
        if "CLIP score" in known:
            error = 100 - known["CLIP score"]
            rank = bootstrap(spearman, values, -error, resamples=resamples)
            merit = -_known(rank)
            row["Spearman with CLIP score"] = rank
            row["AUSE"] = bootstrap(ause, values, error, resamples=resamples)
            worst = error > numpy.quantile(error, 0.75)
            row["AUROC of the worst quarter"] = bootstrap(auroc, values, worst, resamples=resamples)
        if len(names) > 1:
            row[f"AUROC of other groups than {names[0]}"] = apart
        row["Spearman with uncertainty"] = spearman(values, uncertainties(records))
        rows.append(row)
        merits.append(merit)
    return [rows[i] for i in numpy.argsort(-numpy.array(merits), kind="stable")]


def _apart(records: Sequence[Record], values: Array, resamples: int) -> Interval:
    """AUROC of every other group against the list's first; prompts of no group take no part."""
    first = groups_of(records)[0]
    grouped = numpy.array(["group" in record for record in records])
    other = numpy.array([str(record.get("group")) != first for record in records])[grouped]
    return bootstrap(auroc, values[grouped], other, strata=other, resamples=resamples)


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
    base, names, known = uncertainties(own), groups_of(own), measures(own)
    rows = []
    for name, records in ways.items():
        u = uncertainties(records)
        row: Row = {"way": name, "mean": float(u.mean()), "Spearman with the first": spearman(u, base)}
        if "CLIP score" in known:
            row["Spearman with CLIP score"] = bootstrap(spearman, u, known["CLIP score"], resamples=resamples)
        if len(names) > 1:
            row[f"AUROC of other groups than {names[0]}"] = _apart(own, u, resamples)
        rows.append(row)
    return rows


def _known(value: float | Interval) -> float:
    value = value.value if isinstance(value, Interval) else value
    return 0.0 if value != value else value
