"""What `emoe inspect` tells of a mixture: is it what was meant, how far are its experts apart, what can its gate do?

Axes: e experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from emoe.checkpoint.source import plain
from emoe.config import Expert, Weights, read_weights
from emoe.device import choose_device
from emoe.errors import EmoeError
from emoe.gate import PromptGate
from emoe.gate_vectors import hidden_gate
from emoe.moe import apart, layers_of, mixtures
from emoe.pipeline import EMoE


def describe(source: str, device: str = "auto", dtype: str = "auto") -> dict[str, Any]:
    """A JSON-ready account of a weights.toml, loaded as for a score; of one that cannot be, "refused" says why.

    Vectors of the hidden gate are not captured for it. EmoeError for a device that is not there.
    """
    there, kind = choose_device(device, dtype)
    try:
        weights = read_weights(source)
        captures = weights.gate == "hidden" and not weights.segmoe
        loaded = replace(weights, gate="uniform", top=None) if captures else weights
        model = EMoE.from_weights(loaded, device=there, dtype=kind)
    except EmoeError as error:
        return {"source": source, "kind": None, "refused": str(error)}
    experts = [_expert(expert) for expert in model.experts]
    for expert, distances in zip(experts, _rounded(apart(model.unet)), strict=True):
        expert["apart"] = distances
    if (routes := own_routes(model)) is not None:
        for expert, route in zip(experts, _rounded(routes), strict=True):
            expert["own_route"] = route
    told = {"source": str(weights.path), "kind": "a mixture", "refused": None} | _whole(weights, model)
    if captures:
        captured = model.variant(hidden_gate(weights, model.prediction_type))  # but for the vectors
        told |= {"gate": "hidden", "top": weights.top, "mixture": captured.mixture}
    return told | {"experts": experts}


def own_routes(model: EMoE) -> Tensor | None:
    """The route of each expert's own descriptors, as prompt and negative prompt, (e, e). None: no descriptors."""
    if not isinstance(model.gate, PromptGate):
        return None
    positive, negative = ([getattr(expert, key) for expert in model.experts] for key in ("positive", "negative"))
    return model.gate(model.text(positive), model.text(negative))


def _whole(weights: Weights, model: EMoE) -> dict[str, Any]:
    mixed = [tensor.numel() for mixture in mixtures(model.unet).values() for tensor in mixture.parameters()]
    return {
        "base": plain(weights.segmoe or weights.base),
        "parameters": sum(tensor.numel() for tensor in model.unet.parameters()),
        "of_experts": sum(mixed),
        "layers": layers_of(model.unet),
        "split": model.split,
        "gate": type(model.gate).__name__.removesuffix("Gate").lower(),
        "top": getattr(model.gate, "top", model.gate.experts),
        "prediction": model.prediction_type,
        "size": model.own_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "mixture": model.mixture,
    }


def _expert(expert: Expert) -> dict[str, Any]:
    loras = [{"source": plain(lora.source), "scale": lora.scale} for lora in expert.loras]
    told = {"name": expert.name, "source": plain(expert.source), "loras": loras}
    return told | {"positive": expert.positive, "negative": expert.negative}


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in values.tolist()]
