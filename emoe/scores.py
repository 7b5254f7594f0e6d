"""What a score is: where it was read, and the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from emoe.choices import ESTIMATORS, READ_OUTS
from emoe.errors import EmoeError, whole_number
from emoe.schedule import TRAIN_STEPS, timesteps

SMALLEST = 16  # pixels per side: the UNet halves the latents three times, and no VAE makes less than 2 pixels of one
LARGEST = 8192  # no SD1.5 model has seen a quarter of it
TENSORS = ("eu", "uncertainty", "relative", "aleatoric", "by_seed", "shares", "map", "weights")  # of scores


@dataclass(frozen=True)
class Reading:
    """Where and how the number is read. Scores compare under the same reading of the same mixture, and no other."""

    seed: int = 0  # average over the starting noises of seed, seed + 1, ..., seed + seeds - 1
    seeds: int = 1
    timestep: int = 961  # 0 to 999; 961 is the first of 25 steps
    size: int | None = None  # pixels per side, a multiple of 64 with SD1.5's VAE; None: the checkpoint's own
    read_out: str = "post"  # "post" (what leaves the mid-block) or "pre" (what enters it)
    estimator: str = "eu"  # what `uncertainty` is: "eu" (the paper's) or "eu-over-answer"

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in (choices := {"read_out": READ_OUTS, "estimator": ESTIMATORS}):
                if value not in choices[field.name]:
                    raise EmoeError(f"{field.name} is {value!r}; choose {' or '.join(map(repr, choices[field.name]))}")
            elif not (field.name == "size" and value is None):
                object.__setattr__(self, field.name, whole_number(field.name, value))
        if self.seeds < 1:
            raise EmoeError(f"seeds is {self.seeds}; it must be at least 1")
        if not 0 <= self.seed <= 2**63 - self.seeds:
            raise EmoeError(f"seed is {self.seed}; it must lie between 0 and 2^63 - seeds")
        if not 0 <= self.timestep < TRAIN_STEPS:
            raise EmoeError(f"timestep is {self.timestep}; it must lie between 0 and {TRAIN_STEPS - 1}")
        if self.size is not None and (not SMALLEST <= self.size <= LARGEST or self.size % SMALLEST):
            raise EmoeError(
                f"size is {self.size} pixels; it must be a multiple of 64 ({SMALLEST} with the smallest VAEs), "
                f"{LARGEST} at most"
            )

    @classmethod
    def of(cls, steps: int = 25, timestep: int | None = None, **others: Any) -> Reading:
        """At the first of `steps` steps, or at `timestep` where one is given."""
        first = timesteps(steps)[0]  # which refuses numbers of steps that cannot be, used or not
        return cls(timestep=first if timestep is None else timestep, **others)


@dataclass(frozen=True)
class Scores:
    """Of p prompts, in their order. Tensors are float32 (or wider) on the CPU."""

    prompts: list[str]
    negative_prompts: list[str]
    eu: Tensor  # (p,) Eq. 8, averaged over the seeds
    uncertainty: Tensor  # (p,) sqrt(d_mid) * eu, Appendix A; or what the reading's estimator says
    relative: Tensor  # (p,) eu over the mean square of the paths' mean activation
    aleatoric: Tensor | None  # (p,) variance over the seeds; None with one seed
    by_seed: Tensor | None  # (p, s) the uncertainty under each noise alone; None with one seed
    shares: Tensor  # (p, e) each path's part of eu: which experts disagree
    map: Tensor  # (p, h, w) the variance over paths at the mid-block's pixels
    weights: Tensor | None  # (p, e) the route; None with the hidden gate, which has one in every layer
    truncated: list[bool]  # whose end CLIP does not see
    reading: Reading
    mixture: str  # the mixture's fingerprint

    def __len__(self) -> int:
        return len(self.prompts)

    def at(self, i: int) -> Scores:
        """Those of prompt i alone."""
        one = {f.name: getattr(self, f.name) for f in fields(self)}
        return Scores(**{k: v[i : i + 1] if isinstance(v, list | Tensor) else v for k, v in one.items()})

    def records(self) -> list[dict[str, Any]]:
        """One JSON-ready dict a prompt; numbers to six digits, beyond which they depend on the machine."""
        told = asdict(self.reading) | {"mixture": self.mixture}
        return [
            {
                "prompt": self.prompts[i],
                "negative_prompt": self.negative_prompts[i],
                "eu": short(self.eu[i]),
                "uncertainty": short(self.uncertainty[i]),
                "relative": short(self.relative[i]),
                **({} if self.aleatoric is None else {"aleatoric": short(self.aleatoric[i])}),
                **({} if self.by_seed is None else {"by_seed": [short(u) for u in self.by_seed[i]]}),
                "weights": None if self.weights is None else [short(weight) for weight in self.weights[i]],
                "truncated": self.truncated[i],
                **told,
            }
            for i in range(len(self.prompts))
        ]


def join(batches: Sequence[Scores]) -> Scores:
    """Batches of one run, as one."""

    def cat(name: str) -> Tensor | None:
        parts = [getattr(batch, name) for batch in batches]
        return None if parts[0] is None else torch.cat(parts)

    def together(name: str) -> list[Any]:
        return [value for batch in batches for value in getattr(batch, name)]

    return Scores(
        **{name: together(name) for name in ("prompts", "negative_prompts", "truncated")},
        **{name: cat(name) for name in TENSORS},
        reading=batches[0].reading,
        mixture=batches[0].mixture,
    )


def short(value: Tensor) -> float:
    """As records have it: what lies beyond six digits depends on the machine, and on who shares the batch."""
    return float(f"{value.item():.6g}")
