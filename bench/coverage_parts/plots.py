"""The plots of the coverage bench's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from coverage_parts.settings import Row
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from emoe.study.statistics import Interval


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """One beside the other, a family each."""
    figure = Figure(figsize=(width * count, height))
    return figure, [figure.add_subplot(1, count, i + 1) for i in range(count)]


def by_language(ax: Axes, rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Mean numbers over the languages, each over its mean in English."""
    for i, label in enumerate(labels):
        means = [row[f"{label}: mean"] for row in rows]
        _errorbar(ax, numpy.arange(len(rows)) + 0.12 * i, [_scaled(m, abs(means[0].value)) for m in means], label)
    ax.set_xticks(range(len(rows)), [f"{row['language']}\n{row['coverage']:g}" for row in rows], fontsize=8)
    ax.set_ylabel("mean, in units of English's")
    ax.legend()


def by_timestep(ax: Axes, rows: Sequence[Row]) -> None:
    """AUROC of uncovered languages."""
    for i, name in enumerate(key for key in rows[0] if key != "timestep"):
        _errorbar(ax, [row["timestep"] + 6 * i for row in rows], [row[name] for row in rows], name, line="-")
    _chance(ax.axhline)
    ax.invert_xaxis()
    ax.set_xlabel("timestep, from noise")
    ax.set_ylabel("AUROC, uncovered against covered languages")
    ax.legend(fontsize=8)


def side_by_side(ax: Axes, rows: Sequence[Row], key: str) -> None:
    """A line per number."""
    for i, row in enumerate(reversed(rows)):
        value = row[key]
        ax.plot([value.low, value.high], [i, i], color="tab:blue")
        ax.plot(value.value, i, "o", color="tab:blue", markersize=4)
    ax.set_yticks(range(len(rows)), [row["number"] for row in reversed(rows)], fontsize=8)
    _chance(ax.axvline)
    ax.set_xlabel(key)
    ax.grid(axis="x", alpha=0.3)


def risk(ax: Axes, curves: Mapping[str, tuple[numpy.ndarray, numpy.ndarray]]) -> None:
    for name, (coverage, error) in curves.items():
        ax.plot(coverage, error, label=name, color="black" if name == "oracle" else None)
    ax.set_xlabel("share of prompts accepted, the least uncertain first")
    ax.set_ylabel("told attributes wrong, of those accepted")
    ax.legend(fontsize=8)


def samples(rows: Sequence[Sequence[Path]]) -> Image.Image:
    """Images as a grid."""
    pictures = [[Image.open(path).convert("RGB") for path in row] for row in rows]
    side, gap = pictures[0][0].width, 4
    sheet = Image.new("RGB", ((side + gap) * len(pictures[0]) - gap, (side + gap) * len(pictures) - gap), "white")
    for y, row in enumerate(pictures):
        for x, picture in enumerate(row):
            sheet.paste(picture, ((side + gap) * x, (side + gap) * y))
    return sheet


def _errorbar(ax: Axes, x: Sequence[float], values: Sequence[Interval], label: str, line: str = "") -> None:
    middle = numpy.array([v.value for v in values])
    low, high = (numpy.array([v[i] for v in values]) for i in (1, 2))
    # a percentile interval need not hold its estimate
    reach = numpy.clip([middle - low, high - middle], 0, None)
    ax.errorbar(x, middle, reach, fmt=f"o{line}", markersize=4, capsize=2, label=label)


def _scaled(value: Interval, unit: float) -> Interval:
    return Interval(*(x / unit for x in value))


def _chance(line: Any) -> None:
    line(0.5, color="grey", linewidth=0.8, linestyle="--")
