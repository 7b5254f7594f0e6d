"""emoe study: what a list of prompts says, as a report."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emoe.commands.options import add_machine, add_prompts, add_reading, add_weights, be_verbose, reading_of, rows_of
from emoe.commands.scored import scored
from emoe.errors import EmoeError
from emoe.records import RecordFile
from emoe.terminal import say
from emoe.whole import check_place

DESCRIPTION = """\
Scores a list of prompts and writes what it says: the most and the least uncertain prompts, quarters of the list, groups
side by side (a `group` column of the list), words. A run cut short goes on, and the same list gives the same report.
"""
RESAMPLES = 1000


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("study", help="a report on a list of prompts", description=DESCRIPTION)
    add_prompts(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="scores, report.html, report.md, tables")
    parser.add_argument("--word", action="append", default=[], help="is it a known one? (several times: several words)")
    add_weights(parser)
    add_reading(parser)
    add_machine(parser)
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    rows = rows_of(options)
    if not all(word.strip() for word in options.word):
        raise EmoeError("--word is empty; name a word")
    try:
        from emoe.study.paper import write_report
    except ModuleNotFoundError as error:
        raise EmoeError(f"emoe study needs {error.name}; pip install 'emoe[study]'") from error
    folder = Path(options.out)
    _make(folder)
    scores = RecordFile(folder / "scores.jsonl", rows)

    from emoe.pipeline import EMoE, check_batch_size

    if options.batch_size is not None:
        check_batch_size(options.batch_size)
    reading = reading_of(options)
    model = EMoE.from_toml(options.weights, device=options.device, dtype=options.dtype)
    reading = model.at_own_size(reading)
    settings = asdict(reading) | {"mixture": model.mixture}
    scores.check(settings)
    for records in scored(model, rows, reading, options.batch_size, done=len(scores.records)):
        scores.write(records)
    page = write_report(RecordFile(scores.path, rows).records, settings, options.word, folder, RESAMPLES)
    say(f"the report is {page}")
    return 0


def _make(folder: Path) -> None:
    """Before hours of scoring, not after."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise EmoeError(f"cannot make the folder {folder}: {error.strerror}; name another with --out") from error
    for name in ("report.html", "report.md"):
        check_place(folder / name)
