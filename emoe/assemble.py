"""From a weights.toml's description to the networks: reach, open, check, load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from typing import NamedTuple

import torch
from transformers import CLIPTokenizer

from emoe.checkpoint.architecture import unet_config
from emoe.checkpoint.hashes import check_hash, check_hashes
from emoe.checkpoint.load_text import load_text, load_tokenizer, own_tokenizer
from emoe.checkpoint.load_unet import build, load_mixture, load_unet, mixed_shapes
from emoe.checkpoint.load_vae import downsampling_told, load_vae
from emoe.checkpoint.lora import with_loras
from emoe.checkpoint.open import examine, open_checkpoint, open_folder, open_part, part_config, reach
from emoe.checkpoint.open_lora import open_lora
from emoe.checkpoint.parts import Checkpoint
from emoe.checkpoint.source import plain
from emoe.config import Expert, Weights, check, undecidable
from emoe.errors import EmoeError, about
from emoe.gate import Gate, HiddenGate, PromptGate, UniformGate, phi
from emoe.gate_vectors import gate_vectors, hidden_gate
from emoe.moe import alike
from emoe.segmoe import with_saved_settings
from emoe.text import TextEncoder, TextStates
from emoe.unet import UNet
from emoe.vae import VAE

log = logging.getLogger("emoe")

# Where the parts of SD1.5 itself come from, for checkpoints that leave them out.
STOCK = "stable-diffusion-v1-5/stable-diffusion-v1-5"
STOCK_WIDTH = 768
SPOKEN = {"text_encoder": "text encoder", "vae": "VAE"}


class Prepared(NamedTuple):
    """A description that has been checked: only the UNets' weights are still unread."""

    weights: Weights  # with what a SegMoE mixture tells itself
    base: Checkpoint
    experts: list[Checkpoint]
    text: TextEncoder
    gate: Gate
    downsampling: int  # image pixels per latent pixel, along a side


class Assembled(NamedTuple):
    unet: UNet  # with mixtures
    text: TextEncoder
    gate: Gate
    split: str
    experts: tuple[Expert, ...]  # names and descriptors
    prediction_type: str  # what the base was trained to predict: "epsilon" or "v"
    load_vae: Callable[[], VAE]
    downsampling: int  # image pixels per latent pixel, along a side


def assemble(weights: Weights, device: torch.device, dtype: torch.dtype) -> Assembled:
    weights, base, experts, text, gate, downsampling = prepare(weights, device)
    if weights.segmoe:
        unet = load_unet(base, device=device, dtype=dtype)
    else:
        gated = weights.gate == "hidden"
        unet = load_mixture(base, experts, weights.layers, gated, device=device, dtype=dtype)
        if gated:
            gate_vectors(unet, text, weights, base.prediction_type)
    _warn_of_likeness(unet, weights)
    split = weights.split or ("ff" if weights.layers == "ff" else "attn2")
    load_vae = partial(_vae, weights, base, device, dtype)
    return Assembled(unet, text, gate, split, weights.experts, base.prediction_type, load_vae, downsampling)


def prepare(weights: Weights, device: torch.device) -> Prepared:
    """Everything that can be found wrong from headers is found here, before gigabytes are read."""
    for key, source, kind in _sources(weights):
        with about(f"{weights.path}: {key}"):
            reach(source, weights.folder, weights.revision, kind)

    base = _open(weights, "segmoe" if weights.segmoe else "base", "unet", "text_encoder")
    experts = [] if weights.segmoe else _experts(weights, base)
    weights = with_saved_settings(weights, base) if weights.segmoe else weights
    check(weights)

    downsampling = _downsampling(weights, base)
    text = _text(weights, base, device)
    return Prepared(weights, base, experts, text, _gate(weights, base, text), downsampling)


def _sources(weights: Weights) -> Iterator[tuple[str, str, str]]:
    """Every source that weights.toml names, with its key and what it has to be."""
    for key in ("base", "segmoe", "text_encoder", "vae", "tokenizer"):
        if source := getattr(weights, key):
            yield key, source, "checkpoint"
    for label, expert in zip(weights.labels, weights.experts, strict=True):
        yield label, expert.source, "checkpoint"
        for i, lora in enumerate(expert.loras):
            yield f"{label}: loras[{i}]", lora.source, "LoRA"


