"""Do Ray's workers score as much as processes that know nothing of each other? With the miniature, on this machine.

python bench/workers.py --small         short lists, two minutes: Ray takes its time to start
python bench/workers.py                 long ones (six minutes on 2 cores)

One worker a core, one thread each. Every way scores a short and a long list; from the difference follow the prompts a
second once everything is loaded, and what it takes until then.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow
from card import show
from precision import prompts
from pyarrow import parquet

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    workers = os.cpu_count() or 1
    lists = [workers * n for n in ((50, 200) if options.small else (200, 1500))]
    ways: dict[str, Callable[[Path, list[str], int], None]] = {
        "one process": lambda folder, texts, _: processes(folder, texts, 1),
        f"{workers} processes": processes,
        f"{workers} workers of Ray": with_ray,
    }
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
    for _ in range(1 if options.small else options.rounds):
        for name, way in ways.items():
            seconds[name].append(tuple(timed(way, prompts(count), workers) for count in lists))
    rows = []
    for name, found in seconds.items():
        short, long = (statistics.median(times) for times in zip(*found, strict=True))
        rate = (lists[1] - lists[0]) / (long - short)
        rows.append({"way": name, "prompts/s": rate, "s before": short - lists[0] / rate})
    best = rows[1]["prompts/s"]
    show(
        "Do Ray's workers score as much as processes do?",
        [row | {"of processes": row["prompts/s"] / best} for row in rows],
        short_list=lists[0],
        long_list=lists[1],
    )


def timed(way: Callable[[Path, list[str], int], None], texts: list[str], workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        way(Path(folder), texts, workers)
        return time.perf_counter() - start


def processes(folder: Path, texts: list[str], count: int) -> None:
    """Each with a part of the list."""
    started = []
    for i in range(count):
        path = folder / f"{i}.txt"
        path.write_text("\n".join(texts[i::count]), encoding="utf-8")
        started.append(emoe("--prompts", str(path), "--out", str(path.with_suffix(".jsonl"))))
    for process in started:
        ended(process)


def with_ray(folder: Path, texts: list[str], count: int) -> None:
    path = folder / "list.parquet"
    parquet.write_table(pyarrow.table({"id": range(len(texts)), "prompt": texts}), path)
    ended(emoe("--prompts", str(path), "--out", str(folder / "scores"), "--ray"))


def emoe(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "emoe", "score", "--weights", "miniature", "--device", "cpu", *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> None:
    _, err = process.communicate()
    if process.returncode:
        raise SystemExit(err)


if __name__ == "__main__":
    main()
