"""From a weights.toml's description to the networks: open, check, load."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from emoe.checkpoint.architecture import positive
from emoe.checkpoint.checkpoint import Checkpoint, examine, open_checkpoint, open_folder, reach
from emoe.checkpoint.detect import SEGMOE
from emoe.checkpoint.download import file_sha256
from emoe.checkpoint.layout import Folder
from emoe.checkpoint.load_text import load_text
from emoe.checkpoint.load_unet import load_mixture, load_unet
from emoe.config import Expert, Weights, check
from emoe.errors import EmoeError
from emoe.gate import Gate, HiddenGate, PromptGate, UniformGate
from emoe.moe import alike, layers_of, mixtures
from emoe.text import TextEncoder
from emoe.unet import UNet

log = logging.getLogger("emoe")

# Where the parts of SD1.5 itself come from, for checkpoints that leave them out.
STOCK = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def assemble(weights: Weights, device: torch.device, dtype: torch.dtype) -> tuple[UNet, TextEncoder, Gate, str]:
    """Returns the mixed UNet, the text encoder, the gate, and where the split is."""
    for source in _sources(weights):
        reach(source, weights.folder, weights.revision)
    base, unet, weights = (_segmoe if weights.segmoe else _mixture)(weights, device=device, dtype=dtype)
    check(weights)
    for i, j in alike(unet):
        log.warning(
            "experts %d and %d are almost the same (their mixed layers differ by less than 0.1 %%): their agreement "
            "means little",
            *(i + 1, j + 1),
        )
    text = _text(weights, base, unet.config.text_dim, device)
    split = weights.split or ("ff" if weights.layers == "ff" else "attn2")
    return unet, text, _gate(weights, text), split


def _mixture(weights: Weights, **to: Any) -> tuple[Checkpoint, UNet, Weights]:
    base = _open(weights, weights.base, "unet", "text_encoder")
    opened = {_identity(base): base}  # what is base and expert, or expert twice, is one object and read once
    experts = []
    for expert in weights.experts:
        checkpoint = _open(weights, expert.source, "unet")
        checkpoint = opened.setdefault(_identity(checkpoint), checkpoint)
        _verify(expert, checkpoint)
        experts.append(checkpoint)
    return base, load_mixture(base, experts, weights.layers, **to), weights


def _segmoe(weights: Weights, **to: Any) -> tuple[Checkpoint, UNet, Weights]:
    """A mixture that SegMoE saved; what weights.toml leaves open, its config tells."""
    base = _open(weights, weights.segmoe, "unet", "text_encoder")
    if base.kind.name != SEGMOE:
        raise EmoeError(
            f"{weights.path}: segmoe names {base.kind.name}; name it as base and expert, or a SegMoE folder"
        )
    unet = load_unet(base, **to)
    count = len(next(iter(mixtures(unet).values())).experts)
    config = base.part("unet").config.get("segmoe_config")
    config = config if isinstance(config, dict) else {}
    told = [entry for entry in config.get("experts") or [] if isinstance(entry, dict)]
    told += [{}] * (count - len(told))
    experts = [Expert(weights.segmoe, _str(e.get("positive_prompt")), _str(e.get("negative_prompt"))) for e in told]
    gate = weights.gate or "hidden"
    usual = min(count, positive(config, "num_experts_per_tok", 2, base.source))
    top = weights.top or (None if gate == "uniform" else usual)
    weights = replace(weights, experts=tuple(experts[:count]), layers=layers_of(unet), gate=gate, top=top)
    if gate == "hidden" and any(mixture.gate is None for mixture in mixtures(unet).values()):
        raise EmoeError(f'{weights.path}: {weights.segmoe} holds no gate vectors; set gate = "prompt"')
    return base, unet, weights


def _str(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _open(weights: Weights, source: str, *parts: str) -> Checkpoint:
    return open_checkpoint(source, parts=parts, base=weights.folder, revision=weights.revision)


def _sources(weights: Weights) -> list[str]:
    """Every source that will be read."""
    named = [
        weights.base,
        weights.segmoe,
        *(e.source for e in weights.experts),
        weights.text_encoder,
        weights.tokenizer,
    ]
    return [source for source in named if source]


def _identity(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The files a UNet is read from."""
    files = {file.path.resolve() for file, _ in checkpoint.part("unet").places.values()}
    return tuple(sorted(map(str, files)))


def _verify(expert: Expert, checkpoint: Checkpoint) -> None:
    if expert.sha256 is None:
        return
    files = _identity(checkpoint)
    if len(files) != 1:
        raise EmoeError(f"{expert.source} is {len(files)} files, for which one sha256 cannot stand; delete it")
    found = file_sha256(Path(files[0]))
    if found != expert.sha256.lower():
        raise EmoeError(
            f"{expert.source} has the SHA256 {found}, weights.toml says {expert.sha256}; it is another file"
        )


def _text(weights: Weights, base: Checkpoint, width: int, device: torch.device) -> TextEncoder:
    """The text encoder that weights.toml names, else the base's, else SD1.5's own."""
    owner = base
    if weights.text_encoder:
        owner = examine(weights.text_encoder, parts=("text_encoder",), base=weights.folder, revision=weights.revision)
    elif "text_encoder" not in base.parts:
        if width != 768:
            raise EmoeError(f"{base.source} has no text encoder; name one under text_encoder")
        log.warning("%s has no text encoder; using the one of %s", base.source, STOCK)
        owner = open_checkpoint(STOCK, parts=("text_encoder",))
    part = owner.part("text_encoder")
    found = part.shapes["final_layer_norm.weight"][0] if "final_layer_norm.weight" in part.shapes else None
    if found not in (None, width):
        raise EmoeError(
            f"{part.where}: its text encoder is {found} wide, the UNet reads {width}; they do not go together"
        )
    return load_text(part, _tokenizer(weights, owner), device)


def _tokenizer(weights: Weights, owner: Checkpoint) -> Folder | None:
    if weights.tokenizer:
        folder = open_folder(weights.tokenizer, weights.folder, weights.revision)
        return folder.folder("tokenizer") if folder.has("tokenizer") else folder
    if owner.folder and owner.folder.has("tokenizer"):
        return owner.folder.folder("tokenizer")
    return None


def _gate(weights: Weights, text: TextEncoder) -> Gate:
    count = len(weights.experts)
    if weights.gate == "uniform":
        return UniformGate(count)
    if weights.gate == "hidden":
        return HiddenGate(count, weights.top)
    positive, negative = text([e.positive for e in weights.experts]), text([e.negative for e in weights.experts])
    for key, states in (("positive", positive), ("negative", negative)):
        for number, cut in enumerate(states.truncated, start=1):
            if cut:
                log.warning("expert %d: %s is longer than %d tokens; the rest is not seen", number, key, text.length)
    return PromptGate(positive, negative, weights.top, weights.temperature)
