"""The pictures of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from emoe.records import Record
from emoe.sheet import contact_sheet, in_lines, open_small
from emoe.study.baselines import GATED
from emoe.study.columns import FIRST_NOISE, by_noise, estimates, groups_of, measures, of_group, uncertainties
from emoe.study.groups import group_means
from emoe.study.labels import name_points, plain
from emoe.study.report import any_letters
from emoe.study.statistics import quartile, risk_coverage

WIDE = 100  # times as large: such numbers are shown on a logarithmic scale
FAR = 10  # the same, of groups' means
SHOWN = 3  # numbers in one risk-coverage figure, beside the study's own
OURS = ("uncertainty", "relative")  # means over --seeds; the others are of the first of them
UNNAMED = ("tokens", *GATED, FIRST_NOISE)  # whose noises are none, or told by their names
TOLD = {"silence": "silence: how little the prompt changes", "tokens": "tokens: how few the prompt has"}
SIDE = 192  # pixels of an image
ABOVE = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False}  # where a legend hides nothing


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
    ax.set_yticks(range(len(names)), map(plain, names))
    ax.invert_yaxis()
    every = uncertainties(records)
    if every.min() > 0 and every.max() > WIDE * every.min():
        _logarithmic(ax)
    ax.set_xlabel("uncertainty")
    return figure


def _logarithmic(ax: Axes, named: Sequence[int] = (1,)) -> None:
    """named: the digits whose multiples of powers of ten have a label."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=named))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def by_quarter(records: Sequence[Record], key: str) -> Figure:
    """Figure 4: a box a quarter of the list."""
    at, values = quartile(uncertainties(records)), measures(records)[key]
    quarters = sorted(set(at.tolist()))
    figure = Figure(figsize=(6, 3.5))
    ax = figure.add_subplot()
    boxes = [values[at == q] for q in quarters]
    names = [f"Q{q}\nn = {len(box)}" for q, box in zip(quarters, boxes, strict=True)]
    drawn = ax.boxplot(boxes, tick_labels=names, showmeans=True)
    ax.legend([drawn["medians"][0], drawn["means"][0]], ["median", "mean"], ncols=2, **ABOVE)
    ax.set_xlabel("quarter of the list, from the least uncertain on")
    ax.set_ylabel(key)
    return figure


def group_points(records: Sequence[Record]) -> Figure:
    """Figure 7: a point a group, and its name."""
    rows = group_means(records)
    largest = max(row.get("size", 0) for row in rows)
    figure = Figure(figsize=(7, max(4, 0.25 * len(rows))))
    ax = figure.add_subplot()
    area = [30 + 270 * row["size"] / largest if "size" in row else 60 for row in rows]
    u, clip = ([row[key] for row in rows] for key in ("uncertainty", "CLIP score"))
    ax.scatter(u, clip, s=area, alpha=0.5)
    if min(u) > 0 and max(u) > FAR * min(u):
        _logarithmic(ax, (1, 2, 5) if max(u) < 1000 * min(u) else (1,))
    ax.margins(0.1)
    with any_letters():
        name_points(ax, [row["group"] for row in rows], numpy.column_stack([u, clip]), numpy.sqrt(area) / 2)
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
        ax.plot(*risk_coverage(numbers[name], error), label=TOLD.get(name, name) + _noises(records, name))
    best = "best possible order: by the CLIP score itself"
    ax.plot(*risk_coverage(error, error), color="grey", linestyle=":", label=best)
    ax.set_xlabel("share of the prompts that is accepted, from the least uncertain on")
    ax.set_ylabel("mean of 100 - CLIP score")
    ax.legend(**ABOVE)
    return figure


def _noises(records: Sequence[Record], name: str) -> str:
    """Of how many a number is, where the list was scored with several."""
    noises = by_noise(records)
    if noises is None or name in UNNAMED:
        return ""
    return f" ({len(noises)} noises)" if name in OURS else " (one noise)"


def gallery(rows: Sequence[Record], folder: Path) -> Image.Image:
    """The images of some prompts, side by side, each below its uncertainty, its group and its prompt."""
    images = [open_small(folder / row["images"][0]) for row in rows]
    heads = [f"{row['uncertainty']:.3g}  {row.get('group', '')}\n{in_lines(row['prompt'], SIDE, 3)}" for row in rows]
    return contact_sheet([("", images)], heads, cell=SIDE)
