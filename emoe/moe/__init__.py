"""Sparse mixtures of experts."""

from emoe.moe.likeness import alike, apart
from emoe.moe.mixture import LAYERS, SPLITS, Mixture, is_gate, layers_of, mix, mixed_layers, mixtures, origin

__all__ = [
    "LAYERS",
    "SPLITS",
    "Mixture",
    "alike",
    "apart",
    "is_gate",
    "layers_of",
    "mix",
    "mixed_layers",
    "mixtures",
    "origin",
]
