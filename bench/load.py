"""Time and memory to build a mixture from four fp16 files, beside the size of what is built.

python bench/load.py --small            small widths, under 20 s
python bench/load.py                    SD1.5's size (8.5 GB on disk, 7 GB of memory, four minutes)

Each build has a process of its own, whose peak counts from after the imports; pages of mapped files are part of it.
Files are read once before, so that all builds find them in the system's cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from card import peak_memory, show
from random_experts import write_mixture


class Built(NamedTuple):
    seconds: float
    peak: float  # GB above what the imports took
    model: float  # GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = write_mixture(Path(folder), full=not options.small)
        for path in weights.parent.glob("*.safetensors"):
            path.read_bytes()
        found: dict[str, list[Built]] = {"float16": [], "float32": []}
        for _ in range(1 if options.small else options.rounds):
            for dtype, results in found.items():
                with ProcessPoolExecutor(1, get_context("spawn")) as process:
                    results.append(process.submit(build, weights, dtype).result())
    rows = [_row(name, results) for name, results in found.items()]
    show("What does it cost to build a mixture from four files?", rows, rounds=options.rounds)


def build(weights: Path, dtype: str) -> Built:
    from emoe import EMoE

    before, start = peak_memory(), time.perf_counter()
    model = EMoE.from_toml(weights, device="cpu", dtype=dtype)
    seconds, peak = time.perf_counter() - start, peak_memory() - before
    return Built(seconds, peak, _size(model.unet) + _size(model.text.model))


def _size(network: torch.nn.Module) -> float:
    """GB"""
    return sum(p.numel() * p.element_size() for p in network.parameters()) / 1e9


def _row(name: str, results: list[Built]) -> dict[str, object]:
    best = min(results)
    return {
        "dtype": name,
        "s": best.seconds,
        "model GB": best.model,
        "peak GB": best.peak,
        "peak over model": best.peak / best.model,
    }


if __name__ == "__main__":
    main()
