"""PNGs that carry their record, whole or not at all, and that never replace what somebody else made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from emoe.atomic import atomic
from emoe.errors import EmoeError

END = b"\0\0\0\0IEND\xae\x42\x60\x82"  # of every PNG


def save_png(image: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Whole or not at all. The record is in the PNG's text under "emoe", as JSON. EmoeError as from `check_ours`."""
    check_ours(path)
    told = PngInfo()
    told.add_itxt("emoe", json.dumps(record, ensure_ascii=False))
    with atomic(path) as new:
        image.save(new, "PNG", pnginfo=told)


def check_ours(path: Path) -> None:
    """EmoeError if something lies where an image is to be that this program did not write."""
    if os.path.lexists(path) and not (path.is_file() and _blank(path)) and not is_ours(path):
        raise EmoeError(f"{path} is not of emoe's making and is not replaced; move it, or name another --out")


def _blank(path: Path) -> bool:
    """Whether a file holds nothing, or nothing but zeros: what a power cut leaves."""
    with path.open("rb") as file:
        return not any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(2**20), b""))


def is_ours(path: Path) -> bool:
    """Whether a file is a PNG that carries a record."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return "emoe" in image.info
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # no picture, or none to be opened
        return False


def is_whole(path: Path) -> bool:
    """Whether a file is there to its end: a disk that filled, or a power cut, may leave less."""
    try:
        with path.open("rb") as file:
            file.seek(-len(END), os.SEEK_END)
            return file.read() == END
    except OSError:  # none, or shorter than that
        return False


def open_drawn(path: Path) -> Image.Image:
    """An image that was drawn before. EmoeError if it is damaged."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError is Pillow's word for a damaged file
        raise EmoeError(f"cannot read {path} ({error}); delete it, and it is drawn again") from error
