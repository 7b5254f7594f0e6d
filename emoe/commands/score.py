"""emoe score: the epistemic uncertainty of prompts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from emoe.errors import EmoeError
from emoe.prompts import Prompt, read_prompts
from emoe.records import Record, RecordFile

DESCRIPTION = """\
Prints how uncertain the mixture of weights.toml is about each prompt: uncertainty = sqrt(d_mid) * eu, where eu is the
variance of the experts' paths after the mid-block; relative = eu without the activation's scale. Higher: less known.
"""


def add_to(commands: Any) -> None:
    parser = commands.add_parser("score", help="the epistemic uncertainty of prompts", description=DESCRIPTION)
    parser.add_argument("prompt", nargs="*", metavar="PROMPT")
    parser.add_argument("--prompts", metavar="FILE", help=".txt, .csv, .jsonl or COCO captions .json; - for stdin")
    parser.add_argument("--weights", default="weights.toml", metavar="FILE", help="the mixture (default: %(default)s)")
    parser.add_argument("--negative", default="", metavar="TEXT", help="negative prompt; it takes part in the route")
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="average over so many noises, from --seed on")
    parser.add_argument("--steps", type=int, default=25, help="read the first step of so many (default: %(default)s)")
    parser.add_argument("--timestep", type=int, metavar="T", help="read at this timestep instead, 0 to 999")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="image side (default: the checkpoint's own)")
    parser.add_argument("--read-out", choices=("post", "pre"), default="post", help="after or before the mid-block")
    parser.add_argument("--batch-size", type=int, metavar="N", help="prompts at a time (default: 1 on a CPU, else 8)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    parser.add_argument("--dtype", choices=("auto", "float32", "float16", "bfloat16"), default="auto")
    parser.add_argument("--out", metavar="FILE", help="append JSON lines to FILE; a run cut short goes on there")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    rows = _rows(options)
    file = RecordFile(Path(options.out), rows) if options.out else None
    done = file.done if file else 0

    from emoe.pipeline import EMoE  # torch and transformers take seconds to import; the mistakes above need not wait

    model = EMoE.from_toml(options.weights, device=options.device, dtype=options.dtype)
    settings = {key: getattr(options, key) for key in ("seed", "seeds", "steps", "timestep", "size", "read_out")}

    def score(rows: list[Record], batch_size: int | None) -> Iterator[list[Record]]:
        texts, negatives = [row["prompt"] for row in rows], [row["negative_prompt"] for row in rows]
        todo = iter(rows)
        for batch in model.stream(texts, negatives, batch_size=batch_size, **settings):
            yield [row | record for record, row in zip(batch.records(), todo, strict=False)]

    if done:
        file.check(next(score(rows[done - 1 : done], 1))[0])
    write = file.write if file else _json_lines if options.json else _Table().write
    with tqdm(total=len(rows), initial=done, unit="prompt", disable=not sys.stderr.isatty()) as bar:
        for records in score(rows[done:], options.batch_size):
            write(records)
            bar.update(len(records))
    return 0


def _rows(options: argparse.Namespace) -> list[Record]:
    """What is to be scored: the prompts, their negative prompts, and their ids where they have any."""
    prompts = [Prompt(text) for text in options.prompt]
    prompts += read_prompts(options.prompts) if options.prompts else []
    if not prompts:
        raise EmoeError("there is no prompt; give one in quotes, or --prompts FILE")
    return [
        ({} if p.id is None else {"id": p.id}) | {"prompt": p.text, "negative_prompt": p.negative or options.negative}
        for p in prompts
    ]


def _json_lines(records: list[Record]) -> None:
    for record in records:
        print(json.dumps(record, ensure_ascii=False), flush=True)


class _Table:
    """Aligned columns, line by line as the scores come."""

    headed = False

    def write(self, records: list[Record]) -> None:
        for record in records:
            columns = [key for key in ("uncertainty", "eu", "relative", "aleatoric") if key in record]
            if not self.headed:
                print(*(f"{column:>11}" for column in columns), " route" + " " * 14, "prompt", sep="  ")
                self.headed = True
            route = (
                " ".join(f"{i}:{w:.2f}" for i, w in enumerate(record["weights"] or [], start=1) if w) or "a layer's own"
            )
            print(*(f"{record[c]:>11.4g}" for c in columns), f" {route:<19}", record["prompt"], sep="  ", flush=True)
