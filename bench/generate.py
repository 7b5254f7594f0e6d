"""What do images with their uncertainty cost, beside the mixture's images alone?

python bench/generate.py --small                small random experts, under 20 s
python bench/generate.py                        four of SD1.5's size, 512x512 (twelve minutes on 2 cores, 9 GB)
python bench/generate.py --weights weights.toml your own

The steps of a run cost the same, but for a first one that splits. So a few are timed, and a run of 25 is added up.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from card import peak_memory, show
from measure import side_by_side
from random_experts import write_mixture
from torch import Tensor

from emoe import EMoE, Recipe
from emoe.denoise import Denoised
from emoe.generating import denoising_steps
from emoe.images import to_images
from emoe.scoring import score

RUN = 25  # steps
PAPER = {"mixture": 1.0, "fast": 5.5 / 3.58, "emoe": 12.32 / 3.58}  # seconds over seconds, on an A100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a weights.toml (default: random experts)")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, help="pixels per side; default 512; 128 if small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights or write_mixture(Path(folder), full=not options.small)
        model = EMoE.from_toml(weights, device=options.device, dtype=options.dtype)
        measure(model, options.size or (128 if options.small else 512), options.rounds)


def measure(model: EMoE, size: int, rounds: int) -> None:
    recipe, paths = Recipe("emoe", steps=RUN, size=size), Recipe("mixture", steps=RUN, size=size)
    prompt = ["a red bus"], [""]
    ordinary, split = denoising_steps(model, *prompt, paths), denoising_steps(model, *prompt, recipe)
    z = next(split).latents[0]

    def looked_at(step: Denoised) -> Tensor:
        return step.latents.cpu()  # so that a device has finished

    parts = side_by_side(
        {
            "score": lambda: score(model, *prompt, recipe.reading),
            "step": lambda: looked_at(next(ordinary)),
            "first step, split": lambda: looked_at(next(denoising_steps(model, *prompt, recipe))),
            "step of all paths": lambda: looked_at(next(split)),
            "decode": lambda: to_images(model.vae, z),
        },
        min(rounds, RUN - 2),
    )
    experts = model.gate.experts
    runs = {
        "mixture": RUN * parts["step"] + parts["decode"],
        "fast": parts["score"] + RUN * parts["step"] + parts["decode"],
        "emoe": parts["score"]
        + parts["first step, split"]
        + (RUN - 1) * parts["step of all paths"]
        + experts * parts["decode"],
    }
    rows = [{"what": name, "s": s, "times mixture": "", "in the paper": ""} for name, s in parts.items()]
    rows += [
        {"what": f"a run, {mode}", "s": s, "times mixture": s / runs["mixture"], "in the paper": PAPER[mode]}
        for mode, s in runs.items()
    ]
    told = {
        "experts": experts,
        "dtype": str(model.dtype),
        "steps": RUN,
        "size": size,
        "peak GB": round(peak_memory(), 1),
    }
    show("What do images with their uncertainty cost?", rows, **told)


if __name__ == "__main__":
    main()
