"""What do images with their uncertainty cost, beside the mixture's images alone?

python bench/generate.py --small                small random experts, under 20 s
python bench/generate.py                        four of SD1.5's size, 25 steps, 512x512 (half an hour on 2 cores)
python bench/generate.py --weights weights.toml your own
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from card import peak_memory, show
from random_experts import write_mixture

from emoe import EMoE

PAPER = {"mixture": 1.0, "fast": 5.5 / 3.58, "emoe": 12.32 / 3.58}  # on an A100, by the paper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a weights.toml (default: random experts)")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int, help="default 25; 5 if small")
    parser.add_argument("--size", type=int, help="pixels a side; default 512; 128 if small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    steps, size = options.steps or (5 if options.small else 25), options.size or (128 if options.small else 512)
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or write_mixture(Path(folder), full=not options.small)
        model = EMoE.from_toml(weights, device=options.device, dtype=options.dtype)
        model.generate("warm up", mode="fast", steps=1, size=size)
        measure(model, steps, size)


def measure(model: EMoE, steps: int, size: int) -> None:
    rows = []
    for mode in ("mixture", "fast", "emoe"):
        start = time.perf_counter()
        images = model.generate("a red bus", mode=mode, steps=steps, size=size)[0].images
        seconds = time.perf_counter() - start
        rows.append(
            {
                "mode": mode,
                "images": len(images),
                "s": seconds,
                "times mixture": seconds / (rows[0]["s"] if rows else seconds),
                "in the paper": PAPER[mode],
                "peak GB": peak_memory(),
            }
        )
    show(
        "What do images with their uncertainty cost?",
        rows,
        **{"experts": model.gate.experts, "dtype": str(model.dtype), "steps": steps, "size": size},
    )


if __name__ == "__main__":
    main()