def _open(weights: Weights, key: str, *parts: str, source: str | None = None) -> Checkpoint:
    with about(f"{weights.path}: {key}"):
        text = source or getattr(weights, key)
        found = open_checkpoint(text, parts=parts, start=weights.folder, revision=weights.revision)
        return _verified(weights, text, found)


def _part(weights: Weights, part: str, text: str) -> Checkpoint:
    """A source that one part is taken from."""
    return _verified(weights, text, open_part(text, part, weights.folder, weights.revision))


def _verified(weights: Weights, text: str, checkpoint: Checkpoint) -> Checkpoint:
    if weights.sha256 is not None:
        check_hashes(text, checkpoint, weights.sha256)
    return checkpoint


def _experts(weights: Weights, base: Checkpoint) -> list[Checkpoint]:
    """One checkpoint an expert. What is base and expert, or expert twice, is one object, so that it is read once."""
    by_source, by_files = {weights.base: base}, {_files(base): base}
    mixed = mixed_shapes(build(base.parts["unet"]), weights.layers)
    experts = []
    for label, expert in zip(weights.labels, weights.experts, strict=True):
        if expert.source not in by_source:
            opened = _open(weights, label, "unet", source=expert.source)
            opened.release()  # only headers matter yet, and old pickles are in memory as a whole
            by_source[expert.source] = by_files.setdefault(_files(opened), opened)
        checkpoint = by_source[expert.source]
        if expert.sha256:
            with about(f"{weights.path}: {label}: sha256"):
                check_hash(checkpoint, expert.sha256)
        loras = []
        for i, lora in enumerate(expert.loras):
            with about(f"{weights.path}: {label}: loras[{i}]"):
                loras.append((_lora(weights, lora.source, mixed), lora.scale))
        experts.append(with_loras(checkpoint, loras) if loras else checkpoint)
    return experts


def _lora(weights: Weights, text: str, mixed: Mapping[str, tuple[int, ...]]) -> Checkpoint:
    """A LoRA that fits. mixed: the layers that it may change, and the shapes of their weights."""
    found = _verified(weights, text, open_lora(text, weights.folder, weights.revision))
    changed = found.parts["lora"].check(mixed)
    others, of_text = len(found.parts["lora"].layers) - len(changed), found.dropped.total()
    log.info(
        "%s: changes %d mixed layers; left out %d others of the UNet, and tensors of the text encoder (%d)",
        *(found.source, len(changed), others, of_text),
    )
    return found


