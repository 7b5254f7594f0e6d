"""Prompt files: .txt, .csv, .jsonl, or COCO's captions_*.json."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from emoe.errors import EmoeError


class Prompt(NamedTuple):
    text: str
    negative: str | None = None  # None: whatever is said for the whole list
    id: str | int | None = None


def read_prompts(path: str | Path) -> list[Prompt]:
    """Every prompt of a file, in its order; "-" reads lines from standard input.

    .txt: one a line, blank lines left out.  .csv, .jsonl: a `prompt` column, optional `id` and `negative_prompt`.
    .json: COCO captions ({"annotations": [{"id": ..., "caption": ...}]}), or a list of texts or objects.
    """
    path = Path(path)
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise EmoeError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise EmoeError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error

    readers = {".csv": _csv, ".jsonl": _jsonl, ".json": _json, ".txt": _txt, "": _txt}
    if path.suffix.lower() not in readers:
        raise EmoeError(f"{path} is not .txt, .csv, .jsonl or COCO's .json; rename or convert it")
    prompts = readers[path.suffix.lower()](text, path)
    if not prompts:
        raise EmoeError(f"{path} holds no prompts")
    return prompts


def _txt(text: str, path: Path) -> list[Prompt]:
    return [Prompt(line.strip()) for line in text.splitlines() if line.strip()]


def _csv(text: str, path: Path) -> list[Prompt]:
    try:
        rows = list(csv.DictReader(text.splitlines(keepends=True), strict=True))
    except csv.Error as error:
        raise EmoeError(f"{path} is not valid CSV ({error})") from error
    return _from_rows(rows, path, first=2)


def _jsonl(text: str, path: Path) -> list[Prompt]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    try:
        return [_prompt(json.loads(line), f"{path}, line {number}") for number, line in lines]
    except json.JSONDecodeError as error:
        number = next(n for n, line in lines if line == error.doc)
        raise EmoeError(f"{path}, line {number} is not JSON ({error.msg})") from error


def _json(text: str, path: Path) -> list[Prompt]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EmoeError(f"{path} is not JSON ({error})") from error
    if isinstance(value, dict) and isinstance(value.get("annotations"), list):
        value = [_from_coco(annotation) for annotation in value["annotations"]]
    if not isinstance(value, list):
        raise EmoeError(f"{path} is neither COCO captions (an object with annotations) nor a list of prompts")
    return _from_rows([{"prompt": row} if isinstance(row, str) else row for row in value], path, first=1)


def _from_coco(annotation: Any) -> Any:
    """COCO's captions end in spaces and newlines now and then."""
    if not isinstance(annotation, dict) or not isinstance(annotation.get("caption"), str):
        return annotation
    return {"id": annotation.get("id"), "prompt": annotation["caption"].strip()}


def _from_rows(rows: Iterable[Any], path: Path, first: int) -> list[Prompt]:
    return [_prompt(row, f"{path}, entry {number}") for number, row in enumerate(rows, start=first)]


def _prompt(row: Any, where: str) -> Prompt:
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        found = ", ".join(map(str, row)) if isinstance(row, dict) else repr(row)[:60]
        raise EmoeError(f"{where} has no text under 'prompt' (it has {found})")
    negative = row.get("negative_prompt")
    if negative is not None and not isinstance(negative, str):
        raise EmoeError(f"{where}: negative_prompt is {negative!r}; it must be text")
    if isinstance(row.get("id"), bool | float | list | dict):
        raise EmoeError(f"{where}: id is {row['id']!r}; it must be text or a whole number")
    return Prompt(row["prompt"], negative or None, row.get("id"))
