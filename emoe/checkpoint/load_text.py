"""A checkpoint's text encoder and tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from emoe.checkpoint.architecture import positive
from emoe.checkpoint.checkpoint import Part
from emoe.checkpoint.layout import Folder
from emoe.errors import EmoeError
from emoe.text import TextEncoder, clip_tokenizer

log = logging.getLogger("emoe")

CLIP_TOKENS = 49_408
BAKED_IN = 2_048  # more tokens than this on top of CLIP's are another vocabulary
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def load_text(part: Part, tokenizer: Folder | None, device: Any = "cpu") -> TextEncoder:
    """The text encoder in float32; with CLIP's own tokenizer where the checkpoint brings none."""
    config = text_config(part.shapes, part.config, part.where)
    with torch.device("meta"):
        model = CLIPTextModel(config)
    embedding = "embeddings.token_embedding.weight"
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    expected[embedding] = part.shapes[embedding]  # may have rows on top of CLIP's
    for problem in _without_skipped_layers(part, config.num_hidden_layers).problems(expected):
        raise EmoeError(f"{part.where}: its text encoder is not like SD1.5's: it {problem}; use another file")

    state = {name: part.read(name, shape, device=device, dtype=torch.float32) for name, shape in expected.items()}
    state[embedding] = state[embedding][: config.vocab_size]
    model.load_state_dict(state, strict=True, assign=True)
    return TextEncoder(model.eval().requires_grad_(False), _tokenizer(tokenizer) if tokenizer else clip_tokenizer())


def _without_skipped_layers(part: Part, layers: int) -> Part:
    kept = {
        n: place for n, place in part.places.items() if n.split(".")[1] != "layers" or int(n.split(".")[2]) < layers
    }
    return replace(part, places=kept)


def text_config(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], where: str) -> CLIPTextConfig:
    """CLIP's heads are 64 wide and its activation is quick_gelu, unless config.json says otherwise."""
    try:
        vocabulary, width = shapes["embeddings.token_embedding.weight"]
        positions = shapes["embeddings.position_embedding.weight"][0]
        inner = shapes["encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError) as error:
        raise EmoeError(f"{where}: its text encoder is incomplete ({error}); download it again") from error
    if positions == 248:
        raise EmoeError(f"{where}: its text encoder is LongCLIP (248 positions); SD1.5 was trained on 77")
    if vocabulary > CLIP_TOKENS + BAKED_IN:
        raise EmoeError(f"{where}: its text encoder knows {vocabulary} tokens, CLIP {CLIP_TOKENS}; use another base")
    if vocabulary > CLIP_TOKENS:
        log.warning("%s: its %d baked-in embeddings are left out", where, vocabulary - CLIP_TOKENS)
    layers = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.layers."))
    return CLIPTextConfig(
        vocab_size=min(vocabulary, CLIP_TOKENS),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=min(layers, positive(config, "num_hidden_layers", layers, where)),  # fewer: clip skip
        num_attention_heads=positive(config, "num_attention_heads", max(1, width // 64), where),
        max_position_embeddings=positions,
        hidden_act=config.get("hidden_act", "quick_gelu"),
        layer_norm_eps=config.get("layer_norm_eps", 1e-5),
        **{"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},  # for pooling alone, which SD1.5 does not use
    )


def _tokenizer(folder: Folder) -> CLIPTokenizer:
    paths = [folder.path(name) for name in folder.names() if name in TOKENIZER_FILES]
    if not {"tokenizer.json", "merges.txt"} & {path.name for path in paths}:
        raise EmoeError(f"{folder} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt)")
    try:
        return CLIPTokenizer.from_pretrained(paths[0].parent, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise EmoeError(f"the tokenizer in {folder} cannot be read ({reason}); use another") from error
