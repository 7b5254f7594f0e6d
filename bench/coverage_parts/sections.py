"""The sections of the coverage bench's report, in order."""

from __future__ import annotations

from collections.abc import Mapping

from coverage_parts.answers import Found
from coverage_parts.plots import by_language, by_timestep, panels, risk, samples, side_by_side
from coverage_parts.settings import WELL, Plan, Row, Setting
from coverage_parts.tested import SHOWN

from emoe.miniature.world import World
from emoe.study.report import Report


def setup(report: Report, answers: Mapping[str, Found], plan: Plan, world: World, command: str) -> None:
    counts = "; ".join(
        f"{split}: " + ", ".join(f"{group} {n}" for group, n in groups.items()) for split, groups in plan.splits.items()
    )
    report.section(
        "What was measured",
        f"`{command}` makes this file from the shipped weights. Mixtures: "
        + ", ".join(f"{name} `{answer['mixture']}`" for name, answer in answers.items())
        + ".",
        "A spec is one scene, told in every language, or scenes that differ in one word. No caption comes twice, "
        f"in whatever language, so that validation and test share none. Specs: {counts}. Validation prompts chose "
        "the setting (see The choice) and the median distance of one PaiDE variant; every other number in this "
        "file is of test prompts.",
        f"AUROC uncovered: prompts in languages of coverage 0 against those in languages of at least {WELL:g} (in "
        f"between lies neither). Parentheses: 95 % percentile intervals of {plan.resamples} bootstraps over specs, "
        "which tell how sure a number is for other scenes, not for other languages: two are set against two. Specs of "
        "languages are without the word that all share; Hungarian's purple is German's too. "
        "Coverage of the languages: " + ", ".join(f"{name} {share:g}" for name, share in world.languages.items()) + ".",
    )


def short(report: Report, rows: list[Row]) -> None:
    report.section(
        "In short",
        "AUROC: 0.5 is chance. Spearman with coverage: the more negative, the better; with the image's error, the more "
        "positive. `silence` is no disagreement: how little the prompt changes the mid-block at all.",
    )
    report.table([row for row in rows if row["number"] in ("paper", "best at the first step", "best", "silence")])


def choice(report: Report, ranking: list[Row], chosen: Mapping[str, Setting]) -> None:
    report.section(
        "The choice, on validation prompts alone",
        "Estimators (`bench/coverage_parts/estimators.py`), read-outs, timesteps and seeds, all from the split trunk "
        "that the paper's number costs. AUROC uncovered; the mean over the families decides; one seed stands for the "
        f"mean over the seeds tried one by one. {len(ranking)} settings.",
    )
    rows = [
        row | {"chosen as": "; ".join(name for name, setting in chosen.items() if setting == row["setting"])}
        for row in ranking
    ]
    report.table([row for i, row in enumerate(rows) if i < 12 or row["chosen as"]])


def languages(report: Report, answers: Mapping[str, Found]) -> None:
    report.section("Languages", "The chosen settings on the test prompts, the same specs in all seven languages.")
    figure, axes = panels(len(answers), 6, 4)
    for ax, (name, answer) in zip(axes, answers.items(), strict=True):
        report.table(answer["settings"], f"**{name}**")
        rows = answer["languages"]
        report.table(rows)
        by_language(ax, rows, SHOWN)
        ax.set_title(name)
    report.plot("languages", figure, "mean numbers by language")
    report.section(
        "What is heard", "Whether a prompt reaches the network at all; medians over the prompts of a language."
    )
    for name, answer in answers.items():
        report.table(answer["hearing"], f"**{name}**")
    report.section("Length", "Does the number fall as prompts get longer?")
    for name, answer in answers.items():
        report.table(answer["length"], f"**{name}**")
    report.section(
        "Short and long",
        "AUROC uncovered, of scenes that take few words to tell, and of the others (by their English).",
    )
    for name, answer in answers.items():
        report.table(answer["by_length"], f"**{name}**")


