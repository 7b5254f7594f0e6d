"""Options that several commands have in common, and what they mean."""

from __future__ import annotations

import argparse
import json
import logging

from emoe.errors import EmoeError
from emoe.prompts import Prompt, check_text, read_prompts
from emoe.records import Record
from emoe.terminal import show


def add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="*", metavar="PROMPT")
    parser.add_argument("--prompts", metavar="FILE", help=".txt, .csv, .jsonl or COCO captions .json; - for stdin")
    parser.add_argument("--negative", default="", metavar="TEXT", help="negative prompt of those that have none")
    parser.add_argument("--batch-size", type=int, metavar="N", help="prompts at a time (default: 1 on a CPU)")


def add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        default="weights.toml",
        metavar="FILE",
        help="the mixture (default: %(default)s); miniature, miniature-bootstrap: small ones that are shipped",
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    parser.add_argument("--dtype", choices=("auto", "float32", "float16", "bfloat16"), default="auto")
    parser.add_argument("--verbose", action="store_true", help="also say what is left out of each checkpoint")


def be_verbose(options: argparse.Namespace) -> None:
    logging.getLogger("emoe").setLevel(logging.INFO if options.verbose else logging.WARNING)


def rows_of(options: argparse.Namespace) -> list[Record]:
    """The prompts, their negative prompts, and their ids where they have any."""
    prompts = [Prompt(text) for text in options.prompt]
    prompts += read_prompts(options.prompts) if options.prompts is not None else []
    if not prompts:
        raise EmoeError("there is no prompt; give one in quotes, or --prompts FILE")
    for text in (*options.prompt, options.negative):
        check_text(text)
    return [
        ({} if p.id is None else {"id": p.id})
        | {"prompt": p.text, "negative_prompt": options.negative if p.negative is None else p.negative}
        for p in prompts
    ]


def texts_of(rows: list[Record]) -> tuple[list[str], list[str]]:
    """Prompts and negative prompts."""
    return [row["prompt"] for row in rows], [row["negative_prompt"] for row in rows]


def show_json(records: list[Record]) -> None:
    for record in records:
        show(json.dumps(record, ensure_ascii=False))
