"""Contact sheets: a labelled row of small images per prompt, a column per path (the paper's Figure 12)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from emoe.png import open_drawn

CELL, LABEL, GAP = 256, 20, 8  # pixels
FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf")


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str], cell: int = CELL
) -> Image.Image:
    """Rows of (label, images), under `columns`; images `cell` pixels per side.

    A column's head may have several lines; where no row has a label, there is no room for any.
    """
    step, above = cell + GAP, LABEL * any(label for label, _ in rows)
    heads = [name.split("\n") for name in columns]
    top = LABEL * max(map(len, heads)) + GAP
    sheet = Image.new("RGB", (GAP + step * len(columns), top + (step + above) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, lines in enumerate(heads):
        for number, line in enumerate(lines):
            draw.text((GAP + step * column, GAP // 2 + LABEL * number), _fitting(line, cell), "black", _font())
    for label, images in rows:
        draw.text((GAP, top), _fitting(label, sheet.width - 2 * GAP), "black", _font())
        for column, image in enumerate(images):
            sheet.paste(image.resize((cell, cell)), (GAP + step * column, top + above))
        top += above + step
    return sheet


def open_small(path: Path) -> Image.Image:
    """An image that was drawn before, as it stands on a sheet. EmoeError if it is damaged."""
    return open_drawn(path).resize((CELL, CELL))


def in_lines(text: str, width: int, count: int) -> str:
    """A label in at most so many lines, broken between words where there are any; the last may be too long."""
    lines, rest = [], " ".join(text.split())
    while len(lines) < count - 1 and (room := _room(rest, width)) < len(rest):
        end = rest.rfind(" ", 1, room + 1)
        end = end if end > 0 else max(room, 1)
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return "\n".join([*lines, rest])


def _fitting(text: str, width: int) -> str:
    """As much of a label as there is room for."""
    text = " ".join(text.split())
    return text if _room(text, width) == len(text) else f"{text[: _room(text, width, '…')]}…"


def _room(text: str, width: int, tail: str = "") -> int:
    """How many letters of a text, and the tail behind them, are at most `width` pixels wide."""
    lengths = range(1, len(text) + 1)
    return bisect_right(lengths, width, key=lambda length: _font().getlength(text[:length] + tail))


@cache
def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """One that knows many alphabets, if there is one; Pillow's own knows the Latin one."""
    for name in FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, 14)
    return ImageFont.load_default(14)