def timesteps(report: Report, answers: Mapping[str, Found]) -> None:
    report.section("Timesteps", "AUROC uncovered, read from the starting noise of seed 0 at any timestep.")
    figure, axes = panels(len(answers), 6, 4)
    for ax, (name, answer) in zip(axes, answers.items(), strict=True):
        rows = answer["timesteps"]
        report.table(rows, f"**{name}**")
        by_timestep(ax, rows)
        ax.set_title(name)
    report.plot("timesteps", figure, "AUROC by timestep")
    report.section(
        "Steps of a run",
        "The paths part at a later step, from where the ordinary guided run has come; or they part at the first "
        "step and go on alone, as in the paper's Algorithm 1 (fewer prompts, hence wider intervals).",
    )
    for name, answer in answers.items():
        report.table(answer["later"], f"**{name}**")


def gaps(report: Report, answers: Mapping[str, Found]) -> None:
    report.section(
        "Other gaps in coverage",
        "Each prompt beside its own controls, which differ in one word: the chance that the gap scores higher "
        "(AUROC inside a spec, mean over specs; 0.5 is chance). Controls of held-out pairs use the same words in "
        "other pairs. In the last rows, a shape's own name against the word that all languages share.",
    )
    for name, answer in answers.items():
        report.table(answer["gaps"], f"**{name}**")


def images(report: Report, answers: Mapping[str, Found], plan: Plan) -> None:
    report.section(
        "Images",
        f"Ordinary images ({plan.steps} steps of DDIM, guidance 7.5, seed 0). Accuracy: the share of what the prompt "
        "tells that a classifier, trained on real renders, finds in the image. CLIP score: of the miniature's CLIP, "
        "against the prompt in English.",
    )
    figure, axes = panels(len(answers), 6, 4.5)
    for ax, (name, answer) in zip(axes, answers.items(), strict=True):
        report.table(answer["correct"], f"**{name}**")
        risk(ax, answer["curves"])
        ax.set_title(name)
    for name, answer in answers.items():
        told = f"{name}: a row per language, from much covered to never"
        report.plot(f"samples-{name}", samples(answer["pictures"]), told)
    report.section("Quartiles", "The paper's Table 1 in miniature; trends are Kendall's tau of quarter and value.")
    for name, answer in answers.items():
        report.table(answer["quartiles"], f"**{name}**")
    report.section(
        "Languages as points", "The paper's Figure 7: Pearson's r between a language's mean number and mean fit."
    )
    for name, answer in answers.items():
        report.table(answer["across"], f"**{name}**")
    report.section(
        "Acting on it",
        "How well each number, known before the image, sorts prompts by the error of their image (1 - accuracy). "
        "AURC: mean error of the accepted, over all shares that may be accepted. AUSE: how far from the errors' "
        "own order, 0 is perfect.",
    )
    for name, answer in answers.items():
        report.table(answer["rejects"], f"**{name}**")
    report.plot("risk", figure, "risk over coverage")


def beside(report: Report, answers: Mapping[str, Found]) -> None:
    report.section(
        "Side by side",
        "Every baseline at the first step from the same noise (`emoe/study/baselines.py`), and the chosen "
        "settings. The distances of texts know captions like those of training, which nobody has of real "
        "checkpoints.",
    )
    figure, axes = panels(len(answers), 6, 7)
    figure.subplots_adjust(wspace=0.6)
    for ax, (name, answer) in zip(axes, answers.items(), strict=True):
        rows = answer["beside"]
        report.table(rows, f"**{name}**")
        side_by_side(ax, rows, "AUROC uncovered")
        ax.set_title(name)
    report.plot("beside", figure, "AUROC of every number")
    for name, answer in answers.items():
        report.table(answer["elsewhere"], f"**{name}**, where the best setting reads:")
        report.table(answer["saturation"], f"**{name}**: how many prompts PaiDE cannot tell apart.")


def variants(report: Report, answers: Mapping[str, Found]) -> None:
    report.section("Other mixtures", "Of the same checkpoints; where there are several of a kind, the mean over them.")
    for name, answer in answers.items():
        report.table(answer["variants"], f"**{name}**")
