"""Sparse mixtures of experts."""

from emoe.moe.likeness import alike
from emoe.moe.mixture import LAYERS, Mixture, layers_of, mix, mixed_layers, mixtures, origin

__all__ = ["LAYERS", "Mixture", "alike", "layers_of", "mix", "mixed_layers", "mixtures", "origin"]
