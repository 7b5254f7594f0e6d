"""What does a score cost: time to load, time a prompt, memory?

python bench/score.py --small                   small random experts, under 20 s
python bench/score.py                           four of SD1.5's size (8.5 GB on disk, 9 GB of memory)
python bench/score.py --weights weights.toml    your own
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from card import peak_memory, show
from random_experts import write_mixture

from emoe import EMoE
from emoe.heap import keep_freed_memory

PROMPTS = [
    "a red bus",
    "a photograph of an astronaut riding a horse",
    "punainen bussi",
    "two dogs and a cat, oil painting",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a weights.toml (default: random experts)")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or write_mixture(Path(folder), full=not options.small)
        measure(weights, options.device, options.dtype, 256 if options.small else None)


def measure(weights: Path, device: str, dtype: str, size: int | None) -> None:
    start = time.perf_counter()
    model = EMoE.from_toml(weights, device=device, dtype=dtype)
    load, after_load = time.perf_counter() - start, peak_memory()
    parameters = sum(p.numel() for p in model.unet.parameters())

    rows = []
    prompts = PROMPTS * (1 if model.device.type == "cpu" else 16)
    for batch_size in (1, 2, 4) if model.device.type == "cpu" else (1, 4, 16, 64):
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            scores = model.score(prompts, batch_size=batch_size, size=size)  # ends on the CPU: a device has finished
            seconds.append((time.perf_counter() - start) / len(prompts))
        rows.append(
            {
                "prompts at a time": batch_size,
                "s a prompt (median)": sorted(seconds)[1],
                "s a prompt (best)": min(seconds),
                "peak GB": peak_memory() if model.device.type == "cpu" else torch.cuda.max_memory_allocated() / 1e9,
                "eu of the first": scores.eu[0].item(),
            }
        )
    show(
        "What does a score cost?",
        rows,
        **{
            "experts": model.gate.experts,
            "size": scores.reading.size,
            "dtype": str(model.dtype),
            "parameters (M)": round(parameters / 1e6, 1),
        },
        **{"load (s)": round(load, 1), "peak after load (GB)": round(after_load, 2)},
    )


if __name__ == "__main__":
    main()
