"""Groups of a list side by side (a language, a template): the paper's Table 2, its Figures 5 and 7, and pairs.

What the list cannot answer, a group of one for instance, is a gap (nan) in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy

from emoe.records import Record
from emoe.study.columns import by_noise, groups_of, measures, of_group, scenes, uncertainties
from emoe.study.statistics import (
    Array,
    Interval,
    auroc,
    bootstrap,
    fisher,
    holm,
    pearson,
    rank_sum,
    signed_ranks,
    spearman,
)

Row = dict[str, Any]


def groups(records: Sequence[Record], resamples: int) -> list[Row]:
    """Table 2 and Figure 5: each group beside the list's first one."""
    names = groups_of(records)
    first = of_group(records, names[0])
    rows = []
    for name in names:
        some = of_group(records, name)
        u = uncertainties(some)
        row: Row = {"group": name, "prompts": len(u)}
        row["mean"] = bootstrap(numpy.mean, u, clusters=scenes(some), resamples=resamples)
        row |= {
            "standard deviation": float(u.std(ddof=1)) if len(u) > 1 else float("nan"),
            "median": float(numpy.median(u)),
        }
        row |= {f"mean {key}": float(of.mean()) for key, of in measures(some).items() if key != "words"}
        if name != names[0]:
            row |= _beside(some, first, names[0], resamples)
        rows.append(row)
    tested = [row for row in rows if "p" in row]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p (Holm)"] = p
    return rows


def _beside(some: Sequence[Record], first: Sequence[Record], name: str, resamples: int) -> Row:
    both = [*some, *first]
    other = numpy.repeat([True, False], [len(some), len(first)])
    row: Row = {f"AUROC against {name}": separation(both, uncertainties(both), other, resamples)}
    if (noises := by_noise(both)) is not None:
        row["noise by noise"] = from_to([auroc(u, other) for u in noises])
    if scenes(both) is None:  # else `pairs` tests what is paired
        row["p"] = rank_sum(uncertainties(some), uncertainties(first))
    return row


def separation(records: Sequence[Record], values: Array, other: Array, resamples: int) -> Interval:
    """AUROC of the `other` prompts against the rest. Scenes that both tell are drawn together."""
    told = scenes(records)
    return bootstrap(auroc, values, other, clusters=told, strata=other if told is None else None, resamples=resamples)


def from_to(values: Sequence[float]) -> str:
    """From the least to the most, over noises."""
    return f"{min(values):.3f} to {max(values):.3f}"


def pairs(records: Sequence[Record], resamples: int) -> list[Row]:
    """Each group beside the list's first one, scene by scene: how many times as uncertain is the same thing, told so?

    A scene is what prompts of one `reference` tell; of several in one group, the mean counts. Intervals and p are over
    scenes: Wilcoxon's signed ranks of the logarithms, with Holm's correction for the number of groups. [] where no two
    groups tell the same.
    """
    first, *others = [_by_scene(of_group(records, name)) for name in groups_of(records)] or [{}]
    rows: list[Row] = []
    for name, own in zip(groups_of(records)[1:], others, strict=True):
        shared = [(own[scene], first[scene]) for scene in first if scene in own]
        every = [record for pair in shared for some in pair for record in some]
        if not shared or min(uncertainties(every)) <= 0:
            continue
        logs = _difference(shared, lambda some: numpy.log(uncertainties(some)))
        row: Row = {"group": name, "pairs": len(shared), "times the first": bootstrap(times, logs, resamples=resamples)}
        if by_noise(every) is not None:
            noises = _difference(shared, lambda some: numpy.log(by_noise(some))).T
            row["noise by noise"] = from_to([times(logs) for logs in noises])
        row["pairs above"] = float((logs > 0).mean())
        for key in measures(every):
            if key != "words":
                of = _difference(shared, lambda some, key=key: measures(some)[key])
                row[f"{key}, difference"] = bootstrap(numpy.mean, of, resamples=resamples)
        rows.append(row | {"p": signed_ranks(logs)})
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p (Holm)"] = p
    return rows


def _difference(shared: Sequence[tuple[list[Record], list[Record]]], of: Callable[[list[Record]], Array]) -> Array:
    """(scenes, ...): how far two groups lie apart, scene by scene.  of: (..., n) of n records, whose mean counts."""
    return numpy.array([of(now).mean(axis=-1) - of(then).mean(axis=-1) for now, then in shared])


def times(logs: Array) -> float:
    """A geometric mean."""
    return float(numpy.exp(numpy.mean(logs)))


def _by_scene(records: Sequence[Record]) -> dict[str, list[Record]]:
    """What a group tells of each scene."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if text := record.get("reference_text"):
            found.setdefault(text, []).append(record)
    return found


def group_means(records: Sequence[Record]) -> list[Row]:
    """Figure 7: of each group the uncertainty, the mean CLIP score, and the size, where the list has one."""
    rows = []
    for name in groups_of(records):
        some = of_group(records, name)
        sizes = [record["group_size"] for record in some if "group_size" in record]
        u = uncertainties(some)
        row = {"group": name, "uncertainty": float(u.mean()), "median": float(numpy.median(u))}
        row |= {"CLIP score": float(measures(some)["CLIP score"].mean())}
        rows.append(row | ({"size": sizes[0]} if sizes else {}))
    return rows


def group_correlations(records: Sequence[Record]) -> list[Row]:
    """Of groups' uncertainty with their mean CLIP score. One prompt far out moves a mean, and hardly a median."""
    rows = group_means(records)
    clip = [row["CLIP score"] for row in rows]
    means, medians = ([row[key] for row in rows] for key in ("uncertainty", "median"))
    found = {
        "Pearson's r of the means (the paper's)": fisher(pearson(means, clip), len(rows)),
        "Pearson's r of the medians": fisher(pearson(medians, clip), len(rows)),
        "Spearman's of the medians": fisher(spearman(medians, clip), len(rows), ranks=True),
    }
    return [{"over groups": name, "groups": len(rows), "r": r} for name, r in found.items()]
