"""What an image is made by, and what comes with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import inf
from typing import TYPE_CHECKING, Any

from emoe.choices import MODES, SCHEDULERS
from emoe.errors import EmoeError, real_number, whole_number
from emoe.scores import Reading, Scores

if TYPE_CHECKING:
    from PIL.Image import Image

NUMBERS = dict.fromkeys(("steps", "seed", "seeds", "size"), whole_number)
NUMBERS |= dict.fromkeys(("guidance", "max_uncertainty"), real_number)
MAY_BE_NONE = ("size", "max_uncertainty")
OF_THE_NUMBER = ("seeds", "max_uncertainty", "read_out", "estimator")  # of a recipe, how it is measured and used
MEASURED = ("eu", "uncertainty", "relative", "aleatoric", "by_seed", "weights", "truncated")  # of a score, in a record


@dataclass(frozen=True)
class Recipe:
    """How images are made. Equal recipes, mixtures and VAEs make equal images."""

    mode: str = "emoe"  # or "fast", "mixture": see `emoe.choices`
    scheduler: str = "ddim"  # or "ddpm", "dpm++"
    steps: int = 25
    guidance: float = 7.5  # 1: none
    seed: int = 0  # of the starting noise, the same for every prompt and path
    seeds: int = 1  # the number is averaged over the noises of seed, seed + 1, ...; images start from the first
    size: int | None = None  # pixels per side, a multiple of 64 with SD1.5's VAE; None: the checkpoint's own
    max_uncertainty: float | None = None  # prompts above it get no image
    read_out: str = "post"  # as a `Reading`'s
    estimator: str = "eu"

    def __post_init__(self):
        for key, choices in (("mode", MODES), ("scheduler", SCHEDULERS)):
            if getattr(self, key) not in choices:
                raise EmoeError(f"{key} is {getattr(self, key)!r}; choose one of {', '.join(choices)}")
        for key, as_number in NUMBERS.items():
            if (value := getattr(self, key)) is not None or key not in MAY_BE_NONE:
                object.__setattr__(self, key, as_number(key, value))  # of numpy's numbers, Python's
        if not 1 <= self.guidance <= 100:
            raise EmoeError(f"guidance is {self.guidance}; it must lie between 1 (none) and 100")
        if self.max_uncertainty is not None and not 0 <= self.max_uncertainty < inf:
            raise EmoeError(f"max_uncertainty is {self.max_uncertainty}; it must be a number of at least 0")
        for field in fields(self):
            value = getattr(self, field.name)
            if self.mode == "mixture" and field.name in OF_THE_NUMBER and value != field.default:
                told = f"{field.name} = {value!r}"
                raise EmoeError(f"mode 'mixture' has no uncertainty, so {told} says nothing; choose 'fast' or 'emoe'")
        _ = self.reading  # the rest is checked there

    @property
    def reading(self) -> Reading:
        """Where the uncertainty is read: at the first step, from the image's noise and those of `seeds` - 1 more."""
        others = {key: getattr(self, key) for key in ("seed", "seeds", "size", "read_out", "estimator")}
        return Reading.of(self.steps, **others)


@dataclass(frozen=True)
class Generation:
    """What became of one prompt."""

    prompt: str
    negative_prompt: str
    images: list[Image]  # one per expert in mode "emoe", else one; none if halted
    scores: Scores | None  # of this prompt alone; None in mode "mixture"
    recipe: Recipe
    mixture: str  # its fingerprint
    vae: str  # and the VAE's

    @property
    def halted(self) -> bool:
        return not self.images

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        score = self.scores.records()[0] if self.scores else {}
        measured = {key: score[key] for key in MEASURED if key in score}
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            **measured,
            "halted": self.halted,
            **asdict(self.recipe),
            "timestep": self.recipe.reading.timestep,
            "mixture": self.mixture,
            "vae": self.vae,
        }
