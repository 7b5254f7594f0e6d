"""What `emoe inspect` tells of a source; of a weights.toml, `emoe.describing` tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from emoe.checkpoint.architecture import tells_all
from emoe.checkpoint.contents import PARTS
from emoe.checkpoint.detect import LORA, SEGMOE
from emoe.checkpoint.hashes import file_sha256
from emoe.checkpoint.load_unet import load_unet, mixed_shapes
from emoe.checkpoint.load_vae import load_vae
from emoe.checkpoint.mixture import saved_mixture
from emoe.checkpoint.open import examine
from emoe.checkpoint.open_lora import open_lora
from emoe.checkpoint.parts import Checkpoint, Part
from emoe.checkpoint.source import plain
from emoe.device import enough_memory
from emoe.errors import EmoeError
from emoe.unet import UNet


def describe(source: str) -> dict[str, Any]:
    """A JSON-ready account of a source, also of one that cannot be used: "refused" then says why.

    Every tensor of the UNet, the VAE and the text encoder is read, as loading would; of a LoRA, every matrix.
    """
    try:
        found = examine(source, kind=None)
        told = _lora(source) if found.kind.name == LORA else _checkpoint(found)
    except EmoeError as error:
        return {"source": plain(source), "kind": None, "refused": str(error)}
    files = [
        {
            "path": str(file.path),
            "container": file.container,
            "bytes": file.path.stat().st_size,
            "sha256": file_sha256(file.path),
        }
        for file in found.files
    ]
    return {"source": found.source, "kind": found.kind.name} | told | {"files": files}


def _checkpoint(found: Checkpoint) -> dict[str, Any]:
    parts = {name: _part(part) if (part := found.parts.get(name)) else None for name in PARTS}
    refused = found.kind.remedy and f"{found.source} is {found.kind.name}: {found.kind.remedy}"
    if not refused:
        part = found.parts["unet"]
        if not tells_all(part.shapes, part.config):
            part.config = {"attention_head_dim": 1, "norm_num_groups": 1}  # which go with all widths
            parts["unet"]["expert_only"] = True
        parts["unet"]["problem"] = refused = _problem(lambda: load_unet(found))
    if "vae" in found.parts:
        parts["vae"]["problem"] = _problem(lambda: load_vae(found.parts["vae"]))
    if "text_encoder" in found.parts:
        parts["text_encoder"]["problem"] = _problem(lambda: _try_text(found))
    mixture = saved_mixture(found.parts["unet"]) if found.kind.name == SEGMOE and not refused else None
    return {
        "refused": refused,
        "unet_names": found.naming if "unet" in found.parts else None,
        "prediction": found.prediction_type if "unet" in found.parts else None,
        "parts": parts,
        "schedule": found.schedule,
        "segmoe": mixture._asdict() if mixture else None,
        "left_out": dict(found.dropped),
        "unknown": found.unknown,
    }


def _lora(source: str) -> dict[str, Any]:
    """What a LoRA changes in SD1.5, and how much of that takes part in a mixture."""
    with torch.device("meta"):
        mixed = mixed_shapes(UNet(), "all")
    told: dict[str, Any] = {"layers": 0, "mixed": 0, "ranks": [], "text_encoder_tensors": 0}

    def look() -> None:
        opened = open_lora(source)
        lora = opened.parts["lora"]
        told["layers"], told["mixed"] = len(lora.layers), len(lora.layers & mixed.keys())
        told["text_encoder_tensors"] = opened.dropped.total()
        changed = lora.check(mixed)
        told["ranks"] = sorted({lora.rank(layer) for layer in changed})
        for layer in changed:
            lora.delta(layer)

    problem = _problem(look)
    return {"refused": problem and f"{problem} (as beside a UNet of SD1.5's size)", "lora": told}


def _part(part: Part) -> dict[str, Any]:
    dtypes = part.dtypes
    told = {"tensors": len(part.places), "parameters": sum(dtypes.values()), "dtypes": list(dtypes)}
    return told | {"problem": None, "expert_only": False}


def _problem(attempt: Callable[[], object]) -> str | None:
    try:
        with enough_memory("this file is larger than there is room for"):
            attempt()
    except EmoeError as error:
        return str(error)
    return None


def _try_text(found: Checkpoint) -> None:
    from emoe.checkpoint.load_text import load_text, own_tokenizer  # transformers takes seconds to import

    load_text(found.parts["text_encoder"], own_tokenizer(found))
