"""A LoRA: small matrices that change the layers of a checkpoint, W + scale · alpha / rank · up @ down.

An expert with LoRAs is a checkpoint like any other, whose mixed layers are read with what they add.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emoe.checkpoint.detect import LORA, identify
from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.layout import config
from emoe.checkpoint.lora_names import OF_TEXT, place_of
from emoe.checkpoint.open import locate
from emoe.checkpoint.parts import Checkpoint, Part
from emoe.checkpoint.source import plain
from emoe.errors import EmoeError, shown

LARGEST_ALPHA = 1e6


@dataclass
class Lora(Part):
    """What a LoRA does to a UNet. Its names are "LAYER:down", "LAYER:up", "LAYER:alpha", of layers by our names."""

    scale: float = 1.0

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
        """What is added to the weight of a layer that it changes, (out, in), float32 on the CPU."""
        rank = self.rank(layer)
        down = self.read(f"{layer}:down", (rank, -1), dtype=torch.float32)
        up = self.read(f"{layer}:up", (-1, rank), dtype=torch.float32)
        return self.scale * self._alpha(layer, rank) / rank * (up @ down)

    def _alpha(self, layer: str, rank: int) -> float:
        """The layer's own; else what PEFT's settings say; else the rank, so that nothing is scaled."""
        if f"{layer}:alpha" in self.places:
            return float(self.read(f"{layer}:alpha", ()))
        alpha = self.config["alpha_of"].get(layer, self.config["alpha"])
        if alpha is None:
            return rank
        return alpha * rank**0.5 if self.config["by_root"] else alpha  # alpha / sqrt(rank) in all

    def check(self, layers: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Which of these layers it changes. EmoeError if none, or one by what is no pair of matrices that fits it.

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
        file, name = places.pop(f"{layer}:alpha", (None, ""))  # a number, sometimes a whole one
        if file and torch.Size(file.entries[name].shape).numel() != 1:
            raise EmoeError(f"{self.where}: {name} is no number; the file is broken, use another")
        matrices = {f"{layer}:down": (rank, width), f"{layer}:up": (out, rank)}
        for odd in sorted(places.keys() - matrices.keys()):
            raise EmoeError(
                f"{self.where} is no plain LoRA, as {places[odd][1]} shows; merge it into a checkpoint with the tool "
                "that it is for, and name that as the source of an expert"
            )
        for problem in Part(self.where, places).problems(matrices):
            raise EmoeError(f"{self.where} is a LoRA for another architecture, or damaged: it {problem}")
        if not rank:
            raise EmoeError(f"{self.where} has matrices without a number for {layer}; download it again")


@dataclass
class Changed(Part):
    """A UNet that is read with what LoRAs add to it."""

    loras: Sequence[Lora] = ()

    def read(self, name: str, shape: Sequence[int], **to: Any) -> Tensor:
        layer, _, leaf = name.rpartition(".")
        loras = [lora for lora in self.loras if leaf == "weight" and lora.changes(layer)]
        if not loras:
            return super().read(name, shape, **to)
        weight = super().read(name, shape, dtype=torch.float32)
        return (weight + sum(lora.delta(layer) for lora in loras)).to(**to)


def with_loras(checkpoint: Checkpoint, loras: Sequence[tuple[Checkpoint, float]]) -> Checkpoint:
    """A checkpoint as LoRAs (`open_lora`) change it, each times a scale."""
    unet = checkpoint.parts["unet"]
    scaled = [replace(lora.parts["lora"], scale=scale) for lora, scale in loras]
    changed = Changed(unet.where, unet.places, unet.config, scaled)
    files = [file for lora, _ in loras for file in lora.files]
    return replace(checkpoint, parts=checkpoint.parts | {"unet": changed}, files=checkpoint.files + files)


def open_lora(text: str, base: Path = Path(), revision: str | None = None) -> Checkpoint:
    """Open the LoRA that a source string names; its part "lora" is what it does to the UNet.

    What it does to the text encoder is left out with a count: experts have none. EmoeError for what is no LoRA, and for
    LoRAs of other architectures.
    """
    folder, names = locate(text, base, revision, kind="LoRA")
    found = Checkpoint(plain(text))
    if len(names) != 1:
        raise EmoeError(f"{found.source} is not one file; name the LoRA's own")
    inner, name = next(iter(names.items()))
    file = WeightsFile(folder.path(name), inner)
    found.kind, found.files = identify(file.entries), [file]
    if found.kind.name != LORA:
        raise EmoeError(f"{found.source} is {found.kind.name}, no LoRA; a checkpoint is named as an expert's source")
    beside = config(folder, "adapter_config.json") if name.startswith("adapter_model.") else {}
    lora = Lora(found.source, config=_settings(_from_header(file.metadata) or beside, found.source))
    for theirs in file.entries:
        if OF_TEXT.match(theirs):
            found.dropped["of the text encoder"] += 1
            continue
        place = place_of(theirs)
        if place is None:
            raise EmoeError(f"{found.source} is a LoRA for another architecture: SD1.x has nothing like {theirs}")
        ours = f"{place.layer}:{place.role}"
        if ours in lora.places:
            raise EmoeError(f"{found.source} holds {theirs} twice, by two names; the file is broken, use another")
        lora.places[ours] = file, theirs
    found.parts["lora"] = lora
    return found


def _settings(told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What PEFT's settings say of alpha."""
    pattern, alpha = told.get("alpha_pattern") or {}, told.get("lora_alpha")
    for value in (*pattern.values(), 0 if alpha is None else alpha) if isinstance(pattern, dict) else (pattern,):
        if type(value) not in (int, float) or not -LARGEST_ALPHA <= value <= LARGEST_ALPHA:
            raise EmoeError(f"{where}: its settings make {shown(value)} an alpha; they are broken, use another LoRA")
    of_layer = {place_of(f"{key.removeprefix('^')}.alpha"): value for key, value in pattern.items()}
    return {
        "alpha": alpha,
        "alpha_of": {place.layer: value for place, value in of_layer.items() if place},
        "by_root": told.get("use_rslora") is True,
    }


def _from_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's settings, as diffusers keeps them in a LoRA's own file; {} where it does not."""
    try:
        told = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return {}
    told = told if isinstance(told, dict) else {}
    return {key.removeprefix("unet."): value for key, value in told.items() if key.startswith("unet.")}
