"""The method, end to end: prompts in, uncertainty out, and images where they are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import torch

from emoe import generating, scoring
from emoe.assemble import assemble
from emoe.config import Weights, read_weights
from emoe.device import choose_device, enough_memory
from emoe.errors import EmoeError, shown, whole_number
from emoe.generations import Generation, Recipe
from emoe.model import Model
from emoe.prompts import check_text
from emoe.scores import Reading, Scores, join

SCORED, DRAWN = 16, 4  # prompts at a time, but for CPUs


class EMoE(Model):
    """A mixture of experts with a gate, ready to score prompts and to draw them."""

    @classmethod
    def from_toml(
        cls,
        path: str | Path = "weights.toml",
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
    ) -> EMoE:
        """Load the mixture that a weights.toml describes, downloading what is not here yet.

        device: "auto", "cpu", "cuda", "cuda:1", "mps".  dtype: "auto" (float16 on cuda, else float32), "float32",
        "float16", "bfloat16".  EmoeError for anything in the way, in one line.
        """
        return cls.from_weights(read_weights(path), device=device, dtype=dtype)

    @classmethod
    def from_weights(
        cls, weights: Weights, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto"
    ) -> EMoE:
        """The same, from a description that has been read already."""
        with enough_memory("loading takes more than there is; use --dtype float16, or fewer experts"):
            return cls(**assemble(weights, *choose_device(device, dtype))._asdict())

    # Scoring --------------------------------------------------------------------------------------------------------

    def score(
        self,
        prompts: str | Sequence[str],
        negative: str | Sequence[str] | None = "",
        *,
        seed: int = 0,
        seeds: int = 1,
        steps: int = 25,
        timestep: int | None = None,
        size: int | None = None,
        read_out: str = "post",
        estimator: str = "eu",
        batch_size: int | None = None,
    ) -> Scores:
        """The epistemic uncertainty of each prompt, which does not depend on the others.

        negative: one negative prompt for all, or one each; it takes part in the route alone.
        seed, seeds: average over the noises of seed, seed + 1, ..., seed + seeds - 1.
        steps: of a run of so many, the first is read.  timestep: read here instead, 0 to 999.
        size: pixels per side, a multiple of 64 with SD1.5's VAE; default the checkpoint's own.
        read_out: "post" (what leaves the mid-block) or "pre" (what enters it).
        estimator: what `uncertainty` is: "eu" (the paper's), or "eu-over-answer" (over how much a prompt changes).
        batch_size: prompts at a time, each one row before the split and M after it; default 1 on a CPU, else 16.
        """
        others = {"seed": seed, "seeds": seeds, "size": size, "read_out": read_out, "estimator": estimator}
        reading = Reading.of(steps, timestep, **others)
        batches = list(self.stream(prompts, negative, reading, batch_size))
        if not batches:
            raise EmoeError("there are no prompts to score")
        return join(batches)

    def stream(
        self,
        prompts: str | Sequence[str],
        negative: str | Sequence[str] | None = "",
        reading: Reading = Reading(),  # noqa: B008 (frozen)
        batch_size: int | None = None,
    ) -> Iterator[Scores]:
        """The same, batch by batch, for long lists."""
        pairs = _pairs(prompts, negative)
        batch_size = self.batch_size(batch_size, SCORED)
        reading = self.at_own_size(reading)
        with enough_memory():
            m_empty = scoring.mid_of_empty(self, reading, _unzipped(pairs)[0])
            for start in range(0, len(pairs), batch_size):
                yield scoring.score(self, *_unzipped(pairs[start : start + batch_size]), reading, m_empty)

    # Images ---------------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: str | Sequence[str],
        negative: str | Sequence[str] | None = "",
        *,
        mode: str = "emoe",
        scheduler: str = "ddim",
        steps: int = 25,
        guidance: float = 7.5,
        seed: int = 0,
        seeds: int = 1,
        size: int | None = None,
        max_uncertainty: float | None = None,
        read_out: str = "post",
        estimator: str = "eu",
        batch_size: int | None = None,
    ) -> list[Generation]:
        """Images, and how uncertain the model was: of each prompt its PIL images and its scores.

        mode: "emoe" (one image per expert's path), "fast" (one image), "mixture" (one image, no uncertainty).
        scheduler: "ddim", "ddpm", "dpm++".  guidance: 1 is none.  max_uncertainty: prompts above get no image.
        seed: of the noise that images start from.  seeds: the number is averaged over so many noises, this one first.
        negative, steps, size, read_out, estimator, batch_size as for `score`; by default a batch is 1 on a CPU, else 4.
        """
        recipe = Recipe(
            mode=mode,
            scheduler=scheduler,
            steps=steps,
            guidance=guidance,
            seed=seed,
            seeds=seeds,
            size=size,
            max_uncertainty=max_uncertainty,
            read_out=read_out,
            estimator=estimator,
        )
        generations = list(self.stream_images(prompts, negative, recipe, batch_size))
        if not generations:
            raise EmoeError("there are no prompts to draw")
        return generations

    def stream_images(
        self,
        prompts: str | Sequence[str],
        negative: str | Sequence[str] | None = "",
        recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
        batch_size: int | None = None,
        watch: generating.Watch = lambda scores: None,
    ) -> Iterator[Generation]:
        """The same, prompt by prompt. watch: called after every step of a batch."""
        pairs = _pairs(prompts, negative)
        batch_size = self.batch_size(batch_size, DRAWN)
        recipe = self.at_own_size(recipe)
        with enough_memory():
            _ = self.vae  # loaded now, so that a missing one fails before hours are spent
            scored = recipe.mode != "mixture"
            m_empty = scoring.mid_of_empty(self, recipe.reading, _unzipped(pairs)[0]) if scored else None
            for start in range(0, len(pairs), batch_size):
                some = _unzipped(pairs[start : start + batch_size])
                yield from generating.generate(self, *some, recipe, watch, m_empty)

    def batch_size(self, size: int | None, usual: int) -> int:
        """Prompts at a time: `size`, or where that is None, one on a CPU and `usual` elsewhere."""
        check_batch_size(size)
        return size or (1 if self.device.type == "cpu" else usual)


def check_batch_size(size: object) -> None:
    """EmoeError for what is no number of prompts; None leaves it to the device."""
    if size is not None and whole_number("batch_size", size) < 1:
        raise EmoeError(f"batch_size is {size!r}; it must be a whole number of at least 1")


def _pairs(prompts: str | Sequence[str], negative: str | Sequence[str] | None) -> list[tuple[str, str]]:
    """Each prompt with its negative prompt; None is none, as in diffusers."""
    prompts = [prompts] if isinstance(prompts, str) else _listed("prompts", prompts)
    negative = "" if negative is None else negative
    negatives = [negative] * len(prompts) if isinstance(negative, str) else _listed("negative", negative)
    if len(negatives) != len(prompts):
        raise EmoeError(
            f"prompts and negative prompts differ in number ({len(prompts)}, {len(negatives)}); give one, or one each"
        )
    for text in (*prompts, *negatives):
        check_text(text)
    return list(zip(prompts, negatives, strict=True))


def _listed(key: str, texts: Iterable[str]) -> list[str]:
    """What is no list of texts though it can be walked through has no order, or would give the names of its columns."""
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | Set | bytes) or hasattr(texts, "columns"):
        raise EmoeError(f"{key} is {shown(texts)}; give a text, or a list of them (of a table, one column)")
    return list(texts)


def _unzipped(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [prompt for prompt, _ in pairs], [negative for _, negative in pairs]
