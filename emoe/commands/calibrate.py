"""emoe calibrate: the scores of a list of ordinary prompts, for others to be compared with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from emoe.atomic import check_place
from emoe.commands.options import (
    add_machine,
    add_prompts,
    add_reading,
    add_weights,
    be_verbose,
    reading_of,
    rows_of,
)
from emoe.config import read_weights
from emoe.errors import EmoeError, many
from emoe.exclusive import exclusive
from emoe.records import USUAL, Record, RecordFile
from emoe.scored import kept_scores
from emoe.terminal import say, show

DESCRIPTION = """\
Keeps how uncertain the mixture is about a list of prompts like those that it is used for. With that file, emoe score
--reference says how a prompt compares, and emoe generate --reference --max-percentile 90 halts the most uncertain.
"""
FEW = 100  # prompts; with fewer, a percentile is a rough one


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("calibrate", help="keep a list's scores as a reference", description=DESCRIPTION)
    add_prompts(parser)
    add_weights(parser)
    add_reading(parser)
    add_machine(parser)
    parser.add_argument("--out", metavar="FILE.json", required=True, help="the reference")
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    rows = rows_of(options)
    path = Path(options.out)
    if path.suffix.lower() != ".json":
        raise EmoeError(f"--out is {options.out!r}; name a file that ends in .json")
    check_place(path)
    with exclusive(path):
        return _calibrate(options, rows, path)


def _calibrate(options: argparse.Namespace, rows: list[Record], path: Path) -> int:
    weights = read_weights(options.weights)

    from emoe.pipeline import EMoE, check_batch_size
    from emoe.reference import Reference, quantiles, save_reference

    if path.exists():
        raise EmoeError(f"{path} is there already; name another --out, or delete it")
    scores = RecordFile(path.with_name(f".{path.name}.scores.jsonl"), rows, USUAL)  # a run cut short goes on there
    reading = reading_of(options)
    check_batch_size(options.batch_size)
    model = EMoE.from_weights(weights, device=options.device, dtype=options.dtype)
    reading = model.at_own_size(reading)
    records = kept_scores(model, rows, reading, options.batch_size, scores.path)
    values = [record["uncertainty"] for record in records]
    save_reference(Reference(sorted(values), model.mixture, reading), path)
    scores.path.unlink()
    if len(values) < FEW:
        say(f"a rough reference, of {many(len(values), 'prompt')}; a few hundred make a good one")
    for share, value in quantiles(values).items():
        show(f"{value:>11.4g}  at most, for the lowest {share} % of {many(len(values), 'prompt')}")
    say(f"the reference is {path}")
    return 0
