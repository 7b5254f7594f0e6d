"""Why is a prompt uncertain? Leave words out and see what the number does, beside what the noise alone does to it.

Axes: s seeds, v variants of the prompt (the whole one first), e experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from emoe.errors import EmoeError
from emoe.gate import PromptGate
from emoe.pipeline import EMoE
from emoe.scores import Reading, Scores, join

MOST_WORDS = 77  # CLIP sees no more
# Chinese and Japanese put no space between words: every character counts as one
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
# Student's t: how many standard errors, of 2, 3, ... values, a mean without effect exceeds once in twenty times
ERRORS = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclass(frozen=True)
class Change:
    """What leaving out some words does to the uncertainty."""

    words: str
    at: int  # which word of the prompt the first of them is, from 1
    raises: float  # uncertainty of the whole prompt less that without these words: above 0, they raise it
    error: float  # standard error of that over the seeds
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether it stands out of the noise, as one in twenty words without effect would."""
        return abs(self.raises) > self.margin

    @property
    def margin(self) -> float:
        """How far the noise alone may move it, nineteen times in twenty."""
        return ERRORS[min(self.seeds, len(ERRORS) + 1) - 2] * self.error


@dataclass(frozen=True)
class Explanation:
    prompt: str
    uncertainty: float  # mean over the seeds
    spread: float  # standard deviation over the seeds
    aleatoric: float  # what the noise decides; in the unit of eu
    eu: float
    changes: list[Change]  # single words, then pairs of neighbours, each as in the prompt
    map: Tensor  # (h, w) where in the picture the paths disagree, mean over the seeds
    weights: list[float] | None  # the route; None with the hidden gate
    similarities: list[float] | None  # the logits behind it; None but for the prompt gate

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        keys = ("words", "at", "raises", "error", "clear")
        changes = [{key: getattr(change, key) for key in keys} for change in self.changes]
        own = {key: value for key, value in vars(self).items() if key not in ("changes", "map")}
        return own | {"changes": changes, "map": self.map.tolist()}


def explain(model: EMoE, prompt: str, negative: str = "", reading: Reading | None = None) -> Explanation:
    """All variants of a prompt under all seeds of the reading (default: four from 0 on).

    The same noises for every variant, so that differences are the words'. EmoeError for fewer than two seeds.
    """
    reading = reading or Reading(seeds=4)
    check_seeds(reading)
    words = [match.span() for match in WORD.finditer(prompt)]
    if not words:
        raise EmoeError("the prompt has no words to leave out; name some")
    if len(words) > MOST_WORDS:
        raise EmoeError(f"the prompt has {len(words)} words; no text encoder sees more than {MOST_WORDS}")
    parts = list(_parts(len(words)))
    spans = [(words[first][0], words[last - 1][1]) for first, last in parts]  # characters of the prompt
    variants = [prompt, *(prompt[:start] + prompt[end:] for start, end in spans)]

    runs = [_scores(model, variants, negative, replace(reading, seed=reading.seed + i)) for i in range(reading.seeds)]
    uncertainty = torch.stack([run.uncertainty for run in runs]).double()  # (s, v)
    raises = uncertainty[:, :1] - uncertainty[:, 1:]
    count = reading.seeds
    errors = ((raises - raises.mean(dim=0)).square().sum(dim=0) / (count - 1) / count).sqrt()
    whole = model.score([prompt], negative, **asdict(reading))
    return Explanation(
        prompt=prompt,
        uncertainty=uncertainty[:, 0].mean().item(),
        spread=uncertainty[:, 0].std().item(),
        aleatoric=whole.aleatoric.item(),
        eu=whole.eu.item(),
        changes=[
            Change(prompt[start:end], first + 1, change, error, count)
            for (first, _), (start, end), change, error in zip(
                parts, spans, raises.mean(dim=0).tolist(), errors.tolist(), strict=True
            )
        ],
        map=whole.map[0],
        weights=None if whole.weights is None else whole.weights[0].tolist(),
        similarities=_similarities(model, prompt, negative),
    )


def check_seeds(reading: Reading) -> None:
    if reading.seeds < 2:
        raise EmoeError("what noise does to the number takes two seeds or more; set --seeds")


def _parts(words: int) -> Iterator[tuple[int, int]]:
    """Single words and pairs of neighbours, as (first, behind the last); never the whole prompt."""
    for length in (1, 2):
        if length < words:
            yield from ((first, first + length) for first in range(words - length + 1))


def _scores(model: EMoE, variants: list[str], negative: str, reading: Reading) -> Scores:
    return join(list(model.stream(variants, negative, replace(reading, seeds=1), batch_size=8)))


def _similarities(model: EMoE, prompt: str, negative: str) -> list[float] | None:
    """The prompt gate's logits: how like the experts' descriptors the prompt is."""
    if not isinstance(model.gate, PromptGate):
        return None
    said = model.encode([negative]) if negative else None
    return model.gate.logits(model.encode([prompt]), said)[0].tolist()
