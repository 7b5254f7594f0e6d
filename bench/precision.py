"""Does a score depend on the precision, or on the prompts that are scored beside it?

python bench/precision.py --small       20 prompts, under 20 s
python bench/precision.py               200 prompts of the miniature

Rank correlation (Spearman) of `eu` with float32's, and the largest relative difference between a prompt's `eu` alone
and in a batch of others.
"""

from __future__ import annotations

import argparse

import numpy
import torch
from card import show
from scipy.stats import spearmanr

from emoe import EMoE
from emoe.device import choose_device
from emoe.miniature.languages import caption
from emoe.miniature.world import World

DTYPES = ("float32", "bfloat16", "float16")
BATCHES = (2, 7, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--weights", default="miniature", help="a weights.toml (default: %(default)s)")
    parser.add_argument("--size", type=int, help="image side (default: the checkpoint's own)")
    options = parser.parse_args()
    texts = prompts(20 if options.small else 200)
    device, _ = choose_device(options.device, "float32")
    exact, rows = None, []
    for dtype in DTYPES:
        model = EMoE.from_toml(options.weights, device=device, dtype=dtype)
        alone = model.score(texts, size=options.size, batch_size=1).eu
        exact = alone if exact is None else exact
        apart = [_apart(model.score(texts, size=options.size, batch_size=n).eu, alone) for n in BATCHES]
        rows.append(
            {
                "dtype": dtype,
                "rank correlation with float32": f"{spearmanr(alone, exact).statistic:.5f}",
                "largest difference from float32": _apart(alone, exact),
                **{f"in batches of {n}": value for n, value in zip(BATCHES, apart, strict=True)},
            }
        )
    show(
        "Does a score depend on the precision, or on the batch?",
        rows,
        prompts=len(texts),
        weights=options.weights,
        scored_on=str(device),
    )


def prompts(count: int) -> list[str]:
    """Scenes of the miniature's world, told in its languages by turns."""
    world, rng = World(), numpy.random.default_rng(0)
    scenes, languages = world.scenes(rng), list(world.languages)
    return [caption(next(scenes), world.mention(rng, languages[i % len(languages)])) for i in range(count)]


def _apart(values: torch.Tensor, others: torch.Tensor) -> float:
    return float(((values - others).abs() / others).max())


if __name__ == "__main__":
    main()
