"""One training loop for all of the miniature's networks."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

WARM_UP = 50  # steps
REPORT = 50  # steps between two lines of the log


class Log:
    """JSON lines, on disk and on the screen."""

    def __init__(self, path: Path):
        self.path, self.start = path, time.monotonic()

    def __call__(self, stage: str, **told: float | str) -> None:
        line = json.dumps({"stage": stage} | told | {"seconds": round(time.monotonic() - self.start)})
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def fit(
    network: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    rate: float,
    stage: str,
    log: Log,
    average: float = 0.0,
) -> nn.Module:
    """Minimise `loss(step)`; returns the network, or its running average over the last steps (decay `average`).

    AdamW, the rate warmed up and brought down along a cosine, gradients clipped to length 1.
    """
    network.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: _rate(i, steps))
    kept = copy.deepcopy(network)
    recent: list[float] = []
    for step in range(steps):
        value = loss(step)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        decay = min(average, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(kept.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
            for mean, now in zip(kept.buffers(), network.buffers(), strict=True):
                mean.copy_(now)
        recent.append(value.item())
        if (step + 1) % REPORT == 0 or step + 1 == steps:
            log(stage, step=step + 1, loss=round(sum(recent) / len(recent), 5))
            recent.clear()
    return kept.eval().requires_grad_(False)


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
