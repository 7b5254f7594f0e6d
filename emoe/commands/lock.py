"""emoe lock: a weights.toml that means the same years later."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from emoe.atomic import atomic, check_place
from emoe.commands.options import add_verbose, add_weights, be_verbose
from emoe.config import read_weights
from emoe.errors import EmoeError, many
from emoe.terminal import say

DESCRIPTION = """\
Writes a copy of weights.toml that names what is used for good: the Hub's commits, Civitai's files, and the SHA256 of
every weights file, to which every later run is held. What is not here yet is downloaded, the VAE included.
"""


def add_to(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("lock", help="a weights.toml that means the same later", description=DESCRIPTION)
    add_weights(parser)
    parser.add_argument("--out", metavar="FILE.toml", required=True, help="the copy")
    add_verbose(parser)
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    be_verbose(options)
    path = Path(options.out)
    if path.suffix.lower() != ".toml":
        raise EmoeError(f"--out is {options.out!r}; name a file that ends in .toml")
    if path.exists():
        raise EmoeError(f"{path} is there already; name another with --out")
    check_place(path)
    weights = read_weights(options.weights)

    from emoe.lock import lock, to_toml  # torch takes seconds; the mistakes above need not wait

    locked = lock(weights, path)
    with atomic(path) as new:
        new.write_text(to_toml(locked), encoding="utf-8")
    say(f"{path} holds {many(len(locked.sha256), 'file')} to their hashes")
    return 0
