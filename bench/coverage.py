"""Does uncertainty rise where coverage falls? The miniature knows its coverage, so this is an experiment.

python bench/coverage.py --small        a few prompts, under 20 s: the machinery, no result
python bench/coverage.py                everything, under 30 minutes on 2 cores; the report goes to bench/results

Which number to read, and where, is chosen on the validation prompts; the test prompts then judge it beside the paper's
own and every baseline. Measurements are kept in --work as they come: after a stop, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date
from functools import cache, partial
from pathlib import Path

import coverage_sections as sections
from card import show
from coverage_answers import Answers
from coverage_measure import Family, Judges, Load, Variant
from coverage_prompts import draw
from coverage_report import Report
from coverage_settings import FULL, SMALL, Plan, Row, candidates, choose
from coverage_store import Store

from emoe.config import SHIPPED
from emoe.miniature.world import World

QUESTION = "Does uncertainty rise where coverage falls?"
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument(
        "--work", type=Path, help="where measurements are kept (default: coverage-work; small: nowhere)"
    )
    parser.add_argument("--out", type=Path, help="where the report goes (default: bench/results; small: nowhere)")
    options = parser.parse_args()
    start = time.monotonic()
    loads = {name: partial(Variant.load, path=path) for name, path in SHIPPED.items()}
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or (Path(folder) if options.small else Path("coverage-work"))
        out = options.out or (Path(folder) if options.small else RESULTS)
        report, rows = experiment(loads, SMALL if options.small else FULL, work, shipped_judges)
        path = report.write(out, f"{date.today().isoformat()}-coverage{'-small' if options.small else ''}")
        show(QUESTION, rows, seconds=round(time.monotonic() - start), report=path.name)


def shipped_judges() -> Judges:
    from emoe.miniature.clip import load_clip
    from emoe.miniature.judge import load_judge

    return Judges(load_judge().accuracy, load_clip().score)


def experiment(
    loads: Mapping[str, Load],
    plan: Plan,
    work: Path,
    judges: Callable[[], Judges],
    world: World = World(),  # noqa: B008 (frozen)
) -> tuple[Report, list[Row]]:
    """The report, and what the table on the screen shows: every number of every family, side by side."""
    prompts, judges = draw(world, plan.splits), cache(judges)
    told = [ask.prompt for groups in prompts.values() for asks in groups.values() for ask in asks]
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]
    families = []
    for name, load in loads.items():
        settings = {"world": asdict(world), "plan": asdict(plan), "prompts": digest, "mixture": load(Variant()).mixture}
        families.append(Family(name, load, prompts, world, Store(work / f"{name}.jsonl", settings), work, plan.steps))

    ranking = candidates(families, plan)
    chosen = choose(ranking)
    answers = {family.name: Answers(family, plan, chosen) for family in families}
    report = Report(QUESTION)
    rows = [{"family": name} | row for name, answer in answers.items() for row in answer.summary(judges)]
    sections.setup(report, families, plan, world)
    sections.short(report, rows)
    sections.choice(report, ranking, chosen)
    sections.languages(report, answers)
    sections.timesteps(report, answers, judges)
    sections.gaps(report, answers)
    sections.images(report, answers, judges)
    sections.beside(report, answers)
    sections.variants(report, answers)
    return report, rows


if __name__ == "__main__":
    main()
