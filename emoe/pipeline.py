"""The method, end to end: prompts in, uncertainty out.

Axes: b prompts, e experts (paths), s seeds, c channels, h w space.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from emoe.assemble import assemble
from emoe.config import SPLITS, read_weights
from emoe.device import choose, enough_memory
from emoe.errors import EmoeError
from emoe.fingerprint import fingerprint
from emoe.gate import Gate
from emoe.moe import layers_of
from emoe.prompts import check_text
from emoe.route import HiddenRoute, PromptRoute, Route
from emoe.schedule import noise
from emoe.scores import Reading, Scores, join
from emoe.text import TextEncoder, TextStates
from emoe.uncertainty import measure, paths
from emoe.unet import UNet

log = logging.getLogger("emoe")

PIXELS = 8  # of an image, to a latent pixel's side


class EMoE:
    """A mixture of experts with a gate, ready to score prompts."""

    def __init__(self, unet: UNet, text: TextEncoder, gate: Gate, split: str = "attn2"):
        """unet: with mixtures (`emoe.moe.mix`).  split: where samples become paths, a layer that is mixed."""
        if split not in SPLITS[layers_of(unet)]:
            raise EmoeError(f"split is {split!r}, where nothing is mixed; choose one of {SPLITS[layers_of(unet)]}")
        self.unet, self.text, self.gate, self.split = unet, text, gate, split
        self.device, self.dtype = unet.conv_in.weight.device, unet.conv_in.weight.dtype
        self.mixture = fingerprint(gate, split, unet, text.model)

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
        weights = read_weights(path)
        return cls(*assemble(weights, *choose(device, dtype)))

    def score(
        self,
        prompts: str | Sequence[str],
        negative: str | Sequence[str] = "",
        *,
        seed: int = 0,
        seeds: int = 1,
        steps: int = 25,
        timestep: int | None = None,
        size: int | None = None,
        read_out: str = "post",
        batch_size: int | None = None,
    ) -> Scores:
        """The epistemic uncertainty of each prompt, which does not depend on the others.

        negative: one negative prompt for all, or one each; it takes part in the route alone.
        seed, seeds: average over the noises of seed, seed + 1, ..., seed + seeds - 1.
        steps: of a run of so many, the first is read.  timestep: read here instead, 0 to 999.
        size: pixels a side, a multiple of 64; default the checkpoint's own.
        read_out: "post" (what leaves the mid-block) or "pre" (what enters it).
        batch_size: prompts at a time, each one row before the split and M after it; default 1 on a CPU, else 8.
        """
        reading = Reading.of(steps, timestep, seed=seed, seeds=seeds, size=size, read_out=read_out)
        batches = list(self.stream(prompts, negative, reading, batch_size))
        if not batches:
            raise EmoeError("there are no prompts to score")
        return join(batches)

    def stream(
        self,
        prompts: str | Sequence[str],
        negative: str | Sequence[str] = "",
        reading: Reading = Reading(),  # noqa: B008 (frozen)
        batch_size: int | None = None,
    ) -> Iterator[Scores]:
        """The same, batch by batch, for long lists."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        if len(negatives) != len(prompts):
            raise EmoeError(
                f"there are {len(prompts)} prompts and {len(negatives)} negative prompts; give one, or one each"
            )
        for text in (*prompts, *negatives):
            check_text(text)
        if batch_size is None:
            batch_size = 1 if self.device.type == "cpu" else 8
        check_batch_size(batch_size)

        reading = self.at_own_size(reading)
        side = reading.size // PIXELS
        with enough_memory():
            noises = [self._noise(reading.seed + i, side) for i in range(reading.seeds)]
            for start in range(0, len(prompts), batch_size):
                batch = slice(start, start + batch_size)
                yield self._score(prompts[batch], negatives[batch], noises, reading)

    def at_own_size(self, reading: Reading) -> Reading:
        """The reading, with the checkpoint's own size where it names none."""
        return reading if reading.size else replace(reading, size=self.unet.config.sample_size * PIXELS)

    @torch.inference_mode()
    def _score(self, prompts: list[str], negatives: list[str], noises: list[Tensor], reading: Reading) -> Scores:
        text = self.text(prompts)  # (b, 77, c)
        negative = self.text(negatives) if any(negatives) else None
        weights = self.gate(text, negative)  # (b, e)
        route = self._route(weights, len(prompts))
        states, t = text.states.to(self.dtype), torch.tensor([reading.timestep], device=self.device)

        m = []
        for z in noises:  # (1, 4, h, w), the same for every prompt
            out = self.unet(z.expand(len(prompts), -1, -1, -1), t, states, route, stop_at_mid=True)
            m.append(paths(out.m_post if reading.read_out == "post" else out.m_pre, self.gate.experts))
        found = measure(torch.stack(m))  # (s, e, b, c, h, w) -> (b,)

        self._warn_of_truncation(text, negative)
        self._check_finite(prompts, found.eu)
        return Scores(
            prompts=prompts,
            negative_prompts=negatives,
            eu=found.eu.cpu(),
            uncertainty=found.uncertainty.cpu(),
            relative=found.relative.cpu(),
            aleatoric=found.aleatoric.cpu() if reading.seeds > 1 else None,
            map=found.map.cpu(),
            weights=weights,
            reading=reading,
            mixture=self.mixture,
        )

    def _noise(self, seed: int, side: int) -> Tensor:
        return noise(seed, (1, self.unet.config.latent_channels, side, side)).to(self.device, self.dtype)

    def _route(self, weights: Tensor | None, samples: int) -> Route:
        if weights is None:
            return HiddenRoute(samples, self.gate.experts, self.gate.top, self.split)
        return PromptRoute(weights, self.split, self.device, self.dtype)

    def _warn_of_truncation(self, *texts: TextStates | None) -> None:
        for text in filter(None, texts):
            for prompt in {p for p, cut in zip(text.prompts, text.truncated, strict=True) if cut}:
                log.warning("%r is longer than %d tokens; the rest of it is not seen", prompt[:60], self.text.length)

    def _check_finite(self, prompts: list[str], eu: Tensor) -> None:
        for prompt, fine in zip(prompts, torch.isfinite(eu).tolist(), strict=True):
            if not fine:
                half = self.dtype == torch.float16
                remedy = "use dtype bfloat16 or float32" if half else "these checkpoints do not go together"
                raise EmoeError(f"{prompt[:60]!r}: activations are not finite in {self.dtype}; {remedy}")


def check_batch_size(size: object) -> None:
    if type(size) is not int or size < 1:
        raise EmoeError(f"batch_size is {size!r}; it must be a whole number of at least 1")
