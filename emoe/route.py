"""Which expert computes which rows, with what weight.

A route is planned on the host before the network runs; a mixture only follows it, so nothing inside a layer
waits for the device. Disentangling the experts is a route too: one-hot, over a batch that is M times longer.

Axes: b prompts (or samples: prompts times guidance halves g), e experts (from the split on, paths p), n tokens,
c channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import reduce, repeat
from torch import Tensor, nn


class Work(NamedTuple):
    """One expert's part of a layer's work."""

    expert: int
    rows: slice | Tensor  # which rows of the batch it computes
    weight: float | Tensor  # of its output, in the sum: a number, (rows, 1, 1) or (rows, n, 1)


class Route(ABC):
    """The experts' work on a batch of `samples` rows, or of its `samples * experts` paths after the split.

    A sample is a row before the split: under guidance, a prompt is two, the negative half first. A batch of `samples`
    rows has not split yet; `divide`, `split` and `match_paths` tell by it.
    `split` names the sub-layer at which samples become paths: "attn1", "attn2", "ff", or None for no split.
    """

    def __init__(self, samples: int, experts: int, split: str | None = None):
        self.samples, self.experts, self.split = samples, experts, split
        self.weights: Tensor | None = None  # (b, e) where they are the same in every layer

    def merged(self, matrices: Sequence[Tensor]) -> Tensor | None:
        """The experts' `matrices` (c', c) as one per prompt, (b, c', c), or one for all, (1, c', c).

        None where weights differ within a prompt, from token to token or from path to path.
        """
        return None

    @abstractmethod
    def divide(self, x: Tensor, gate: nn.Module | None) -> Sequence[Work]:
        """Divide the rows of `x` (rows, n, c), a mixture's input, among the experts.

        `gate` is the mixture's own gate, (rows, n, c) -> (rows, n, e), for routes that ask it.
        """


class OneHot(Route):
    """Path i belongs to expert i alone: what the split layer follows."""

    def divide(self, x: Tensor, gate: nn.Module | None = None) -> list[Work]:
        size = len(x) // self.experts
        return [Work(i, slice(i * size, (i + 1) * size), 1.0) for i in range(self.experts)]


class PromptRoute(Route):
    """Weights that depend on the prompt alone, hence the same in every layer.

    weights: one row a prompt, (b, e), on the CPU; zero for the experts that the prompt does not use.
    device, dtype: the network's.  halves: 2 under guidance, whose halves share the prompt's route.
    """

    def __init__(
        self,
        weights: Tensor,
        split: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        halves: int = 1,
    ):
        count, experts = weights.shape
        super().__init__(halves * count, experts, split)
        self.weights = weights
        # planned once, so that no layer waits for the device: the matrices' weights, and the rows' before and after
        # the split. Both halves and all paths of a prompt take its matrix; prompts with equal weights share one
        distinct = weights[:1] if (weights == weights[0]).all() else weights
        self.of_matrices = [(i, distinct[:, i].to(device, dtype)) for i in range(experts) if distinct[:, i].any()]
        self.of_samples, self.of_paths = (
            work_per_expert(rows > 0, rows[:, None].to(device, dtype))
            for rows in (weights.repeat(halves, 1), weights.repeat(experts * halves, 1))
        )

    def divide(self, x: Tensor, gate: nn.Module | None = None) -> list[Work]:
        return self.of_samples if len(x) == self.samples else self.of_paths  # the rows tell which

    def merged(self, matrices: Sequence[Tensor]) -> Tensor:
        return sum(weight[:, None, None] * matrices[expert] for expert, weight in self.of_matrices)


class HiddenRoute(Route):
    """Weights that every mixture takes from its own input (what SegMoE runs).

    The `top` experts are chosen per prompt (after the split, per path), by their logits summed over tokens and
    guidance halves; their weights differ from token to token. The choice has to reach the host in every mixture: the
    price of this gate.
    """

    def __init__(self, samples: int, experts: int, top: int, split: str | None = None, halves: int = 1):
        """halves: 2 under guidance, where a prompt is two samples that share one choice."""
        super().__init__(samples, experts, split)
        self.top, self.halves = top, halves

    def divide(self, x: Tensor, gate: nn.Module) -> list[Work]:
        logits = gate(x).float()  # (rows, n, e)
        prompts = self.samples // self.halves
        sums = reduce(logits, "(p g b) n e -> p b e", "sum", g=self.halves, b=prompts)
        chosen = repeat(largest(sums, self.top), "p b e -> (p g b) e", g=self.halves)
        weights = softmax_over(logits, chosen[:, None])
        return work_per_expert(chosen.cpu(), weights.to(x.dtype))


def work_per_expert(chosen: Tensor, weights: Tensor) -> list[Work]:
    """One `Work` for every expert that has rows.

    chosen: (rows, e) bool, on the CPU.  weights: (rows, n or 1, e), on any device.
    """
    work = []
    for expert in range(chosen.shape[1]):
        rows = chosen[:, expert].nonzero()[:, 0]
        if len(rows) == len(chosen):
            work.append(Work(expert, slice(None), weights[:, :, expert, None]))
        elif len(rows):
            rows = rows.to(weights.device)
            work.append(Work(expert, rows, weights[rows, :, expert, None]))
    return work


def choose(logits: Tensor, top: int) -> Tensor:
    """The `top` largest logits of a row become weights by a softmax among themselves; the others are zero.

    logits: (..., e). Returns weights of the same shape; rows sum to 1. Ties go to the lower index.
    """
    return softmax_over(logits, largest(logits, top))


def largest(logits: Tensor, top: int) -> Tensor:
    """True at the `top` largest entries of each row, ties to the lower index (`topk` promises no order)."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order[..., :top], True)


def softmax_over(logits: Tensor, chosen: Tensor) -> Tensor:
    return logits.masked_fill(~chosen, float("-inf")).softmax(dim=-1)


def split(x: Tensor, route: Route | None, layer: str) -> tuple[Tensor, Route | None]:
    """The split: a sample becomes one row per expert, and here, in this one layer, row i is expert i's alone.

    x: (b, n, c) -> (e·b, n, c), path-major, where `route` splits at `layer` and has not split before; anywhere
    else `x` and `route` come back untouched. Everything after the split follows the ordinary route again.
    """
    if route is None or route.split != layer or len(x) != route.samples:
        return x, route
    # one-hot makes this layer CA_i = Attention(Q_i, K_i, V_i), with expert i's projections alone
    return repeat(x, "b n c -> (e b) n c", e=route.experts), OneHot(route.samples, route.experts)


def match_paths(t: Tensor, x: Tensor) -> Tensor:
    """Repeat what is still one row a sample (text, time, residual, skip) so that it meets every path in `x`."""
    return t if len(t) == len(x) else repeat(t, "b ... -> (e b) ...", e=len(x) // len(t))
