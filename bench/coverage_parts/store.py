"""Measurements on disk: one JSON line each, appended as they come, so that the same command goes on after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy

from emoe.errors import EmoeError

Values = dict[str, numpy.ndarray]  # name -> (prompts,)


class Store:
    """Named measurements. The first line tells what they are of; a file of anything else is refused."""

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path, self.known = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):  # torn by the stop
            lines.pop()
            path.write_bytes(b"".join(lines))
        told = json.loads(json.dumps(settings))
        if not lines:
            self._append(told)
        elif json.loads(lines[0]) != told:
            raise EmoeError(f"{path} holds measurements under other settings; delete it, or name another --work")
        for line in lines[1:]:
            record = json.loads(line)
            self.known[record["name"]] = record["values"]

    def __call__(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> Values:
        """What is known under that name, measured first where nothing is."""
        if name not in self.known:
            values = {key: [float(f"{x:.8g}") for x in column] for key, column in measure().items()}
            self._append({"name": name, "values": values})
            self.known[name] = values
        return {key: numpy.array(column) for key, column in self.known[name].items()}

    def _append(self, record: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
