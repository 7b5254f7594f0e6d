"""The report of `emoe study`: which questions, in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from matplotlib.figure import Figure

from emoe.records import Record
from emoe.study.questions import extremes, groups, groups_of, length, of_group, quarters, uncertainties, word_shares
from emoe.study.report import Report

INTERVALS = "Parentheses: 95 % bootstrap intervals over prompts."


def write_report(
    records: Sequence[Record], settings: Mapping[str, Any], words: Sequence[str], folder: Path, resamples: int
) -> Path:
    """report.html, report.md with its pictures, tables/NUMBER-NAME.csv; returns the page's path."""
    report = Report("How uncertain is the mixture about these prompts?")
    report.section(
        "What was measured",
        f"{len(records)} prompts. Uncertainty is the variance of the experts' paths after the mid-block, times "
        "the square root of its dimensions: higher means less known. Only scores of the same settings compare.",
    )
    report.table([{"setting": key, "value": value} for key, value in settings.items()])
    _extremes(report, records)
    _quarters(report, records, resamples)
    if groups_of(records):
        _groups(report, records, resamples)
    for word in words:
        report.section(
            f"The word {word}",
            "Of a group's prompts that hold it, the share among the group's least uncertain quarter: 0.25 if the "
            "word said nothing (the paper's Table 4).",
        )
        report.table(word_shares(records, word))
    report.write(folder, "report")
    report.write_tables(folder / "tables")
    report.write_page(folder / "report.html")
    return folder / "report.html"


def _extremes(report: Report, records: Sequence[Record]) -> None:
    most, least = extremes(records)
    report.section("The most and the least uncertain")
    report.table(most, "Most")
    report.table(least, "Least")


def _quarters(report: Report, records: Sequence[Record], resamples: int) -> None:
    report.section(
        "Quarters of the list",
        "From the least uncertain quarter to the most: do prompts get shorter (the paper's Table 1)? " + INTERVALS,
    )
    report.table(quarters(records, resamples))
    report.table(length(records, resamples))


def _groups(report: Report, records: Sequence[Record], resamples: int) -> None:
    report.section(
        "Groups",
        "AUROC: the chance that a prompt of the group is more uncertain than one of the list's first group; 0.5 if "
        "nothing tells them apart (the paper's Table 2 and Figure 5). " + INTERVALS,
    )
    report.table(groups(records, resamples))
    report.plot("groups", _distributions(records), "distributions of uncertainty, a group a line")


def _distributions(records: Sequence[Record]) -> Figure:
    """A line a group: every prompt, and the middle half."""
    names = groups_of(records)
    figure = Figure(figsize=(8, 1.2 + 0.5 * len(names)))
    ax = figure.add_subplot()
    jitter = numpy.random.default_rng(0)
    for y, name in enumerate(names):
        u = uncertainties(of_group(records, name))
        ax.plot(u, y + jitter.uniform(-0.2, 0.2, len(u)), ".", markersize=3, alpha=0.5, color="tab:blue")
        low, middle, high = numpy.quantile(u, [0.25, 0.5, 0.75])
        ax.plot([low, high], [y, y], color="black", linewidth=2)
        ax.plot(middle, y, "o", color="black")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("uncertainty")
    return figure
