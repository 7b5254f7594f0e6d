"""The method, end to end: prompts in, uncertainty out.

Axes: b prompts, e experts (paths), s seeds, c channels, h w space.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emoe.assemble import assemble
from emoe.config import SPLITS, read_weights
from emoe.errors import EmoeError
from emoe.gate import Gate
from emoe.moe import layers_of
from emoe.schedule import TRAIN_STEPS, noise, timesteps
from emoe.text import TextEncoder
from emoe.uncertainty import measure, paths
from emoe.unet import UNet

log = logging.getLogger("emoe")

PIXELS = 8  # of an image, to a latent pixel's side


@dataclass(frozen=True)
class Scores:
    """What `EMoE.score` returns: tensors on the CPU, float32, one row a prompt, in the order of the prompts."""

    prompts: list[str]
    negative_prompts: list[str]
    eu: Tensor  # (p,) Eq. 8, averaged over the seeds
    uncertainty: Tensor  # (p,) sqrt(d_mid) * eu, Appendix A
    relative: Tensor  # (p,) eu over the mean square of the paths' mean activation
    aleatoric: Tensor | None  # (p,) variance over seeds; None with one seed
    map: Tensor  # (p, h, w) the variance over paths at the mid-block's pixels
    weights: Tensor | None  # (p, e) the route; None with the hidden gate, which has one a layer
    seed: int
    seeds: int
    timestep: int

    def records(self) -> list[dict[str, Any]]:
        """One JSON-ready dict a prompt."""
        return [
            {
                "prompt": self.prompts[i],
                "negative_prompt": self.negative_prompts[i],
                "eu": self.eu[i].item(),
                "uncertainty": self.uncertainty[i].item(),
                "relative": self.relative[i].item(),
                **({"aleatoric": self.aleatoric[i].item()} if self.aleatoric is not None else {}),
                "weights": None if self.weights is None else self.weights[i].tolist(),
                "seed": self.seed,
                **({"seeds": self.seeds} if self.seeds > 1 else {}),
                "timestep": self.timestep,
            }
            for i in range(len(self.prompts))
        ]


class EMoE:
    """A mixture of experts with a gate, ready to score prompts."""

    def __init__(self, unet: UNet, text: TextEncoder, gate: Gate, split: str = "attn2"):
        """unet: with mixtures (`emoe.moe.mix`).  split: where samples become paths; a layer that is mixed."""
        if split not in SPLITS[layers_of(unet)]:
            raise EmoeError(f"split is {split!r}, where nothing is mixed; choose one of {SPLITS[layers_of(unet)]}")
        self.unet, self.text, self.gate, self.split = unet, text, gate, split
        weight = unet.conv_in.weight
        self.device, self.dtype = weight.device, weight.dtype

    @classmethod
    def from_toml(cls, path: str | Path = "weights.toml", *, device: str = "auto", dtype: str = "auto") -> EMoE:
        """Load the mixture that a weights.toml describes, downloading what is not here yet.

        device: "auto", "cpu", "cuda", "cuda:1", "mps".  dtype: "auto" (float16 on cuda, else float32), "float32",
        "float16", "bfloat16".  EmoeError for anything in the way, in one line.
        """
        return cls(*assemble(read_weights(path), *choose_device(device, dtype)))

    def score(self, prompts: Sequence[str], negative: str | Sequence[str] = "", **settings: Any) -> Scores:
        """The epistemic uncertainty of each prompt. `settings` as in `stream`; a prompt's score does not depend on
        the others."""
        batches = list(self.stream(prompts, negative, **settings))
        if not batches:
            raise EmoeError("there are no prompts to score")
        return _join(batches)

    def stream(
        self,
        prompts: Sequence[str],
        negative: str | Sequence[str] = "",
        *,
        seed: int = 0,
        seeds: int = 1,
        steps: int = 25,
        timestep: int | None = None,
        size: int | None = None,
        read_out: str = "post",
        batch_size: int | None = None,
    ) -> Iterator[Scores]:
        """The same, batch by batch, for long lists.

        negative: one negative prompt for all, or one each; it takes part in the route alone.
        seed, seeds: the starting noises are those of seed, seed + 1, ..., seed + seeds - 1.
        steps: a run of so many steps, of which the first is read.  timestep: read here instead, 0 to 999.
        size: pixels a side, a multiple of 64; default the checkpoint's own.
        read_out: "post" (what leaves the mid-block) or "pre" (what enters it).
        batch_size: prompts at a time, each one row before the split and M after it; default 1 on a CPU, else 8.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        if len(negatives) != len(prompts):
            raise EmoeError(
                f"there are {len(prompts)} prompts and {len(negatives)} negative prompts; give one, or one each"
            )
        if batch_size is None:
            batch_size = 1 if self.device.type == "cpu" else 8
        if seeds < 1 or batch_size < 1:
            raise EmoeError(f"seeds is {seeds} and the batch size {batch_size}; both must be at least 1")
        if read_out not in ("post", "pre"):
            raise EmoeError(f"read-out is {read_out!r}; choose 'post' or 'pre'")
        t = timesteps(steps)[0] if timestep is None else timestep
        if not 0 <= t < TRAIN_STEPS:
            raise EmoeError(f"timestep is {t}; it must lie between 0 and {TRAIN_STEPS - 1}")
        shape = self._latent_shape(size)
        noises = [noise(seed + i, shape).to(self.device, self.dtype) for i in range(seeds)]

        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            yield self._score(prompts[batch], negatives[batch], noises, t, read_out, seed)

    @torch.inference_mode()
    def _score(
        self, prompts: list[str], negatives: list[str], noises: list[Tensor], t: int, read_out: str, seed: int
    ) -> Scores:
        text = self.text(prompts)  # (b, 77, c)
        negative = self.text(negatives) if any(negatives) else None
        route = self.gate.route(text, negative, self.split, self.device, self.dtype)
        states, step = text.states.to(self.dtype), torch.tensor([t], device=self.device)

        mids = []
        for z in noises:  # (1, 4, h, w), the same for every prompt
            out = self.unet(z.expand(len(prompts), -1, -1, -1), step, states, route, stop_at_mid=True)
            mids.append(paths(out.m_post if read_out == "post" else out.m_pre, self.gate.experts))
        found = measure(torch.stack(mids))  # (s, e, b, c, h, w) -> (b,)

        for prompt, cut in zip(prompts, text.truncated, strict=True):
            if cut:
                log.warning("%r is longer than %d tokens; the rest of it is not seen", prompt[:60], self.text.length)
        if not torch.isfinite(found.eu).all():
            worst = prompts[int((~torch.isfinite(found.eu)).int().argmax())]
            raise EmoeError(f"{worst[:60]!r}: the network's activations overflow in {self.dtype}; use dtype float32")
        return Scores(
            prompts=prompts,
            negative_prompts=negatives,
            eu=found.eu.cpu(),
            uncertainty=found.uncertainty.cpu(),
            relative=found.relative.cpu(),
            aleatoric=found.aleatoric.cpu() if len(noises) > 1 else None,
            map=found.map.cpu(),
            weights=route.weights,
            seed=seed,
            seeds=len(noises),
            timestep=t,
        )

    def _latent_shape(self, size: int | None) -> tuple[int, int, int, int]:
        config = self.unet.config
        step = PIXELS * 2 ** (len(config.channels) - 1)
        size = config.sample_size * PIXELS if size is None else size
        if size < step or size % step:
            raise EmoeError(f"size is {size} pixels; it must be a multiple of {step}")
        return 1, config.latent_channels, size // PIXELS, size // PIXELS


def choose_device(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """ "auto" is the fastest device there is, and half precision where that is fast."""
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise EmoeError(f"device {device!r} is not usable here ({str(error).splitlines()[0]}); use cpu") from error
    if dtype == "auto":
        return chosen, torch.float16 if chosen.type == "cuda" else torch.float32
    if dtype not in dtypes:
        raise EmoeError(f"dtype is {dtype!r}; choose auto, {', '.join(dtypes)}")
    return chosen, dtypes[dtype]


def _join(batches: list[Scores]) -> Scores:
    def cat(name: str) -> Tensor | None:
        parts = [getattr(batch, name) for batch in batches]
        return None if parts[0] is None else torch.cat(parts)

    first = batches[0]
    return Scores(
        prompts=[prompt for batch in batches for prompt in batch.prompts],
        negative_prompts=[prompt for batch in batches for prompt in batch.negative_prompts],
        **{name: cat(name) for name in ("eu", "uncertainty", "relative", "aleatoric", "map", "weights")},
        seed=first.seed,
        seeds=first.seeds,
        timestep=first.timestep,
    )
