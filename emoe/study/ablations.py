"""The same list read in other ways (the paper's Figure 8): does the verdict depend on a choice?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from emoe.choices import ESTIMATORS, READ_OUTS, SPLITS
from emoe.errors import EmoeError
from emoe.gate import UniformGate
from emoe.generating import denoising_steps
from emoe.generations import Recipe
from emoe.moe import layers_of
from emoe.pipeline import EMoE
from emoe.schedule import timesteps
from emoe.scores import Reading
from emoe.scoring import mid_activations
from emoe.uncertainty import measure

READINGS = ("size", "timestep", "read-out", "estimator", "split", "gate")  # at the cost of a score
RUNS = ("latent", "run")  # at that of a step, and of all steps, of every path
SUBSETS = "experts"  # at that of a score in all
ABLATIONS = (*READINGS, SUBSETS, *RUNS)
FEW = 6  # experts, whose pairs are looked at
LOOKS = 6  # at a run, from its first step to its last


class Way(NamedTuple):
    """One way to read the list."""

    name: str  # a file's name
    model: EMoE
    reading: Reading


def check(asked: str, estimator: str = "eu") -> list[str]:
    """ "size,split" -> ["size", "split"]; EmoeError for what there is not, or not of that estimator."""
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in ABLATIONS:
            raise EmoeError(f"--ablate {name!r}: choose of {', '.join(ABLATIONS)}")
        if name in RUNS and estimator != "eu":
            raise EmoeError(f"--ablate {name} is read as eu, not {estimator}; leave it out, or --estimator")
    return names


def check_model(model: EMoE, asked: Sequence[str]) -> None:
    """EmoeError for what there is not with this mixture."""
    if SUBSETS in asked and model.gate.experts < 3:
        raise EmoeError(f"--ablate {SUBSETS} leaves experts out, of which this mixture has two; take {SUBSETS} out")
    if "gate" in asked and isinstance(model.gate, UniformGate):
        raise EmoeError("--ablate gate is beside the uniform gate, which this mixture has; take gate out")


def ways(model: EMoE, reading: Reading, asked: Sequence[str]) -> Iterator[Way]:
    """Every way that `asked` names, without the reading itself, which has a size. Timesteps share one noise."""
    if "size" in asked:
        step = 8 * model.downsampling
        sizes = {round(reading.size * part / step) * step for part in (0.5, 0.75, 1.5)} - {0, reading.size}
        yield from (Way(f"size {size}", model, replace(reading, size=size)) for size in sorted(sizes))
    if "timestep" in asked:
        at = [t for t in looks(25) if t != reading.timestep]
        yield from (Way(f"timestep {t}", model, replace(reading, timestep=t)) for t in at)
    if "read-out" in asked:
        yield from (
            Way(f"read-out {x}", model, replace(reading, read_out=x)) for x in READ_OUTS if x != reading.read_out
        )
    if "estimator" in asked:
        others = [x for x in ESTIMATORS if x != reading.estimator]
        yield from (Way(f"estimator {x}", model, replace(reading, estimator=x)) for x in others)
    if "split" in asked:
        others = [split for split in SPLITS[layers_of(model.unet)] if split != model.split]
        yield from (Way(f"split {split}", model.variant(split=split), reading) for split in others)
    if "gate" in asked:
        yield Way("gate uniform", model.variant(gate=UniformGate(model.gate.experts)), reading)


def looks(count: int) -> list[int]:
    """Timesteps at which a run of `count` steps is looked at."""
    ts = timesteps(count)
    return [ts[i] for i in sorted({round(part * (count - 1) / (LOOKS - 1)) for part in range(LOOKS)})]


@torch.inference_mode()
def along(model: EMoE, prompts: list[str], negatives: list[str], recipe: Recipe, name: str) -> dict[str, Tensor]:
    """The uncertainty, (b,) each, of the paper's Algorithm 1 (the recipe's mode is "emoe"): "latent", at what its first
    step leaves of every path (guided), or "run", at the mid-block of steps from the first to the last.
    """
    found = {}
    for step in denoising_steps(model, prompts, negatives, recipe):
        if name == "latent":
            return {"latent": measure(step.latents[None]).uncertainty}
        if step.timestep in looks(recipe.steps):
            m = step.m_post if recipe.read_out == "post" else step.m_pre
            found[f"run {step.timestep}"] = measure(m[None]).uncertainty
    return found


@torch.inference_mode()
def fewer(
    model: EMoE, prompts: list[str], negatives: list[str], reading: Reading, m_empty: Tensor | None = None
) -> dict[str, Tensor]:
    """The uncertainty, (b,) each, of fewer paths of the same forward: without each expert in turn, and of each pair.

    The mixture and its gate stay, so this is about whose paths are compared: one expert alone may make the number.
    m_empty: `mid_of_empty` of the list.
    """
    text = model.encode(prompts)
    m = mid_activations(model, text, model.route(text, model.encode(negatives) if any(negatives) else None), reading)
    count = m.shape[1]
    sizes = sorted({size for size in (2 if count <= FEW else 0, count - 1) if 2 <= size < count})
    found = {}
    for some in (list(chosen) for size in sizes for chosen in combinations(range(count), size)):
        name = "experts " + " ".join(str(i + 1) for i in some)
        found[name] = measure(m[:, some], m_empty if m_empty is None else m_empty[:, some]).uncertainty.cpu()
    return found