def _files(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The files that a checkpoint's UNet is read from."""
    files = {id(file): file for file, _ in checkpoint.parts["unet"].places.values()}
    return tuple(sorted(str(file.path.resolve()) for file in files.values()))


def _text(weights: Weights, base: Checkpoint, device: torch.device) -> TextEncoder:
    """The text encoder that weights.toml names, else the base's, else SD1.5's own."""
    width, tokenizer = _text_width(base), _named_tokenizer(weights)
    with _owner_of("text_encoder", weights, base) as owner:
        if "text_encoder" not in owner.parts:
            raise EmoeError(f"{owner.source} has no text encoder; name one that is {width} wide under text_encoder")
        text = load_text(owner.parts["text_encoder"], tokenizer or own_tokenizer(owner), device)
        found = text.model.config.hidden_size
        if found != width:
            raise EmoeError(f"the text encoder of {owner.source} is {found} wide, the base's UNet reads {width}")
    return text


def _vae(weights: Weights, base: Checkpoint, device: torch.device, dtype: torch.dtype) -> VAE:
    """The VAE that weights.toml names, else the base's, else SD1.5's own. Only images need it."""
    if base.folder and not weights.vae and "vae" not in base.parts:  # of a folder, only what scores need is open
        with about(f"{weights.path}: {_key(weights, 'vae')}"):
            base = _part(weights, "vae", weights.segmoe or weights.base)
    with _owner_of("vae", weights, base) as owner:
        if "vae" not in owner.parts:
            raise EmoeError(f"{owner.source} has no VAE; name one under vae")
        vae = load_vae(owner.parts["vae"], device, dtype)
        owner.release()
    return vae


def _downsampling(weights: Weights, base: Checkpoint) -> int:
    """Image pixels per latent pixel, along a side. Told by headers alone, as scoring loads no VAE."""
    source, shapes, settings = weights.vae or weights.segmoe or weights.base, {}, {}
    with about(f"{weights.path}: {_key(weights, 'vae')}"):
        if weights.vae or base.folder:
            settings = part_config(source, "vae", weights.folder, weights.revision)
        elif "vae" in base.parts:
            shapes = base.parts["vae"].shapes
        return downsampling_told(settings, shapes, plain(source))


def _key(weights: Weights, part: str) -> str:
    """The key of weights.toml that names where a part comes from."""
    return part if getattr(weights, part) else "segmoe" if weights.segmoe else "base"


@contextmanager
def _owner_of(part: str, weights: Weights, base: Checkpoint) -> Iterator[Checkpoint]:
    """The checkpoint that a part comes from; errors inside begin with the key that names it."""
    own = getattr(weights, part)
    with about(f"{weights.path}: {_key(weights, part)}"):
        if own:
            yield _part(weights, part, own)
        elif needs_stock(part, base):
            log.warning("%s has no %s; using the one of %s", base.source, SPOKEN[part], STOCK)
            yield _verified(weights, STOCK, examine(STOCK, parts=(part,)))
        else:
            yield base


def needs_stock(part: str, base: Checkpoint) -> bool:
    """Whether SD1.5's own part takes the place of one that the base lacks."""
    return part not in base.parts and _text_width(base) == STOCK_WIDTH


def _text_width(base: Checkpoint) -> int:
    part = base.parts["unet"]
    return unet_config(part.shapes, part.config, part.where).text_dim


def _named_tokenizer(weights: Weights) -> CLIPTokenizer | None:
    """The one that weights.toml names."""
    if not weights.tokenizer:
        return None
    with about(f"{weights.path}: tokenizer"):
        folder = open_folder(weights.tokenizer, weights.folder, weights.revision)
        return load_tokenizer(folder.folder("tokenizer") if folder.has("tokenizer") else folder)


def _gate(weights: Weights, base: Checkpoint, text: TextEncoder) -> Gate:
    count = len(weights.experts)
    if weights.gate == "uniform":
        return UniformGate(count)
    if weights.gate == "hidden" and weights.segmoe:  # whose vectors are there
        return HiddenGate(count, weights.top)
    positive, negative = _checked_descriptors(weights, text)  # capturing encodes them again
    if weights.gate == "hidden":
        return hidden_gate(weights, base.prediction_type)
    return PromptGate(positive, negative, weights.top, weights.temperature)


def _checked_descriptors(weights: Weights, text: TextEncoder) -> tuple[TextStates, TextStates]:
    """The experts' positive and negative descriptors, encoded; a warning for those that are cut.

    EmoeError where CLIP reads two experts' as equal, so that no prompt tells them apart.
    """
    positive, negative = text([e.positive for e in weights.experts]), text([e.negative for e in weights.experts])
    for key, states in (("positive", positive), ("negative", negative)):
        for label, cut in zip(weights.labels, states.truncated, strict=True):
            if cut:
                log.warning("%s: %s is longer than %d tokens; the rest of it is not seen", label, key, text.length)
    where = "without a negative prompt" if weights.gate == "prompt" else "in the keys and values of cross-attention"
    for i, j in combinations(range(len(weights.experts)), 2) if weights.top < len(weights.experts) else ():
        same = [torch.equal(directions[i], directions[j]) for directions in (phi(positive), phi(negative))]
        if all(same):
            raise undecidable(weights, i, j)
        if same[0]:
            log.warning(
                "%s and %s have the same positive: %s, the first always comes before the second",
                *(weights.labels[i], weights.labels[j], where),
            )
    return positive, negative


def _warn_of_likeness(unet: UNet, weights: Weights) -> None:
    pairs = [f"{weights.labels[i]} and {weights.labels[j]}" for i, j in alike(unet)]
    if pairs:
        log.warning(
            "almost the same (mixed layers less than 0.1 %% apart), so that their agreement means little: %s",
            "; ".join(pairs),
        )
