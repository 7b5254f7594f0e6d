"""From latents to pictures: PNGs that carry their settings, contact sheets, maps drawn over images.

Axes: p images, H W pixels, h w mid-block pixels.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from emoe.errors import EmoeError
from emoe.vae import VAE
from emoe.whole import whole

END = b"\0\0\0\0IEND\xae\x42\x60\x82"  # of every PNG
CELL, LABEL, GAP = 256, 20, 8  # pixels of a contact sheet
FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf")


@torch.inference_mode()
def to_images(vae: VAE, latents: Tensor) -> list[Image.Image]:
    """(p, 4, h, w) -> p images, decoded one by one to bound the memory."""
    pixels = [vae.decode(z[None])[0].float().cpu() for z in latents]  # (3, H, W), -1 to 1
    if not all(torch.isfinite(x).all() for x in pixels):
        raise EmoeError("the VAE makes pixels that are not finite; name another under vae")
    return [Image.fromarray(_bytes(x / 2 + 0.5)) for x in pixels]


def _bytes(x: Tensor) -> numpy.ndarray:
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def save_png(image: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Whole or not at all. The record is in the PNG's text under "emoe", as JSON. EmoeError as from `check_ours`."""
    check_ours(path)
    told = PngInfo()
    told.add_itxt("emoe", json.dumps(record, ensure_ascii=False))
    with whole(path) as new:
        image.save(new, "PNG", pnginfo=told)


def check_ours(path: Path) -> None:
    """EmoeError if something lies where an image is to be that this program did not write."""
    empty = path.is_file() and not path.stat().st_size  # what a power cut leaves
    if os.path.lexists(path) and not empty and not is_ours(path):
        raise EmoeError(f"{path} is not of emoe's making and is not replaced; move it, or name another --out")


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


def open_small(path: Path) -> Image.Image:
    """The same, as it stands on a contact sheet."""
    return open_drawn(path).resize((CELL, CELL))


def draw_map(image: Image.Image, variance: Tensor) -> Image.Image:
    """The map (h, w) over its image: the redder, the more the paths disagree there (scaled to the map's own range)."""
    low, high = variance.min(), variance.max()
    heat = (variance - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    mask = (
        Image.fromarray(_bytes(0.75 * heat.expand(3, -1, -1))).convert("L").resize(image.size, Image.Resampling.BICUBIC)
    )
    grey = image.convert("L").convert("RGB")
    return Image.composite(Image.new("RGB", image.size, (255, 32, 0)), grey, mask)


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str], cell: int = CELL
) -> Image.Image:
    """One labelled row per prompt, one column per path (the paper's Figure 12); images `cell` pixels per side.

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
