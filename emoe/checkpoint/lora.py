"""A LoRA: small matrices that change the layers of a checkpoint, W + scale · alpha / rank · up @ down.

An expert with LoRAs is a checkpoint like any other, whose layers are read with what they add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.parts import Checkpoint, Part
from emoe.errors import EmoeError

LARGEST_ALPHA = 1e6
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Alphas:
    """What PEFT's settings say of the layers' alphas. alpha / rank (or alpha / sqrt(rank)) scales what a layer gets."""

    usual: float | None = None  # None: the rank, so that nothing is scaled
    own: Mapping[str, float] = field(default_factory=dict)  # by the end of a layer's name; ^: by the whole of it
    by_root: bool = False  # alpha / sqrt(rank): rsLoRA

    def factor(self, layer: str, rank: int) -> float:
        alpha = next((alpha for key, alpha in self.own.items() if _means(key, layer)), self.usual)
        return 1.0 if alpha is None else alpha / (rank**0.5 if self.by_root else rank)


def _means(key: str, layer: str) -> bool:
    return f"^{layer}" == key or f".{layer}".endswith(f".{key}")


@dataclass
class Lora(Part):
    """What a LoRA does to a UNet. Its names are "LAYER:down", "LAYER:up", "LAYER:alpha", of layers by our names."""

    alphas: Alphas = field(default_factory=Alphas)  # of layers that have none in the file
    scale: float = 1.0
    trained = False  # an all-zero matrix is legal here: a layer that training left alone

    @property
    def layers(self) -> set[str]:
        """Those of the UNet that it changes, mixed or not."""
        return {name.partition(":")[0] for name in self.places}

    def changes(self, layer: str) -> bool:
        return f"{layer}:down" in self.places

    def rank(self, layer: str) -> int:
        """Of the matrices of a layer that it changes; 0 if they are none."""
        file, name = self.places[f"{layer}:down"]
        return next(iter(file.entries[name].shape), 0)

    def delta(self, layer: str) -> Tensor:
        """What is added to the weight of a layer that it changes, as a matrix (out, in), float32 on the CPU."""
        rank = self.rank(layer)
        down = self.read(f"{layer}:down", (rank, -1), dtype=torch.float32)
        up = self.read(f"{layer}:up", (-1, rank), dtype=torch.float32)
        return self.scale * self._factor(layer, rank) * (up @ down)

    def _factor(self, layer: str, rank: int) -> float:
        if f"{layer}:alpha" not in self.places:
            return self.alphas.factor(layer, rank)
        alpha = float(self.read(f"{layer}:alpha", ()))
        if abs(alpha) > LARGEST_ALPHA:
            raise EmoeError(f"{self.where}: the alpha of {layer} is {alpha:g}; the file is broken, use another")
        return alpha / rank

    def check(self, layers: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Which of these layers it changes; EmoeError if none, or if the matrices of one do not fit it.

        layers: with the shapes of their weights.
        """
        changed = [layer for layer in layers if self._of(layer)]
        if not changed:
            raise EmoeError(f"{self.where} is a LoRA that changes none of the layers that are mixed; leave it out")
        for layer in changed:
            self._check_layer(layer, *layers[layer])
        return changed

    def _of(self, layer: str) -> dict[str, tuple[WeightsFile, str]]:
        return {name: place for name, place in self.places.items() if name.startswith(f"{layer}:")}

    def _check_layer(self, layer: str, out: int, width: int) -> None:
        places, rank = self._of(layer), self.rank(layer) if self.changes(layer) else 0
        if alpha := places.pop(f"{layer}:alpha", None):
            _check_number(self.where, *alpha)
        matrices = {f"{layer}:down": (rank, width), f"{layer}:up": (out, rank)}
        if odd := sorted(places.keys() - matrices.keys()):
            raise EmoeError(
                f"{self.where} is no plain LoRA, as {places[odd[0]][1]} shows; merge it into a checkpoint with the "
                "tool that it is for, and name that as the source of an expert"
            )
        for problem in Part(self.where, places).problems(matrices):
            raise EmoeError(
                f"{self.where} is a LoRA for another architecture, or damaged: of {layer}, whose weight is "
                f"{[out, width]}, it {problem.replace(f'{layer}:', 'the matrix ')}"
            )
        if not rank:
            raise EmoeError(f"{self.where} has matrices without a number for {layer}; download it again")


def _check_number(where: str, file: WeightsFile, name: str) -> None:
    """An alpha is one number, sometimes a whole one."""
    shape, dtype = file.entries[name]
    real = isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype in INTEGERS)
    if torch.Size(shape).numel() != 1 or not real:
        raise EmoeError(f"{where}: {name} is no number; the file is broken, use another")


@dataclass
class WithLoras(Part):
    """A UNet that is read with what LoRAs add to it."""

    loras: Sequence[Lora] = ()

    def read(self, name: str, shape: Sequence[int], **to: Any) -> Tensor:
        layer, _, leaf = name.rpartition(".")
        loras = [lora for lora in self.loras if leaf == "weight" and lora.changes(layer)]
        if not loras:
            return super().read(name, shape, **to)
        weight = super().read(name, shape, dtype=torch.float32)
        changed = (weight + sum(lora.delta(layer).reshape(weight.shape) for lora in loras)).to(**to)
        if not changed.isfinite().all():
            raise EmoeError(f"{self.where}: with its LoRAs, {name} is not finite in {changed.dtype}; lower their scale")
        return changed


def with_loras(checkpoint: Checkpoint, loras: Sequence[tuple[Checkpoint, float]]) -> Checkpoint:
    """A checkpoint as LoRAs (`open_lora`) change it, each times a scale."""
    unet = checkpoint.parts["unet"]
    scaled = [replace(lora.parts["lora"], scale=scale) for lora, scale in loras]
    changed = WithLoras(unet.where, unet.places, unet.config, scaled)
    files = [file for lora, _ in loras for file in lora.files]
    return replace(checkpoint, parts=checkpoint.parts | {"unet": changed}, files=checkpoint.files + files)
