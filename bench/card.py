"""What every bench prints: a card of the machine, an aligned table, and a last line of JSON."""

from __future__ import annotations

import json
import os
import platform
import resource
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def card() -> dict[str, Any]:
    """The machine and the versions that a number belongs to."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "safetensors")},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{os.cpu_count()} x {names[0] if names else platform.machine()}"


def peak_memory() -> float:
    """The most that this process has held, in GB."""
    status = Path("/proc/self/status")
    if status.exists():  # what rusage says, a process inherits from the one that started it
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def show(question: str, rows: list[dict[str, Any]], **settings: Any) -> None:
    """Print the card, the rows as a table, and everything once more as one line of JSON."""
    told = card() | settings
    print(question)
    print("  " + ", ".join(f"{key} {value}" for key, value in told.items()) + "\n")
    cells = [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(list(rows[0]), *cells, strict=True)]
    for line in ([*rows[0]], *cells):
        print("  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)))
    print("\n" + json.dumps({"question": question} | told | {"rows": rows}))


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
