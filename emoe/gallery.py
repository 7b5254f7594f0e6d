"""A folder of generated images: names, files, contact sheets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from emoe.atomic import made
from emoe.errors import EmoeError
from emoe.generations import Generation
from emoe.images import draw_map
from emoe.png import check_ours, is_ours, is_whole, save_png
from emoe.sheet import contact_sheet, open_small

RECORDS = "generations.jsonl"
OURS = re.compile(r"\d{5}-.+\.png|\..+\.(part|lock)")  # what a run that was stopped early may leave without a record
SHEET = re.compile(r"sheet(-\d+)?\.png")
ROWS = 20  # prompts on a contact sheet
SLUG = 80  # bytes of a prompt in a file name; file systems allow 255 in all


@contextmanager
def gallery(path: str | Path) -> Iterator[Path]:
    """A folder for a run's images: a new one, or an earlier run's. EmoeError for any other.

    A new one goes again if nothing comes into it.
    """
    if not str(path):
        raise EmoeError("--out is empty; name a folder")
    folder = Path(path)
    with made(folder):
        names = [path.name for path in folder.iterdir()]
        foreign = [name for name in names if not OURS.fullmatch(name)]
        if foreign and RECORDS not in names:
            raise EmoeError(f"{folder} holds other things ({foreign[0]}); name a new folder with --out")
        yield folder


def check_sheets(folder: Path) -> None:
    """EmoeError if somebody else's file lies where a contact sheet may be: said before hours are spent on images."""
    for path in folder.iterdir():
        if SHEET.fullmatch(path.name):
            check_ours(path)


def save(folder: Path, number: int, generation: Generation, maps: bool = False) -> dict[str, Any]:
    """Write a prompt's images; returns its record, with their names. number: the prompt's, in its list."""
    stem = f"{number:05d}-{slug(generation.prompt)}"
    tails = [f"-{i}" for i in range(1, len(generation.images) + 1)] if generation.recipe.mode == "emoe" else [""]
    names = [f"{stem}{tail}.png" for tail in tails][: len(generation.images)]
    record = generation.record()
    record |= {"images": names, "maps": maps}
    for path, (name, image) in enumerate(zip(names, generation.images, strict=True), start=1):
        own = record | ({"path": path} if len(names) > 1 else {})
        save_png(image, folder / name, own)
        if maps:
            save_png(draw_map(image, generation.scores.map[0]), folder / map_name(name), own)
    return record


def map_name(name: str) -> str:
    """ "00001-a-red-bus-1.png" -> "00001-a-red-bus-1-map.png"."""
    return f"{name.removesuffix('.png')}-map.png"


def intact(folder: Path, records: Sequence[dict[str, Any]]) -> int:
    """How many of the records, from the first on, have all their images still; the others are drawn again.

    EmoeError, before anything is forgotten, if somebody else's file lies where one of those is to be.
    """
    paths = [
        [folder / name for name in (*record["images"], *(map(map_name, record["images"]) if record["maps"] else ()))]
        for record in records
    ]
    count = next((i for i, some in enumerate(paths) if not all(map(is_whole, some))), len(records))
    for path in chain.from_iterable(paths[count:]):
        check_ours(path)
    return count


def slug(prompt: str) -> str:
    """A prompt as part of a file name, legal everywhere: letters of any alphabet, digits, hyphens."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    return words.encode()[:SLUG].decode(errors="ignore") or "prompt"


def draw_sheets(folder: Path, records: Sequence[dict[str, Any]], columns: Sequence[str]) -> list[Path]:
    """Contact sheets of the images that the records name: a row per prompt, a column per path.

    One is `sheet.png`, of several each has its number; those of a shorter list are removed.
    """
    shown = [record for record in records if record["images"]]
    pages = [shown[i : i + ROWS] for i in range(0, len(shown), ROWS)]
    paths = []
    for number, page in enumerate(pages, start=1):
        rows = [(_label(record), [open_small(folder / name) for name in record["images"]]) for record in page]
        paths.append(folder / ("sheet.png" if len(pages) == 1 else f"sheet-{number:03d}.png"))
        save_png(contact_sheet(rows, columns), paths[-1], {"rows": page})
    for path in set(folder.iterdir()) - set(paths):
        if SHEET.fullmatch(path.name) and is_ours(path):
            path.unlink()
    return paths


def _label(record: dict[str, Any]) -> str:
    return f"{record['uncertainty']:.4g}  {record['prompt']}"
