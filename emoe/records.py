"""Scores on disk: one JSON object a line, appended batch by batch, so that a kill costs one batch at most."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from emoe.errors import EmoeError, many, shown
from emoe.prompts import KEPT

Record = dict[str, Any]

KEY = "mixture"  # every record has it, no row does
NUMBERS = ("eu", "uncertainty", "relative")  # a score's line has them all
# What a score's line says by leaving the key out: a quarter of it, where nothing else was asked for.
USUAL = {"negative_prompt": "", "seeds": 1, "read_out": "post", "estimator": "eu", "truncated": False}


def texts_of(rows: list[Record]) -> tuple[list[str], list[str]]:
    """Prompts and negative prompts."""
    return [row["prompt"] for row in rows], [row["negative_prompt"] for row in rows]


class RecordFile:
    """A file of records that a run started again goes on with.

    rows: what the run is about, in order; record i of the file says of its prompt what row i says, no more and no less.
    usual: what lines leave out; of scores alone.
    """

    def __init__(self, path: Path, rows: list[Record], usual: Record | None = None):
        """Reads what is there, and writes nothing. EmoeError if it is anything but the beginning of this run."""
        self.path, self.usual = path, usual or {}
        if path.exists() and not path.is_file():
            raise EmoeError(f"{path} is not a file that can be written to; name another with --out")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise EmoeError(f"cannot write {path}: Permission denied")

        self.count = len(rows)
        found = self._read().rstrip(b"\0")  # after a power cut, zeros stand where lines did not reach the disk
        if not found and path.exists() and path.stat().st_size:
            raise self._other("it holds nothing but zero bytes: if a power cut left them, delete it")
        self.intact = found.rfind(b"\n") + 1  # bytes; what follows, a kill has cut short
        self.records = self._parsed(found[: self.intact])
        if len(self.records) > len(rows):
            raise self._other(f"it holds {many(len(self.records), 'record')}, this run has {many(len(rows), 'prompt')}")
        for number, (record, row) in enumerate(zip(self.records, rows, strict=False), start=1):
            told = {key: record[key] for key in record if key in row or key in KEPT}
            if told != row:
                key = next(key for key in row | told if told.get(key) != row.get(key))
                raise self._other(f"line {number} is not about prompt {number} of this run: its {key} is another")
            for key in (KEY, *NUMBERS) if usual else (KEY,):
                if key not in record:
                    raise self._other(f"line {number} has no {key}")
            for key in (key for key in NUMBERS if key in record):
                if type(record[key]) not in (int, float) or not abs(record[key]) < 1e300:  # nan is not, either
                    raise self._other(f"line {number} has {shown(record[key])} for its {key}, no number")
        rest = found[self.intact :]
        expected = self._line(rows[len(self.records)])[:-2].encode() if len(self.records) < len(rows) else b""
        length = min(len(rest), len(expected))
        if rest and (not expected or rest[:length] != expected[:length] or _foreign(rest)):
            raise self._other("its last line is not one of this run's")

    def check(self, settings: Record) -> None:
        """EmoeError unless the records were made with the same settings."""
        for record in self.records:
            for key, value in settings.items():
                if record.get(key) != value:
                    raise self._other(f"its {key} is {shown(record.get(key))}, this run's {shown(value)}")

    def keep(self, count: int) -> None:
        """Forget the records after the first `count`; the next write takes their place."""
        self.records = self.records[:count]
        self.intact = sum(len(line) + 1 for line in self._read().split(b"\n")[:count])

    def go_on(self, batch: int) -> int:
        """How many records are done, in whole batches; what is behind them is cut off.

        The last digits depend on a prompt's neighbours in its batch, so that a run that goes on has the same ones.
        """
        if len(self.records) < self.count:
            self.keep(len(self.records) // batch * batch)
        if self.path.exists():
            self.write([])
        return len(self.records)

    def write(self, records: list[Record]) -> None:
        """Append, whole lines at a time."""
        data = "".join(map(self._line, records)).encode()
        try:
            with self.path.open("ab") as file:
                if file.tell() > self.intact:
                    file.truncate(self.intact)
                file.write(data)
        except OSError as error:
            with suppress(OSError):  # else the next run does it
                os.truncate(self.path, self.intact)
            raise EmoeError(f"cannot write {self.path}: {error.strerror}") from error
        self.intact += len(data)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise EmoeError(f"cannot read {self.path}: {error.strerror}") from error

    def _parsed(self, lines: bytes) -> list[Record]:
        records = []
        for number, line in enumerate(lines.split(b"\n")[:-1], start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                damage = "; if the disk has damaged it, delete it and what follows" if records else ""
                raise self._other(f"line {number} is not JSON{damage}") from error
            if not isinstance(record, dict):
                raise self._other(f"line {number} is not an object")
            records.append(self.usual | record)
        return records

    def _line(self, record: Record) -> str:
        told = {key: value for key, value in record.items() if key not in self.usual or value != self.usual[key]}
        return json.dumps(told, ensure_ascii=False, separators=(",", ":")) + "\n"

    def _other(self, why: str) -> EmoeError:
        return EmoeError(
            f"{self.path} holds something else than this run's records ({why}); name another place with --out"
        )


def _foreign(line: bytes) -> bool:
    """Whether a line that does not end was cut short by no kill: it is whole, and no record."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return not isinstance(value, dict) or KEY not in value
