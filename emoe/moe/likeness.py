"""Are the experts different enough for their disagreement to mean anything?

Axes: e experts. W_i are the weights of all of expert i's mixed layers together.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.linalg import vector_norm

from emoe.moe.mixture import mixtures
from emoe.unet import UNet


def apart(unet: UNet) -> Tensor:
    """||W_i - W_j|| beside the geometric mean of ||W_i|| and ||W_j||, (e, e).

    0: one expert twice; sqrt(2): weights that have nothing to do with each other.
    """
    layers = _weights(unet)
    experts = range(len(layers[0]))
    norm = torch.tensor([sum(_square(w) for layer in layers for w in layer[i]) for i in experts])
    square = torch.zeros(len(experts), len(experts))
    for i, j in combinations(experts, 2):
        square[i, j] = square[j, i] = sum(_between(layer[i], layer[j]) for layer in layers)
    return (square / (norm[:, None] * norm).sqrt().clamp(min=1e-30)).sqrt()


def alike(unet: UNet, threshold: float = 1e-3) -> list[tuple[int, int]]:
    """Pairs of experts i < j with ||W_i - W_j|| < threshold · ||W_i||. Takes no time where there are none."""
    layers = _weights(unet)
    experts = range(len(layers[0]))
    norm = [sum(_square(w) for layer in layers for w in layer[i]) for i in experts]

    pairs = dict.fromkeys(combinations(experts, 2), 0.0)
    for layer in layers:
        for i, j in list(pairs):
            pairs[i, j] += _between(layer[i], layer[j])
            if pairs[i, j] > threshold**2 * norm[i]:  # different enough already: most pairs leave at the first layer
                del pairs[i, j]
    return list(pairs)


def _weights(unet: UNet) -> list[list[list[Tensor]]]:
    """layer, expert, tensor"""
    return [[list(expert.parameters()) for expert in mixture.experts] for mixture in mixtures(unet).values()]


def _square(weight: Tensor) -> float:
    return float(vector_norm(weight.float())) ** 2


def _between(some: list[Tensor], others: list[Tensor]) -> float:
    return sum(_square(a - b) for a, b in zip(some, others, strict=True))
