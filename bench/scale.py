"""How does scoring grow with the prompts at a time, the experts, and the image's size?

python bench/scale.py --small           small widths, 22 s
python bench/scale.py                   SD1.5's size (15 minutes on 2 cores, 16 GB for eight experts)

Every point has a process of its own, so that its peak is its own. Growth is the slope on logarithmic axes: 1 is in
proportion.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy
import torch
from card import peak_memory, show
from measure import side_by_side
from networks import inputs, random_unet, read_options

from emoe.route import PromptRoute
from emoe.uncertainty import by_path, measure
from emoe.unet import UNetConfig


class Point(NamedTuple):
    rows: int = 1
    experts: int = 4
    size: int = 512


def main() -> None:
    options, to = read_options(__doc__, rounds=2)
    size = 256 if options.small else 512
    cuda = to["device"].type == "cuda"
    here = Point(size=size)
    series = {
        "prompts": [
            here._replace(rows=rows) for rows in ((1, 4, 16, 64) if cuda else (1, 2) if options.small else (1, 2, 4))
        ],
        "experts": [here._replace(experts=experts) for experts in ((2, 4) if options.small else (2, 4, 6, 8))],
        "size": [here._replace(size=n) for n in ((128, 256) if options.small else (256, 384, 512, 768))],
    }
    every = dict.fromkeys(point for points in series.values() for point in points)  # `here` is in all series
    measured = {point: _apart(point, options.config, to, options.rounds) for point in every}
    rows = []
    for name, points in series.items():
        found = [measured[point] for point in points]
        count = {"prompts": "rows", "experts": "experts", "size": "size"}[name]
        numbers = [getattr(point, count) ** (2 if name == "size" else 1) for point in points]
        growth = numpy.polyfit(numpy.log(numbers), numpy.log([s for s, _ in found]), 1)[0]
        for point, (s, peak) in zip(points, found, strict=True):
            row = {"series": name, "prompts": point.rows, "experts": point.experts, "size": point.size}
            rows.append(row | {"s": s, "prompts/s": point.rows / s, "peak GB": peak, "growth": float(growth)})
    show("How does scoring grow?", rows, top=2, dtype=str(to["dtype"]), growth_of_size="with its square")


def _apart(point: Point, config: UNetConfig, to: dict[str, Any], rounds: int) -> tuple[float, float]:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(score, point, config, to, rounds).result()


def score(point: Point, config: UNetConfig, to: dict[str, Any], rounds: int) -> tuple[float, float]:
    """Seconds a batch, and the peak in GB (weights included)."""
    unet = random_unet(config, point.experts, **to)
    x, t, text = inputs(unet, point.rows, point.size)
    weights = torch.zeros(point.rows, point.experts)
    weights[:, 0], weights[:, 1] = 0.6, 0.4
    route = PromptRoute(weights, "attn2", **to)

    def run() -> torch.Tensor:
        return measure(by_path(unet(x, t, text, route, stop_at_mid=True).m_post, point.experts)[None]).eu

    s = side_by_side({"score": run}, rounds)["score"]
    return s, torch.cuda.max_memory_allocated() / 1e9 if to["device"].type == "cuda" else peak_memory()


if __name__ == "__main__":
    main()
