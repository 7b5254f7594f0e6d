"""Scores on disk: one JSON object a line, appended batch by batch, so that a kill costs one batch at most."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from emoe.errors import EmoeError

Record = dict[str, Any]


class RecordFile:
    """A file of records that a run started again goes on with.

    rows: what the run is about, in order; record i of the file must begin with the keys and values of row i.
    """

    def __init__(self, path: Path, rows: list[Record]):
        """Reads what is there; nothing is written yet. EmoeError if it belongs to another run."""
        self.path = path
        lines = self._lines()
        if len(lines) > len(rows):
            raise self._other(f"it holds {len(lines)} records, this run has {len(rows)} prompts")
        for number, (line, row) in enumerate(zip(lines, rows, strict=False), start=1):
            if {key: line.get(key) for key in row} != row:
                raise self._other(f"line {number} is not about prompt {number} of this run")
        self.done = len(lines)
        self.last = lines[-1] if lines else None
        if not path.parent.is_dir():
            raise EmoeError(f"cannot write {path}: there is no folder {path.parent}")

    def check(self, again: Record) -> None:
        """EmoeError unless the last record, scored again, comes out the same: same mixture, same settings."""
        for key, value in again.items():
            found = self.last.get(key)
            same = math.isclose(found, value, rel_tol=1e-2) if _numbers(found, value) else found == value
            if key != "weights" and not same:
                raise self._other(f"{key} of its last prompt is {found!r} there and {value!r} now")

    def write(self, records: list[Record]) -> None:
        """Append, whole lines at a time."""
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        try:
            with self.path.open("ab") as file:
                if file.tell() > self.whole:  # what a kill has cut short
                    file.truncate(self.whole)
                self.whole += file.write(text.encode())
        except OSError as error:
            raise EmoeError(f"cannot write {self.path}: {error.strerror}; what it holds is kept") from error

    def _lines(self) -> list[Record]:
        """The records that are there. A last line that a kill has cut short does not count."""
        try:
            found = self.path.read_bytes()
        except FileNotFoundError:
            found = b""
        except OSError as error:
            raise EmoeError(f"cannot read {self.path}: {error.strerror}") from error
        self.whole = found.rfind(b"\n") + 1  # bytes
        lines = found[: self.whole].splitlines()
        try:
            records = [json.loads(line) for line in lines]
        except ValueError as error:
            raise self._other("it is not JSON lines") from error
        if not all(isinstance(record, dict) for record in records):
            raise self._other("it is not one object a line")
        return records

    def _other(self, why: str) -> EmoeError:
        return EmoeError(f"{self.path} holds scores of another run ({why}); name another file with --out")


def _numbers(a: Any, b: Any) -> bool:
    return isinstance(a, float) and isinstance(b, float)
