"""Does uncertainty rise where coverage falls? The miniature knows its coverage, so this is an experiment.

python bench/coverage.py --small        a few prompts, about 40 s: the machinery, no result
python bench/coverage.py                everything, 15 minutes on 2 cores; the report goes to bench/results

Which number to read, and where, is chosen on the validation prompts; the test prompts then judge it beside the paper's
own and every baseline. Measurements are kept in --work as they come: after a stop, the same command goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from card import show
from coverage_parts import sections
from coverage_parts.answers import Found, answers
from coverage_parts.measure import Family, Judges, Load, Variant
from coverage_parts.prompts import draw
from coverage_parts.settings import FULL, SMALL, Plan, Row, Setting, choose, rank, validation
from coverage_parts.store import Store

from emoe.miniature.world import World
from emoe.shipped import SHIPPED
from emoe.study.report import Report

QUESTION = "Does uncertainty rise where coverage falls?"
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--share", type=float, default=1.0, help="of the prompts: less takes less time, and says less")
    parser.add_argument(
        "--work", type=Path, help="where measurements are kept (default: coverage-work; small: nowhere)"
    )
    parser.add_argument("--out", type=Path, help="where the report goes (default: bench/results; small: nowhere)")
    options = parser.parse_args()
    if options.small and options.share != 1:
        parser.error("--small has a plan of its own; leave out --share")
    start = time.monotonic()
    loads = {name: partial(Variant.load, path=path) for name, path in SHIPPED.items()}
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or (Path(folder) if options.small else Path("coverage-work"))
        out = options.out or (Path(folder) if options.small else RESULTS)
        # networks this small gain nothing from a second thread: a process a family, with one thread each
        with ProcessPoolExecutor(len(loads), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            plan = SMALL if options.small else FULL.of(options.share)
            share = " --small" if options.small else f" --share {options.share:g}" if options.share != 1 else ""
            command = f"python bench/coverage.py{share}"
            report, rows = experiment(loads, plan, work, shipped_judges, side_by_side=pool.map, command=command)
        path = report.write(out, f"{date.today().isoformat()}-coverage{share.replace(' --', '-').replace(' ', '-')}")
        show(QUESTION, rows, seconds=round(time.monotonic() - start), report=path.name)


def shipped_judges() -> Judges:
    from emoe.miniature.clip import load_clip
    from emoe.miniature.judge import load_judge

    return Judges(load_judge().accuracy, load_clip().score)


@dataclass(frozen=True)
class Study:
    """One family's part of the experiment, for a process of its own."""

    name: str
    load: Load
    plan: Plan
    work: Path
    judges: Callable[[], Judges]
    world: World

    def family(self) -> Family:
        prompts = draw(self.world, self.plan.splits)
        told = [ask.prompt for groups in prompts.values() for asks in groups.values() for ask in asks]
        model = self.load(Variant())
        settings = {
            "world": asdict(self.world),
            "plan": asdict(self.plan),
            "prompts": hashlib.sha256("\n".join(told).encode()).hexdigest()[:8],
            "mixture": model.mixture,
            "vae": model.vae_mark,
        }
        store = Store(self.work / f"{self.name}.jsonl", settings)
        plan = self.plan
        return Family(self.name, self.load, prompts, self.world, store, self.work, plan.steps, plan.captions)

    def validate(self) -> dict[Setting, float]:
        return validation(self.family(), self.plan)

    def answer(self, chosen: Mapping[str, Setting]) -> Found:
        return answers(self.family(), self.plan, chosen, cache(self.judges))


def experiment(
    loads: Mapping[str, Load],
    plan: Plan,
    work: Path,
    judges: Callable[[], Judges],
    world: World = World(),  # noqa: B008 (frozen)
    side_by_side: Callable[..., Iterable[Any]] = map,
    command: str = "python bench/coverage.py",
) -> tuple[Report, list[Row]]:
    """The report, and what the table on the screen shows: every number of every family.

    side_by_side: `map`, or a pool's, to measure the families at once.
    """
    studies = [Study(name, load, plan, work, judges, world) for name, load in loads.items()]
    ranking = rank(dict(zip(loads, side_by_side(Study.validate, studies), strict=True)))
    chosen = choose(ranking)
    found = dict(zip(loads, side_by_side(Study.answer, studies, [chosen] * len(studies)), strict=True))

    report = Report(QUESTION)
    rows = [{"family": name} | row for name, answer in found.items() for row in answer["summary"]]
    sections.setup(report, found, plan, world, command)
    sections.short(report, rows)
    sections.choice(report, ranking, chosen)
    sections.languages(report, found)
    sections.timesteps(report, found)
    sections.gaps(report, found)
    sections.images(report, found, plan)
    sections.beside(report, found)
    sections.variants(report, found)
    return report, rows


if __name__ == "__main__":
    main()
