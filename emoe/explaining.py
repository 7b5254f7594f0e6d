"""Why is a prompt uncertain? Leave words out and see what the number does, beside what the noise alone does to it.

Axes: s seeds, v variants of the prompt (the whole one first), e experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from emoe.errors import EmoeError
from emoe.gate import PromptGate
from emoe.pipeline import EMoE
from emoe.scores import Reading, join
from emoe.words import words_of

MOST_WORDS = 77  # CLIP sees no more
BATCH = 8  # variants at a time
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # t at 97.5 %, for 1, 2, ... degrees of freedom


@dataclass(frozen=True)
class Change:
    """What some words do to the uncertainty, as a factor: logarithms of it are nearly normal over noises, it is not."""

    words: str
    at: int  # which word of the prompt the first of them is, from 1
    times: float  # uncertainty of the whole prompt over that without these words, geometric mean over the seeds
    low: float  # its 95 % interval over noises
    high: float

    @property
    def clear(self) -> bool:
        """Whether it stands out of the noise, as one in twenty words without effect would."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True)
class Explanation:
    prompt: str
    uncertainty: float
    spread: float  # standard deviation from noise to noise
    aleatoric: float  # variance of the paths' mean over the noises; in the unit of eu
    eu: float
    changes: list[Change]  # single words, then pairs of neighbours, each as in the prompt
    map: Tensor  # (h, w) where in the picture the paths disagree, mean over the seeds
    shares: list[float]  # each path's part of eu
    weights: list[float] | None  # the route; None with the hidden gate
    similarities: list[float] | None  # to each expert's descriptors, -2 to 2: sums of two cosines; of the prompt gate

    reading: Reading
    mixture: str

    def record(self) -> dict[str, Any]:
        """JSON-ready; numbers to six digits, as of scores."""
        changes = [asdict(change) | {"clear": change.clear} for change in self.changes]
        told = vars(self) | {"changes": changes, "map": self.map.tolist()}
        del told["reading"]
        return _short(told) | asdict(self.reading)


def explain(model: EMoE, prompt: str, negative: str = "", reading: Reading | None = None) -> Explanation:
    """All variants of a prompt under all seeds of the reading (default: four from 0 on).

    The same noises for every variant, so that differences are the words'. EmoeError for fewer than two seeds.
    """
    reading = reading or Reading(seeds=4)
    check_seeds(reading)
    words = check_words(prompt)
    parts = list(_parts(len(words)))
    spans = [(words[first][0], words[last - 1][1]) for first, last in parts]  # characters of the prompt
    variants = [prompt, *(prompt[:start] + prompt[end:] for start, end in spans)]

    scores = join(list(model.stream(variants, negative, reading, BATCH)))
    logs = scores.by_seed.double().clamp(min=1e-300).log()  # (v, s); of experts that always agree it is 0
    changes = [
        _change(prompt[start:end], first + 1, logs[0] - without)
        for (first, _), (start, end), without in zip(parts, spans, logs[1:], strict=True)
    ]
    return Explanation(
        prompt=prompt,
        uncertainty=scores.uncertainty[0].item(),
        spread=scores.by_seed[0].double().std().item(),
        aleatoric=scores.aleatoric[0].item(),
        eu=scores.eu[0].item(),
        changes=changes,
        map=scores.map[0],
        shares=scores.shares[0].tolist(),
        weights=None if scores.weights is None else scores.weights[0].tolist(),
        similarities=_similarities(model, prompt, negative),
        reading=scores.reading,
        mixture=scores.mixture,
    )


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_short(own) for own in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def check_words(prompt: str) -> list[tuple[int, int]]:
    """Where its words begin and end. EmoeError where there are none, or more than can be seen."""
    words = words_of(prompt)
    if not words:
        raise EmoeError("the prompt has no words to leave out; name some")
    if len(words) > MOST_WORDS:
        raise EmoeError(f"the prompt has {len(words)} words; no text encoder sees more than {MOST_WORDS}")
    return words


def check_seeds(reading: Reading) -> None:
    if reading.seeds < 2:
        raise EmoeError("what noise does to the number takes two seeds or more; set --seeds")


def _parts(words: int) -> Iterator[tuple[int, int]]:
    """Single words and pairs of neighbours, as (first, behind the last); never the whole prompt."""
    for length in (1, 2):
        if length < words:
            yield from ((first, first + length) for first in range(words - length + 1))


def _change(words: str, at: int, logs: Tensor) -> Change:
    """logs: (s,) of the factor, under every noise."""
    mean, count = logs.mean(), len(logs)
    margin = student(count - 1) * logs.std() / count**0.5
    return Change(words, at, *(value.exp().item() for value in (mean, mean - margin, mean + margin)))


def student(freedom: int) -> float:
    """How many standard errors a mean without effect exceeds once in twenty times: Student's t at 97.5 %."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    return 1.96 + 2.372 / freedom + 2.823 / freedom**2  # the beginning of its expansion about the normal's


def _similarities(model: EMoE, prompt: str, negative: str) -> list[float] | None:
    """How like each expert's descriptors the prompt is: the prompt gate's logits before the temperature."""
    if not isinstance(model.gate, PromptGate):
        return None
    said = model.encode([negative]) if negative else None
    return (model.gate.temperature * model.gate.logits(model.encode([prompt]), said))[0].tolist()
