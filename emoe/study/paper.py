"""The report of `emoe study`: which questions, in which order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from emoe import __version__
from emoe.errors import many
from emoe.prompts import KEPT
from emoe.records import Record
from emoe.study import columns, figures, groups, questions, templates
from emoe.study.report import Report, write_rows

FIRST = (
    " (uncertainty and relative: a mean over noises; the others of the first one alone, and held against its number)"
)
SAME = 0.999  # rank correlation of what is one number by two names
SHOWN = 6  # images of the most and of the least uncertain


@dataclass(frozen=True)
class Studied:
    """What a study has found, and what it is asked."""

    records: Sequence[Record]  # of every prompt, all stages together
    settings: Mapping[str, Any]
    images: Path | None = None  # the folder of them, where they were drawn
    words: Sequence[str] = ()
    template: str = ""
    ways: Mapping[str, Sequence[Record]] = field(default_factory=dict)  # the list read in other ways, its own first
    cost: Sequence[Mapping[str, Any]] = ()
    resamples: int = 1000

    @property
    def intervals(self) -> str:
        """What the parentheses of a table mean."""
        over = "prompts"
        if columns.scenes(self.records) is not None:
            over = "scenes (prompts of one `reference` are drawn together)"
        one = " All of one noise: another may move a number by more (--seeds)." if self.settings["seeds"] == 1 else ""
        return f"Parentheses: 95 % bootstrap intervals over {over}; none for fewer than five.{one}"


def write_report(found: Studied, folder: Path) -> Path:
    """report.html, report.md with its pictures, tables/NUMBER-NAME.csv, tables/prompts.csv; returns the page's path."""
    report = Report("How uncertain is the mixture about these prompts?")
    for add in (_settings, _extremes, _experts, _quarters, _groups, _compared, _words, _template, _ablations, _cost):
        add(report, found)
    for old in (*folder.glob("report-*.png"), *folder.glob("tables/[0-9][0-9]-*.csv")):  # of another run's questions
        old.unlink()
    report.write(folder, "report")
    report.write_tables(folder / "tables")
    write_rows(questions.every_prompt(found.records), folder / "tables" / "prompts.csv")
    report.write_page(folder / "report.html")
    return folder / "report.html"


def _settings(report: Report, found: Studied) -> None:
    report.section(
        "What was measured",
        f"{many(len(found.records), 'prompt')} (list {_mark(found.records)}), by emoe {__version__}. Uncertainty is "
        "the variance of the experts' paths at the mid-block, times the square root of its dimensions (or what the "
        "estimator below says). Only scores of the same settings compare. A low one says that the experts agree, not "
        "that a prompt is known; a high one is a reason to look.",
    )
    report.table([{"setting": key, "value": value} for key, value in found.settings.items()])


def _mark(records: Sequence[Record]) -> str:
    """Eight digits that tell one list from another."""
    told = [[record.get(key) for key in ("prompt", "negative_prompt", *KEPT)] for record in records]
    return sha256(json.dumps(told).encode()).hexdigest()[:8]


def _extremes(report: Report, found: Studied) -> None:
    most, least = questions.extremes(found.records)
    report.section("The most and the least uncertain")
    for rows, name in ((most, "Most"), (least, "Least")):
        report.table(rows, name)
        if found.images:
            ranked = sorted(found.records, key=lambda record: record["uncertainty"], reverse=name == "Most")
            picture = figures.gallery(ranked[:SHOWN], found.images)
            report.plot(name.lower(), picture, f"images of the {name.lower()} uncertain prompts")


def _experts(report: Report, found: Studied) -> None:
    if rows := questions.experts(found.records):
        report.section(
            "The experts",
            "How often the gate chooses each for what follows the split (in the split, every expert has a path), with "
            "what mean weight, and how uncertain these prompts are, and the others.",
        )
        report.table(rows)


def _quarters(report: Report, found: Studied) -> None:
    report.section(
        "Quarters of the list",
        "From the least uncertain quarter to the most: do prompts get shorter, and do images fit worse (the paper's "
        "Tables 1, 3 and 5, Figure 4)? The trend's p is Kendall's, which is the Jonckheere-Terpstra test, and a gap "
        "where prompts depend on one another. " + found.intervals,
    )
    report.table(questions.quarters(found.records, found.resamples))
    report.table(questions.ranks(found.records, found.resamples))
    for key in questions.measures(found.records):
        if key != "words":
            name = f"quarters-{key.split()[0].lower()}"
            report.plot(name, figures.by_quarter(found.records, key), f"{key} of every quarter of the list")


