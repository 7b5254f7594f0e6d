"""Side by side: the candidates take turns, so that a noisy machine is noisy to all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from emoe.heap import keep_freed_memory


def side_by_side(
    candidates: Mapping[str, Callable[[], object]], rounds: int = 5, keep_memory: bool = True
) -> dict[str, float]:
    """The median seconds of each, after one round that does not count. keep_memory: as the command line does."""
    keep_freed_memory(keep_memory)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, run in candidates.items():
                _wait()
                start = time.perf_counter()
                run()
                _wait()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
