"""The pictures of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy
from matplotlib.figure import Figure
from PIL import Image

from emoe.images import contact_sheet, open_small
from emoe.records import Record
from emoe.study.columns import estimates, groups_of, measures, of_group, uncertainties
from emoe.study.groups import group_means
from emoe.study.statistics import quartile, risk_coverage

WIDE = 100  # times as large: such numbers are shown on a logarithmic scale
FAR = 10  # the same, of groups' means
SHOWN = 3  # numbers in one risk-coverage figure, beside the study's own


def distributions(records: Sequence[Record]) -> Figure:
    """Figure 5. A line a group: every prompt, and the middle half."""
    names = groups_of(records)
    figure = Figure(figsize=(8, 1.2 + 0.5 * len(names)))
    ax = figure.add_subplot()
    jitter = numpy.random.default_rng(0)
    for y, name in enumerate(names):
        u = uncertainties(of_group(records, name))
        faint = min(0.5, max(0.05, 400 / len(u)))  # so that many prompts show where most are
        ax.plot(u, y + jitter.uniform(-0.2, 0.2, len(u)), ".", markersize=3, alpha=faint, color="tab:blue")
        low, middle, high = numpy.quantile(u, [0.25, 0.5, 0.75])
        ax.plot([low, high], [y, y], color="black", linewidth=2)
        ax.plot(middle, y, "o", color="black")
    ax.set_yticks(range(len(names)), map(_plain, names))
    ax.invert_yaxis()
    every = uncertainties(records)
    if every.min() > 0 and every.max() > WIDE * every.min():
        ax.set_xscale("log")
    ax.set_xlabel("uncertainty")
    return figure


def by_quarter(records: Sequence[Record], key: str) -> Figure:
    """Figure 4: a box a quarter of the list."""
    at, values = quartile(uncertainties(records)), measures(records)[key]
    quarters = sorted(set(at.tolist()))
    figure = Figure(figsize=(6, 3.5))
    ax = figure.add_subplot()
    ax.boxplot([values[at == q] for q in quarters], tick_labels=[f"Q{q}" for q in quarters], showmeans=True)
    ax.set_xlabel("quarter of the list, from the least uncertain on")
    ax.set_ylabel(key)
    return figure


def group_points(records: Sequence[Record]) -> Figure:
    """Figure 7: a point a group, its name in the margin, in the order of the scores."""
    rows = sorted(group_means(records), key=lambda row: row["CLIP score"])
    largest = max(row.get("size", 0) for row in rows)
    figure = Figure(figsize=(7, max(4, 0.25 * len(rows))))
    ax = figure.add_subplot()
    area = [30 + 270 * row["size"] / largest if "size" in row else 60 for row in rows]
    u, clip = ([row[key] for row in rows] for key in ("uncertainty", "CLIP score"))
    ax.scatter(u, clip, s=area, alpha=0.5)
    if min(u) > 0 and max(u) > FAR * min(u):
        ax.set_xscale("log")
    for i, (row, at) in enumerate(zip(rows, zip(u, clip, strict=True), strict=True)):
        margin, line = (1.03, (i + 0.5) / len(rows)), {"arrowstyle": "-", "color": "lightgrey"}
        ax.annotate(_plain(row["group"]), at, xytext=margin, textcoords="axes fraction", va="center", arrowprops=line)
    ax.margins(0.1)
    ax.set_xlabel("mean uncertainty")
    ax.set_ylabel("mean CLIP score")
    return figure


def risk(records: Sequence[Record], names: Sequence[str]) -> Figure:
    """Prompts accepted from the least uncertain on: how badly do their images fit? The best order there is, in grey."""
    error = 100 - measures(records)["CLIP score"]
    figure = Figure(figsize=(7, 4))
    ax = figure.add_subplot()
    numbers = estimates(records)
    for name in ("uncertainty", *names[:SHOWN]):
        ax.plot(*risk_coverage(numbers[name], error), label=name)
    ax.plot(*risk_coverage(error, error), color="grey", linestyle=":", label="if it were known")
    ax.set_xlabel("share of the prompts that is accepted")
    ax.set_ylabel("mean of 100 - CLIP score")
    ax.legend()
    return figure


def _plain(name: str) -> str:
    """A name that holds dollar signs is no formula."""
    return name.replace("$", r"\$")


def gallery(rows: Sequence[Record], folder: Path) -> Image.Image:
    """The images of some prompts, side by side."""
    images = [open_small(folder / row["images"][0]) for row in rows]
    return contact_sheet([("", images)], [row["prompt"] for row in rows], cell=192)
