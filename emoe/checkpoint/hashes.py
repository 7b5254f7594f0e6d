"""Which files a source's weights were read from, and that they are the ones that were meant."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from emoe.checkpoint.parts import Checkpoint
from emoe.checkpoint.source import plain
from emoe.errors import EmoeError


def file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EmoeError(f"cannot read {path}: {error.strerror}") from error


def hashes(text: str, checkpoint: Checkpoint) -> dict[str, str]:
    """The SHA256 of every file that is open, by source string and its place in there."""
    return {_name(text, file.inner): file_sha256(file.path) for file in checkpoint.files}


def check_hashes(text: str, checkpoint: Checkpoint, expected: Mapping[str, str]) -> None:
    """EmoeError unless every open file is listed, and is what the list says."""
    for name, found in hashes(text, checkpoint).items():
        if name not in expected:
            raise EmoeError(f"[sha256] does not list {plain(name)}, which is read; write the table with emoe lock")
        if found != expected[name]:
            raise EmoeError(f"{plain(name)} is another file: its hash is {found}, [sha256] says {expected[name]}")


def check_hash(checkpoint: Checkpoint, expected: str) -> None:
    """EmoeError unless the UNet lies in a single file, and this is its hash."""
    paths = {file.path for file, _ in checkpoint.parts["unet"].places.values()}
    if len(paths) != 1:
        raise EmoeError(
            f"{checkpoint.source} is {len(paths)} files, for which one hash cannot stand; take emoe lock's table"
        )
    found = file_sha256(paths.pop())
    if found != expected.lower():
        raise EmoeError(f"{checkpoint.source} is another file: its hash is {found}, not {expected}")


def _name(text: str, inner: str) -> str:
    return f"{text}/{inner}" if inner else text
