"""Options that several commands have in common, and what they mean."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emoe.choices import DTYPES, ESTIMATORS, READ_OUTS
from emoe.errors import EmoeError, many
from emoe.prompts import SUFFIXES, Prompt, check_text, read_prompts
from emoe.records import Record
from emoe.terminal import as_json, show

if TYPE_CHECKING:
    from emoe.reference import Reference
    from emoe.scores import Reading

log = logging.getLogger("emoe")


def add_prompts(parser: argparse.ArgumentParser, usual: int = 16) -> None:
    parser.add_argument("prompt", nargs="*", metavar="PROMPT")
    parser.add_argument(
        "--prompts", metavar="FILE", help=".txt, .csv, .tsv, .jsonl, .parquet, COCO captions .json; - for stdin"
    )
    parser.add_argument("--negative", default="", metavar="TEXT", help="negative prompt of those that have none")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help=f"prompts at a time (default: 1 on a CPU, else {usual})"
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        default="weights.toml",
        metavar="FILE",
        help="the mixture (default: %(default)s); miniature, miniature-bootstrap: small ones that are shipped",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Where and how the number is read."""
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="average over so many noises (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=25, help="read the first of so many steps, 1 to 999 (default: %(default)s)"
    )
    parser.add_argument("--timestep", type=int, metavar="T", help="read at this timestep instead, 0 to 999")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="image side (default: the checkpoint's own)")
    add_number(parser)


def add_number(parser: argparse.ArgumentParser) -> None:
    """What is read there."""
    parser.add_argument("--read-out", choices=READ_OUTS, default="post", help="after or before the mid-block")
    parser.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default="eu",
        help="of the uncertainty: the paper's, or over how much the prompt changes",
    )


def reading_of(options: argparse.Namespace) -> Reading:
    from emoe.scores import Reading  # torch takes seconds; mistakes that are seen without it need not wait

    others = {key: getattr(options, key) for key in ("seed", "seeds", "size", "read_out", "estimator")}
    return Reading.of(options.steps, options.timestep, **others)


def add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", metavar="FILE.json", help="say how each prompt compares; from emoe calibrate")


def reference_of(options: argparse.Namespace) -> Reference | None:
    from emoe.reference import load_reference

    if options.reference == "":
        raise EmoeError("--reference is empty; name a file, or leave it out")
    return None if options.reference is None else load_reference(options.reference)


def add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=("auto", *DTYPES), default="auto", help="auto: float16 on a GPU, else float32"
    )
    add_verbose(parser)


def add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="also say what is left out of each checkpoint")


def be_verbose(options: argparse.Namespace) -> None:
    logging.getLogger("emoe").setLevel(logging.INFO if options.verbose else logging.WARNING)


def check_no_file(prompt: str, remedy: str) -> None:
    """EmoeError for a prompt that is the name of a list."""
    if prompt.endswith(SUFFIXES) and os.path.isfile(prompt):
        raise EmoeError(f"the prompt {prompt!r} is a file; {remedy}")


def rows_of(options: argparse.Namespace) -> list[Record]:
    """The prompts, their negative prompts, and what else the file says of them."""
    for text in options.prompt:
        check_no_file(text, f"to take the prompts in it, write --prompts {text}")
    if options.prompts == "":
        raise EmoeError("--prompts is empty; name a file, or leave it out")
    prompts = [Prompt(text) for text in options.prompt]
    prompts += read_prompts(options.prompts) if options.prompts is not None else []
    if not prompts:
        raise EmoeError("there is no prompt; give one in quotes, or --prompts FILE")
    for text in (*options.prompt, options.negative):
        check_text(text)
    rows = [prompt.row(options.negative) for prompt in prompts]
    if blank := [number for number, row in enumerate(rows, start=1) if not row["prompt"].strip()]:
        log.warning("%s of %d say nothing, the first is number %d", many(len(blank), "prompt"), len(rows), blank[0])
    return rows


def route_text(weights: Sequence[float]) -> str:
    """ "1:0.50 3:0.50": the experts in use, and their weights."""
    return " ".join(f"{i}:{weight:.2f}" for i, weight in enumerate(weights, start=1) if weight)


def noises_text(by_seed: Sequence[float]) -> str:
    """ "4.66 to 240": the least and the largest uncertainty under one noise."""
    return f"{min(by_seed):.3g} to {max(by_seed):.3g}"


def percentile_text(record: Record) -> str:
    """Under the head "more uncertain than"."""
    return f"{record['percentile']:.0f} % of reference"


def show_json(records: list[Record]) -> None:
    for record in records:
        show(as_json(record))
