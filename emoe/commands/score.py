"""emoe score: the epistemic uncertainty of prompts."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from emoe.commands.options import add_machine, add_prompts, add_weights, be_verbose, rows_of, show_json, texts_of
from emoe.records import Record, RecordFile
from emoe.terminal import say, show, visible

DESCRIPTION = """\
Prints how uncertain the mixture of weights.toml is about each prompt: uncertainty = sqrt(d_mid) * eu, where eu is the
variance of the experts' paths after the mid-block; relative = eu without the activation's scale. Higher: less known.
"""


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("score", help="the epistemic uncertainty of prompts", description=DESCRIPTION)
    add_prompts(parser)
    add_weights(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="average over so many noises, from --seed on")
    parser.add_argument("--steps", type=int, default=25, help="read the first step of so many (default: %(default)s)")
    parser.add_argument("--timestep", type=int, metavar="T", help="read at this timestep instead, 0 to 999")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="image side (default: the checkpoint's own)")
    parser.add_argument("--read-out", choices=("post", "pre"), default="post", help="after or before the mid-block")
    add_machine(parser)
    parser.add_argument("--out", metavar="FILE", help="JSON lines to FILE instead; a run cut short goes on there")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    rows = rows_of(options)
    file = RecordFile(Path(options.out), rows) if options.out is not None else None
    done = len(file.records) if file else 0

    from emoe.scores import Reading  # torch takes seconds; the mistakes above need not wait

    others = {key: getattr(options, key) for key in ("seed", "seeds", "size", "read_out")}
    reading = Reading.of(options.steps, options.timestep, **others)
    if file:
        file.check({key: value for key, value in asdict(reading).items() if value is not None})
    if file and done == len(rows):
        say(f"{file.path} holds all {done} scores already")
        return 0

    from emoe.pipeline import EMoE, check_batch_size

    if options.batch_size is not None:
        check_batch_size(options.batch_size)
    model = EMoE.from_toml(options.weights, device=options.device, dtype=options.dtype)
    if file:
        file.check(asdict(model.at_own_size(reading)) | {"mixture": model.mixture})
    write = file.write if file else show_json if options.json else _Table().write

    todo = rows[done:]
    with tqdm(total=len(rows), initial=done, unit="prompt", disable=not sys.stderr.isatty()) as bar:
        for batch in model.stream(*texts_of(todo), reading, options.batch_size):
            records = batch.records()
            write([row | record for row, record in zip(todo, records, strict=False)])
            todo = todo[len(records) :]
            bar.update(len(records))
    if file:
        say(f"{len(rows)} scores in {file.path}")
    return 0


class _Table:
    """Aligned columns, line by line as the scores come."""

    def __init__(self):
        self.columns: list[str] = []

    def write(self, records: list[Record]) -> None:
        if not self.columns:
            self.columns = [key for key in ("uncertainty", "eu", "relative", "aleatoric") if key in records[0]]
            self.width = max(len("route"), len(_route(records[0])))  # every prompt has as many experts
            show("  ".join([*(f"{c:>11}" for c in self.columns), f"{'route':<{self.width}}", "prompt"]))
        for record in records:
            cells = [f"{record[column]:>11.4g}" for column in self.columns]
            show("  ".join([*cells, f"{_route(record):<{self.width}}", visible(record["prompt"])]))


def _route(record: Record) -> str:
    """ "1:0.50 3:0.50": the experts in use, and their weights."""
    if record["weights"] is None:
        return "by layer"
    return " ".join(f"{i}:{weight:.2f}" for i, weight in enumerate(record["weights"], start=1) if weight)
