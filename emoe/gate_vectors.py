"""The hidden gate's vectors on disk, beside the weights.toml that they belong to: capturing them takes a while."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from emoe.atomic import atomic
from emoe.capture import GUIDANCE, SEED, STEPS, capture
from emoe.checkpoint.remembered import cache_folder
from emoe.config import Weights
from emoe.errors import EmoeError
from emoe.fingerprint import fingerprint
from emoe.gate import HiddenGate
from emoe.moe import is_gate
from emoe.progress import progress
from emoe.shipped import SHIPPED
from emoe.text import TextEncoder
from emoe.unet import UNet

log = logging.getLogger("emoe")


def gate_vectors(unet: UNet, text: TextEncoder, weights: Weights, prediction_type: str) -> None:
    """Give a mixed UNet its gate vectors, in place: those on disk if they are this mixture's, else captured now."""
    path = _place(weights.path, unet.conv_in.weight.dtype)
    descriptors = _descriptors(weights)
    settings = hidden_gate(weights, prediction_type).captured_from, unet.config, text.settings
    key = fingerprint(settings, unet, text.model, gates=False)
    if _read(path, key, unet):
        return
    log.warning(
        "capturing the gate vectors of %d experts, %d steps each at the checkpoint's own size; kept in %s",
        *(len(descriptors), STEPS, path),
    )
    with progress(len(descriptors) * STEPS, "step") as bar:
        capture(unet, text, descriptors, prediction_type, watch=lambda expert, step: bar.update())
    _write(path, key, unet)


def hidden_gate(weights: Weights, prediction_type: str) -> HiddenGate:
    """The hidden gate, with the settings that its vectors are captured from.

    The mixture's fingerprint is made from these, not from the vectors, whose last digits differ between machines.
    """
    captured_from = "captured", _descriptors(weights), SEED, STEPS, GUIDANCE, prediction_type
    return HiddenGate(len(weights.experts), weights.top, captured_from)


def _descriptors(weights: Weights) -> tuple[tuple[str, str], ...]:
    return tuple((expert.positive, expert.negative) for expert in weights.experts)


def _place(toml: Path, dtype: torch.dtype) -> Path:
    """Beside it; of a family that is shipped, with the user's downloads."""
    path = toml.with_suffix(f".gates.{str(dtype).removeprefix('torch.')}.safetensors")
    return cache_folder() / path.name if toml in SHIPPED.values() else path


def _read(path: Path, key: str, unet: UNet) -> bool:
    """Whether the file is there, and is this mixture's."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("mixture") != key:
                return False
            for name, tensor in unet.state_dict().items():
                if is_gate(name):
                    tensor.copy_(file.get_tensor(name))
    except (SafetensorError, OSError, RuntimeError) as error:
        log.warning("cannot read %s (%s); its gate vectors are captured again", path, error)
        return False
    return True


def _write(path: Path, key: str, unet: UNet) -> None:
    """Keep the vectors, where that is possible. EmoeError if they are no numbers."""
    vectors = {name: tensor.cpu() for name, tensor in unet.state_dict().items() if is_gate(name)}
    if not all(vector.isfinite().all() for vector in vectors.values()):
        raise EmoeError("the gate vectors are not finite; use dtype float32, or other checkpoints")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as new:
            save_file(vectors, new, {"mixture": key})
    except (EmoeError, OSError) as error:
        log.warning("%s; the gate vectors will be captured again next time", error)
