"""emoe build: the mixture as a folder, hidden gate included, for SegMoE and for another day."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from emoe.atomic import check_new
from emoe.choices import DTYPES
from emoe.commands.options import add_machine, add_weights, be_verbose
from emoe.config import read_weights
from emoe.errors import EmoeError
from emoe.terminal import say

DESCRIPTION = """\
Writes the mixture of weights.toml to a folder that SegMoE loads, and that emoe loads under `segmoe`. The hidden gate's
vectors are captured for it, which takes 25 steps of every expert, once: they are kept beside weights.toml.
"""


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("build", help="write the mixture in SegMoE's form", description=DESCRIPTION)
    add_weights(parser)
    parser.add_argument("--out", metavar="FOLDER", required=True, help="a folder that is not there yet")
    parser.add_argument("--save-dtype", choices=DTYPES, default="float16", help="of the files")
    add_machine(parser)
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    if not options.out:
        raise EmoeError("--out is empty; name a folder")
    folder = Path(options.out)
    check_new(folder)
    weights = read_weights(options.weights)
    top = weights.top or len(weights.experts) or None  # None where a SegMoE folder tells
    for label, expert in zip(weights.labels, weights.experts, strict=True):
        if expert.positive is None or expert.negative is None:
            raise EmoeError(f"{weights.path}: {label} has no descriptors, of which SegMoE's gate is made; write them")

    import torch  # takes seconds; the mistakes above need not wait

    from emoe.checkpoint.source import plain
    from emoe.pipeline import EMoE
    from emoe.segmoe import save_segmoe

    hidden = replace(weights, gate="hidden", top=top, temperature=1.0)  # which the prompt gate alone has
    model = EMoE.from_weights(hidden, device=options.device, dtype=options.dtype)
    save_segmoe(model, folder, plain(weights.base or weights.segmoe), getattr(torch, options.save_dtype))
    say(f"{model.gate.experts} experts with their gate vectors in {folder}")
    return 0
