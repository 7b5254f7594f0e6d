"""emoe score: the epistemic uncertainty of prompts."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emoe.commands.options import (
    add_machine,
    add_prompts,
    add_reading,
    add_reference,
    add_weights,
    be_verbose,
    noises_text,
    percentile_text,
    reading_of,
    reference_of,
    route_text,
    rows_of,
    show_json,
)
from emoe.config import read_weights
from emoe.errors import EmoeError, many
from emoe.exclusive import exclusive
from emoe.prompts import check_text
from emoe.records import USUAL, Record, RecordFile
from emoe.scored import scored
from emoe.terminal import say, show, visible

DESCRIPTION = """\
Prints how uncertain the mixture of weights.toml is about each prompt: uncertainty = sqrt(d_mid) * eu, where eu is the
variance of the experts' paths after the mid-block; relative = eu without the activation's scale. Higher: less known.
"""


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("score", help="the epistemic uncertainty of prompts", description=DESCRIPTION)
    add_prompts(parser)
    add_weights(parser)
    add_reading(parser)
    add_machine(parser)
    parser.add_argument("--out", metavar="FILE", help="JSON lines to FILE instead; a run cut short goes on there")
    add_reference(parser)
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="on all GPUs of this machine or of a Ray cluster: Parquet to a folder of Parquet",
    )
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    if options.out == "":
        raise EmoeError("--out is empty; name a file, or leave it out")
    if options.ray is not None:
        return run_with_ray(options)
    rows = rows_of(options)
    path = None if options.out is None else Path(options.out)
    if path and path.suffix.lower() in (".csv", ".tsv", ".parquet"):
        raise EmoeError(f"JSON lines do not go into {options.out!r}; name another place with --out, FILE.jsonl")
    with exclusive(path) if path else nullcontext():
        return _score(options, rows, RecordFile(path, rows, USUAL) if path else None)


def _score(options: argparse.Namespace, rows: list[Record], file: RecordFile | None) -> int:
    weights = read_weights(options.weights)
    reading = reading_of(options)
    reference = reference_of(options)
    if reference:
        reference.check(reading)
    if file:
        file.check({key: value for key, value in asdict(reading).items() if value is not None})
        file.check({"reference": reference.mark if reference else None})

    from emoe.pipeline import SCORED, EMoE, check_batch_size

    check_batch_size(options.batch_size)
    model = EMoE.from_weights(weights, device=options.device, dtype=options.dtype)
    reading = model.at_own_size(reading)
    if file:
        file.check(asdict(reading) | {"mixture": model.mixture})
    if reference:
        reference.check(reading, model.mixture)
    done = file.go_on(model.batch_size(options.batch_size, SCORED)) if file else 0
    if done == len(rows):
        say(f"{file.path} is complete already: {many(done, 'score')}")
        return 0
    writers = [file.write] if file else []
    if options.json or not file:
        writers.append(show_json if options.json else _Table().write)

    for records in scored(model, rows, reading, options.batch_size, done):
        if reference:
            records = [record | reference.told(record["uncertainty"]) for record in records]
        for write in writers:
            write(records)
    if file:
        say(f"{many(len(rows), 'score')} in {file.path}")
    return 0


def run_with_ray(options: argparse.Namespace) -> int:
    """The same records, from Parquet into a folder of Parquet, on as many machines as there are."""
    if options.prompt or options.json or options.reference:
        raise EmoeError("--ray scores a list into a folder; leave PROMPT, --json and --reference out")
    if options.prompts is None or options.out is None:
        raise EmoeError("--ray scores Parquet into a folder; add --prompts FILE.parquet (or a folder) and --out FOLDER")
    check_text(options.negative)
    weights, reading = read_weights(options.weights), reading_of(options)
    try:
        from emoe import ray
    except ModuleNotFoundError as error:
        raise EmoeError(f"--ray needs {error.name}; pip install 'emoe[ray]'") from error

    from emoe.pipeline import check_batch_size

    check_batch_size(options.batch_size)
    job = ray.Job(weights, reading, options.negative, options.device, options.dtype, options.batch_size)
    found = ray.score(options.prompts, options.out, job, options.ray or None)
    scores = many(found.records, "score")
    say(f"{options.out} is complete already: {scores}" if found.already else f"{scores} in {options.out}")
    return 0


class _Table:
    """Aligned columns, line by line as the scores come."""

    def __init__(self):
        self.columns: list[str] = []

    def write(self, records: list[Record]) -> None:
        if not self.columns:
            self.columns = [key for key in ("uncertainty", "eu", "relative", "aleatoric") if key in records[0]]
            self.width = max(len("route"), len(_route(records[0])))  # every prompt has as many experts
            heads = [f"{column:>11}" for column in self.columns]
            heads += [f"{'noise by noise':<19}"] if "by_seed" in records[0] else []
            heads += [f"{'more uncertain than':<19}"] if "percentile" in records[0] else []
            show("  ".join([*heads, f"{'route':<{self.width}}", "prompt"]))
        for record in records:
            cells = [f"{record[column]:>11.4g}" for column in self.columns]
            cells += [f"{noises_text(record['by_seed']):<19}"] if "by_seed" in record else []
            cells += [f"{percentile_text(record):<19}"] if "percentile" in record else []
            show("  ".join([*cells, f"{_route(record):<{self.width}}", visible(record["prompt"])]))


def _route(record: Record) -> str:
    return "by layer" if record["weights"] is None else route_text(record["weights"])
