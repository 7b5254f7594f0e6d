"""The number: how much the experts' paths disagree at the mid-block.

Axes: s seeds, e experts (paths), b samples, c channels, h w space.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from emoe.device import wide


class Disagreement(NamedTuple):
    """Of b samples' paths; all float32 or wider, in the mid-block's own unit squared unless said otherwise."""

    eu: Tensor  # (b,) EU(y), the paper's Eq. 8, averaged over seeds: the epistemic part
    uncertainty: Tensor  # (b,) sqrt(d_mid) * eu, Appendix A, which the paper's figures quote; or eu over `answer`
    relative: Tensor  # (b,) eu over the mean square of the paths' mean activation; no unit
    aleatoric: Tensor  # (b,) variance over seeds of the paths' mean; 0 with one seed
    by_seed: Tensor  # (b, s) uncertainty under each noise alone
    shares: Tensor  # (b, e) each path's part of eu, 1 in all; 0 where paths agree
    map: Tensor  # (b, h, w) the variance averaged over channels only


def by_path(m: Tensor, experts: int) -> Tensor:
    """What a split forward returned, (e·b, c, h, w), by expert: (e, b, c, h, w)."""
    return rearrange(m, "(e b) c h w -> e b c h w", e=experts)


def measure(m: Tensor, m_empty: Tensor | None = None) -> Disagreement:
    """The disagreement of paths: from the mid-block's activation `m` (s, e, b, c, h, w), variance over e.

    m_empty: (s, e, 1, c, h, w), the same of the empty prompt: then `uncertainty` is eu over the prompt's `answer`.

    With several seeds the law of total variance separates what the experts do not know (the mean over seeds of
    the variance over paths) from what the starting noise decides (the variance over seeds of the mean path).
    """
    m = wide(m)  # even where the network runs in half precision
    variance = population_variance(m, dim=1)  # (s, b, c, h, w)
    mean_path = m.mean(dim=1)

    eu_by_seed = variance.mean(dim=(2, 3, 4)).T  # (b, s)
    eu, d_mid = eu_by_seed.mean(dim=1), variance[0, 0].numel()
    if m_empty is None:
        uncertainty, by_seed = d_mid**0.5 * eu, d_mid**0.5 * eu_by_seed
    else:
        answered = answer(m, m_empty)  # (b, s)
        uncertainty, by_seed = eu / answered.mean(dim=1), eu_by_seed / answered
    power = mean_path.square().mean(dim=(0, 2, 3, 4))
    aleatoric = population_variance(mean_path, dim=0).mean(dim=(1, 2, 3))
    apart = (m - mean_path[:, None]).square().mean(dim=(0, 3, 4, 5)).T  # (b, e)
    shares = apart / apart.sum(dim=1, keepdim=True).clamp(min=torch.finfo(apart.dtype).tiny)
    return Disagreement(
        eu=eu,
        uncertainty=uncertainty,
        relative=eu / power,
        aleatoric=aleatoric,
        by_seed=by_seed,
        shares=shares,
        map=variance.mean(dim=(0, 2)),
    )


def answer(m: Tensor, m_empty: Tensor) -> Tensor:
    """How far a prompt moves the mid-block: mean((paths' mean - paths' mean of the empty prompt)^2), (b, s), eu's unit.

    m: (s, e, b, c, h, w).  m_empty: (s, e, 1, c, h, w), the same of the empty prompt, by its own route, not the
    prompt's.  Experts hardly react to a prompt unlike all they were trained on, so eu / answer is high where they
    disagree and where they barely react. Ours, not the paper's.
    """
    return (wide(m).mean(dim=1) - wide(m_empty).mean(dim=1)).square().mean(dim=(2, 3, 4)).T


def population_variance(x: Tensor, dim: int) -> Tensor:
    """Over an axis of paths, or seeds (Eq. 8 divides by M, not M - 1); where they agree it is exactly 0."""
    return (x - x.narrow(dim, 0, 1)).var(dim=dim, correction=0)  # shifting changes no variance
