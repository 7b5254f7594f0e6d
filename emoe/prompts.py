"""Prompt files: .txt, .csv, .tsv, .jsonl, .parquet, COCO's captions_*.json, Conceptual Captions' .tsv."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from emoe.errors import EmoeError, about, many, shown

log = logging.getLogger("emoe")


class Prompt(NamedTuple):
    text: str
    negative: str | None = None  # None: whatever is said for the whole list
    id: str | int | None = None
    group: str | None = None  # what a study sets against another
    group_size: float | None = None  # how large the group is in the world: points of a study's figure
    reference_text: str | None = None  # what a study asks CLIP about instead of the prompt: its English, for instance
    image: str | None = None  # a file with the ground truth, which a study holds images against, as the list names it

    def row(self, negative: str = "") -> dict[str, Any]:
        """What a record begins with. negative: the negative prompt where this one brings none."""
        kept = {key: value for key in KEPT if (value := getattr(self, key)) is not None}
        return kept | {"prompt": self.text, "negative_prompt": negative if self.negative is None else self.negative}


LARGEST = 10**9  # bytes that a Parquet file may unpack to, as a few bytes can stand for any number of rows
COLUMNS = ("prompt", "negative_prompt", "id", "group", "size", "reference", "image")
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
CONCEPTUAL = re.compile(r"[^\t\n]+\thttps?://\S+(\r?\n|$)")  # a caption and where its picture was; no names above
KEPT = ("id", "group", "group_size", "reference_text", "image")  # in records, where a prompt has them


def check_text(text: object) -> None:
    """EmoeError for a prompt that no tokenizer can take."""
    if not isinstance(text, str):
        raise EmoeError(f"prompt {shown(text)} is not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EmoeError(f"prompt {text[:60]!r} is not valid Unicode; was it typed or saved in UTF-8?") from error


def read_prompts(path: str | Path) -> list[Prompt]:
    """Every prompt of a file, in its order; "-" reads lines from standard input.

    .txt: one a line, blank lines left out.  .csv, .tsv, .jsonl, .parquet: a `prompt` column, optional `id`,
    `negative_prompt`, `group`, `size` (the group's), `reference`, `image` (relative to the file).
    .tsv: also Conceptual Captions, whose lines are a caption and an address.
    .json: COCO captions ({"annotations": [{"id": ..., "caption": ...}]}), or a list of texts or objects.
    A warning names columns that are not used. EmoeError names the file and the line.
    """
    path = Path(path)
    readers = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl, ".json": _json, ".txt": _txt, "": _txt}
    if path.suffix.lower() == ".parquet":
        prompts = _parquet(path)
    elif path.suffix.lower() in readers:
        prompts = readers[path.suffix.lower()](_read(path), path)
    else:
        raise EmoeError(f"{path} is not .txt, .csv, .tsv, .jsonl, .parquet or COCO's .json; rename or convert it")
    if not prompts:
        raise EmoeError(f"{path} holds no prompts")
    return prompts


def _read(path: Path) -> str:
    try:
        if str(path) != "-":
            return path.read_bytes().decode("utf-8-sig")
        if sys.stdin is None:
            raise EmoeError("standard input is closed; name a file with --prompts")
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except OSError as error:
        raise EmoeError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise EmoeError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error


def _txt(text: str, path: Path) -> list[Prompt]:
    lines = re.split(r"\r\n?|\n", text)  # nothing else ends a line: prompts may hold odd separators
    return [Prompt(line.strip()) for line in lines if line.strip()]


def _csv(text: str, path: Path) -> list[Prompt]:
    return _table(csv.reader(io.StringIO(text, newline=""), strict=True), path)


def _tsv(text: str, path: Path) -> list[Prompt]:
    """Tabs, and no quotes."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    return _table(lines, path, ["prompt", "address"] if CONCEPTUAL.match(text) else None)


def _table(reader: Any, path: Path, head: list[str] | None = None) -> list[Prompt]:
    """Lines of cells, below one of names unless they are known. An empty cell says nothing."""
    prompts = []
    try:
        if head is None:
            head = [name.strip() for name in next(reader, [])]
            _check_columns(head, path)
        for name in (name for name, count in Counter(head).items() if count > 1):
            raise EmoeError(f"{path} has several columns {shown(name)}; rename all but one")
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if len(cells) > len(head):
                remedy = (
                    "put prompts in double quotes" if reader.dialect.delimiter == "," else "take tabs out of prompts"
                )
                raise EmoeError(f"{where} has {len(cells)} cells, the first line {len(head)}; {remedy}")
            if cells:
                row = {key: cell for key, cell in zip(head, cells, strict=False) if cell}
                if "prompt" not in row:
                    raise EmoeError(f"{where}: its prompt is empty; write one, or take the line out")
                prompts.append(read_prompt(row, where))
    except csv.Error as error:
        raise EmoeError(f"{path}, line {reader.line_num} is not valid {path.suffix[1:].upper()} ({error})") from error
    return prompts


def _check_columns(names: list[str], path: Path) -> None:
    if names and "prompt" not in names:
        remedy = (
            "save it with commas"
            if ";" in names[0]
            else "name it .tsv"
            if "\t" in names[0]
            else "rename the one that holds the prompts"
        )
        raise EmoeError(f"{path} has no column 'prompt' (it has {', '.join(names[:10])}); {remedy}")
    warn_of_others(names, path)


def warn_of_others(names: Iterable[str], path: Path) -> None:
    """A column that is misspelled would be left out, and nobody would know."""
    if others := [shown(name) for name in dict.fromkeys(names) if name not in COLUMNS]:
        more = f" and {many(len(others) - 10, 'other')}" if len(others) > 10 else ""
        log.warning("%s: not used: %s%s; columns are %s", path, ", ".join(others[:10]), more, ", ".join(COLUMNS))


def _jsonl(text: str, path: Path) -> list[Prompt]:
    prompts, names = [], {}
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            row = _parsed(line, where)
            prompts.append(read_prompt(row, where))
            names |= dict.fromkeys(row)
    warn_of_others(names, path)
    return prompts


def _json(text: str, path: Path) -> list[Prompt]:
    value = _parsed(text, str(path))
    if isinstance(value, dict) and isinstance(value.get("annotations"), list):
        value = [_from_coco(annotation) for annotation in value["annotations"]]
    if not isinstance(value, list):
        raise EmoeError(f"{path} is neither COCO captions (an object with annotations) nor a list of prompts")
    rows = [{"prompt": row} if isinstance(row, str) else row for row in value]
    prompts = [read_prompt(row, f"{path}, entry {number}") for number, row in enumerate(rows, start=1)]
    warn_of_others((name for row in rows for name in row), path)
    return prompts


def _parquet(path: Path) -> list[Prompt]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise EmoeError(f"{path}: reading Parquet needs {error.name}; pip install 'emoe[study]'") from error
    prompts, size = [], 0
    try:
        file = parquet.ParquetFile(path)
        _check_columns(file.schema_arrow.names, path)
        names = [name for name in COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(1024, columns=names):
            size += batch.nbytes + 100 * batch.num_rows  # which is what a row is at least, here
            if size > LARGEST:
                raise EmoeError(f"{path} unpacks to more than {LARGEST / 1e9:.0f} GB; split it")
            for row in batch.to_pylist():
                prompts.append(read_prompt(row, f"{path}, row {len(prompts) + 1}"))
    except EmoeError:
        raise
    except UnicodeDecodeError as error:  # Arrow's word for text does not make it UTF-8
        raise EmoeError(f"{path} holds text that is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except Exception as error:  # whatever a damaged file makes of pyarrow
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EmoeError(f"cannot read {path}: {reason}") from error
    return prompts


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EmoeError(f"{where} is not JSON ({error})") from error


def _from_coco(annotation: Any) -> Any:
    """COCO's captions end in spaces and newlines now and then."""
    if not isinstance(annotation, dict) or not isinstance(annotation.get("caption"), str):
        return annotation
    return {"id": annotation.get("id"), "prompt": annotation["caption"].strip()}


def read_prompt(row: Any, where: str) -> Prompt:
    """A prompt from a row's columns, by their names in files; EmoeError begins with `where`."""
    if not isinstance(row, dict):
        raise EmoeError(f"{where} is {shown(row)}; it must be an object with a prompt")
    if "prompt" not in row:
        raise EmoeError(f"{where} has no prompt (it has {', '.join(map(str, islice(row, 10))) or 'nothing'})")
    if {"eu", "mixture"} <= row.keys():  # a score's record, whose own `size` is the picture's
        row = row | {"size": row.get("group_size"), "reference": row.get("reference_text")}
    name, group = row.get("id"), row.get("group")
    group = str(group) if type(group) is int else group
    texts = {key: row.get(key) for key in ("prompt", "negative_prompt", "reference", "image")} | {"group": group}
    for key, value in texts.items():
        if not isinstance(value, str) and (key == "prompt" or value is not None):
            raise EmoeError(f"{where}: its {key} is {shown(value)}; it must be text")
    if isinstance(name, bool) or not isinstance(name, str | int | None):
        raise EmoeError(f"{where}: its id is {shown(name)}; it must be text or a whole number")
    with about(where):
        for value in (*(text or "" for text in texts.values()), str(name)):
            check_text(value)
    negative, reference, image = (texts[key] for key in ("negative_prompt", "reference", "image"))
    return Prompt(row["prompt"], negative, name, group, _size(row.get("size"), where), reference, image)


def _size(value: Any, where: str) -> float | None:
    try:
        size = None if value is None else -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        size = -1.0
    if size is not None and not 0 < size < math.inf:
        raise EmoeError(f"{where}: its size is {shown(value)}; it must be a number above 0")
    return size
