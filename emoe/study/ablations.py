"""The same list read in other ways (the paper's Figure 8): does the verdict hang on a choice?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from emoe.config import SPLITS
from emoe.errors import EmoeError
from emoe.gate import UniformGate
from emoe.moe import layers_of
from emoe.pipeline import EMoE
from emoe.schedule import timesteps
from emoe.scores import ESTIMATORS, READ_OUTS, Reading

ABLATIONS = ("size", "step", "read-out", "estimator", "split", "gate")
STEPS = (0, 4, 9, 14, 19, 24)  # of 25


class Way(NamedTuple):
    """One of them."""

    name: str  # a file's name
    model: EMoE
    reading: Reading


def check(asked: str) -> list[str]:
    """ "size,step" -> ["size", "step"]; EmoeError for what there is not."""
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in ABLATIONS:
            raise EmoeError(f"--ablate {name!r}: choose of {', '.join(ABLATIONS)}")
    return names


def ways(model: EMoE, reading: Reading, asked: Sequence[str]) -> Iterator[Way]:
    """All but the reading itself. The reading has a size. Steps start from the same noise, as `--timestep` does."""
    if "size" in asked:
        step = 8 * model.pixels
        sizes = {round(reading.size * part / step) * step for part in (0.5, 0.75, 1.5)} - {0, reading.size}
        yield from (Way(f"size {size}", model, replace(reading, size=size)) for size in sorted(sizes))
    if "step" in asked:
        at = [timesteps(25)[i] for i in STEPS]
        yield from (Way(f"timestep {t}", model, replace(reading, timestep=t)) for t in at if t != reading.timestep)
    if "read-out" in asked:
        yield from (
            Way(f"read-out {x}", model, replace(reading, read_out=x)) for x in READ_OUTS if x != reading.read_out
        )
    if "estimator" in asked:
        others = [x for x in ESTIMATORS if x != reading.estimator]
        yield from (Way(f"estimator {x}", model, replace(reading, estimator=x)) for x in others)
    if "split" in asked:
        others = [split for split in SPLITS[layers_of(model.unet)] if split != model.split]
        yield from (Way(f"split {split}", _with(model, split=split), reading) for split in others)
    if "gate" in asked and not isinstance(model.gate, UniformGate):
        yield Way("gate uniform", _with(model, gate=UniformGate(model.gate.experts)), reading)


def _with(model: EMoE, gate: UniformGate | None = None, split: str | None = None) -> EMoE:
    """The same networks, routed or split otherwise."""
    return EMoE(
        model.unet,
        model.text,
        gate or model.gate,
        split or model.split,
        prediction=model.prediction,
        pixels=model.pixels,
    )
