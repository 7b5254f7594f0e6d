"""Sparse mixtures of experts."""

from emoe.moe.likeness import alike, apart
from emoe.moe.mixture import Mixture, is_gate, layers_of, mix, mixed_layers, mixtures, origin

__all__ = [
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