def _groups(report: Report, found: Studied) -> None:
    names = columns.groups_of(found.records)
    if not names or found.template:
        return
    noises = " Noise by noise: from the least to the most, over --seeds." * (found.settings["seeds"] > 1)
    report.section(
        "Groups",
        "AUROC: the chance that a prompt of the group is more uncertain than one of the list's first group; 0.5 if "
        f"nothing tells them apart (the paper's Table 2 and Figure 5).{noises} {found.intervals}",
    )
    report.table(groups.groups(found.records, found.resamples))
    report.plot("groups", figures.distributions(found.records), "distributions of uncertainty, a group a line")
    if rows := groups.pairs(found.records, found.resamples):
        report.section(
            "Groups, in pairs",
            "The same scene (`reference`), told by a group and by the first one: how many times as uncertain, a "
            "geometric mean (first over what tells one scene in one group). p is Wilcoxon's, over scenes."
            f"{noises} {found.intervals}",
        )
        report.table(rows)
    if len(names) > 2 and "CLIP score" in columns.measures(found.records):
        report.section(
            "Groups: uncertainty and fit",
            "Do groups that are more uncertain have images that fit worse (the paper's Figure 7: 25 languages)? "
            "Parentheses: 95 % intervals over groups (Fisher's z; of ranks, Bonett and Wright's). A point's size is "
            "the group's `size`, where the list has one.",
        )
        report.table(groups.group_correlations(found.records))
        report.table(groups.group_means(found.records))
        report.plot(
            "group-means", figures.group_points(found.records), "mean uncertainty and mean CLIP score, by group"
        )


def _compared(report: Report, found: Studied) -> None:
    if "baselines" not in found.records[0] and not found.images:
        return
    first = FIRST if found.settings["seeds"] > 1 else ""
    report.section(
        "Is it better than simpler numbers?",
        f"Of the same noise, in the same run{first}; the best first, as these very prompts have it. Better by: how "
        "much stronger its rank correlation with the CLIP score is than uncertainty's; an interval that holds 0 leaves "
        "that open. Of the best gain: what drawing in its order gains, 1 for the best order there is, 0 for any. "
        "Within groups: the mean of each group's own correlation. At its ceiling: the share of prompts that it cannot "
        f"tell from the most uncertain. {found.intervals}",
    )
    rows = questions.compared(found.records, found.resamples)
    report.table(rows)
    if found.images:
        others = [row["number"] for row in rows if row["Spearman with uncertainty"] < SAME]
        report.plot("risk", figures.risk(found.records, others), "risk against coverage")
        report.section("What a limit saves and costs", "If prompts above a limit were not drawn.")
        report.table(questions.thresholds(found.records))


def _words(report: Report, found: Studied) -> None:
    for word in found.words:
        report.section(
            f"The word {word}",
            "Of a group's prompts that hold it, the share among the group's least uncertain quarter: as of all its "
            "prompts, if the word said nothing; p is the chance of so many or more then (the paper's Table 4), and a "
            "gap where a group's prompts depend on one another.",
        )
        report.table(questions.word_shares(found.records, word))


def _template(report: Report, found: Studied) -> None:
    if not found.template:
        return
    ratios = " The number is a ratio here, and its mean that of the noises' ratios; elsewhere it is one of means."
    report.section(
        "What the words of the template do",
        "The paper's Figure 1. Differences in pairs: the same noise, the same other words. "
        "Intervals (Student's) and p are over noises (--seeds), for these very prompts; another template may say "
        "otherwise." + ratios * (found.settings["estimator"] == "eu-over-answer"),
    )
    noises = columns.by_noise(found.records)
    report.table([{"template": found.template}])
    report.table(templates.differences(found.template, noises))
    report.section("The prompts of the template", "Each beside the first, under the same noises.")
    report.table(templates.prompts(found.records, noises))


def _ablations(report: Report, found: Studied) -> None:
    if len(found.ways) < 2:
        return
    report.section(
        "The same list, read in other ways",
        "If the order of prompts depends on a choice, so does the verdict (the paper's Figure 8). A timestep starts "
        "from the same noise; `run` is at that timestep of the paper's Algorithm 1, and `latent` after its first step "
        "(both of the first seed); `experts` counts these experts' paths alone. Q1 to Q4: mean CLIP score by quarter "
        "of that number. " + found.intervals,
    )
    report.table(questions.ablations(found.ways, found.resamples))


def _cost(report: Report, found: Studied) -> None:
    if not found.cost:
        return
    report.section(
        "Cost",
        "Counted operations of one prompt, without the VAE, and bytes kept of its score (the paper's Figures 9 and 10, "
        "which are seconds on an A100 and terabytes).",
    )
    report.table(found.cost)
