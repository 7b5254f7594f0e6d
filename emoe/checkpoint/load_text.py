"""A checkpoint's text encoder and tokenizer."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from emoe.checkpoint.layout import Folder
from emoe.checkpoint.parts import Checkpoint, Part
from emoe.checkpoint.settings import positive
from emoe.errors import EmoeError, many, shown
from emoe.text import TextEncoder
from emoe.tokenizer import clip_tokenizer

log = logging.getLogger("emoe")

CLIP_TOKENS = 49_408
BAKED_IN = 2_048  # more tokens than this on top of CLIP's are another vocabulary
MOST_LAYERS = 48
EMBEDDING = "embeddings.token_embedding.weight"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def load_text(part: Part, tokenizer: CLIPTokenizer | None, device: Any = "cpu") -> TextEncoder:
    """The text encoder in float32, with CLIP's own tokenizer where it has no other.

    EmoeError for another architecture, missing tensors, weights that are not finite, a tokenizer of another vocabulary.
    """
    with torch.device("meta"):
        model = CLIPTextModel(text_config(part.shapes, part.config, part.where))
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    rows, kept = part.shapes[EMBEDDING][0], model.config.vocab_size
    expected[EMBEDDING] = part.shapes[EMBEDDING]
    for problem in _without_skipped_layers(part, model.config.num_hidden_layers).problems(expected):
        raise EmoeError(f"{part.where}: its text encoder is not like SD1.5's: it {problem}; use another file")
    if rows > kept:  # textual inversions; the tokenizer that knows them goes with them
        log.warning("%s: left out %s, baked in by a merge", part.where, many(rows - kept, "embedding"))
        tokenizer = None

    state = {name: part.read(name, shape, device=device, dtype=torch.float32) for name, shape in expected.items()}
    state[EMBEDDING] = state[EMBEDDING][:kept]
    model.load_state_dict(state, strict=True, assign=True)
    return TextEncoder(model.eval().requires_grad_(False), tokenizer or clip_tokenizer())


def _without_skipped_layers(part: Part, layers: int) -> Part:
    kept = {name: place for name, place in part.places.items() if _layer(name) < layers}
    return replace(part, places=kept)


def _layer(name: str) -> int:
    """The number of the layer that a tensor lies in; -1 outside of layers."""
    match = re.match(r"encoder\.layers\.(\d+)\.", name)
    return int(match[1]) if match else -1


def text_config(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], where: str) -> CLIPTextConfig:
    """CLIP's heads are 64 wide and its activation is quick_gelu, unless config.json says otherwise."""
    if isinstance(nested := config.get("text_config"), Mapping):  # a whole CLIP's
        config = nested
    try:
        vocabulary, width = shapes[EMBEDDING]
        positions = shapes["embeddings.position_embedding.weight"][0]
        inner = shapes["encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError) as error:
        raise EmoeError(f"{where}: its text encoder is incomplete ({error}); download it again") from error
    layers = 1 + max(map(_layer, shapes))
    kept = positive(config, "num_hidden_layers", layers, where)
    heads = positive(config, "num_attention_heads", max(1, width // 64), where)
    activation, eps = config.get("hidden_act", "quick_gelu"), config.get("layer_norm_eps", 1e-5)
    if positions == 248:
        raise EmoeError(f"{where}: its text encoder is LongCLIP (248 positions); SD1.5 was trained on 77")
    if vocabulary > CLIP_TOKENS + BAKED_IN:
        raise EmoeError(f"{where}: its text encoder knows {vocabulary} tokens, CLIP {CLIP_TOKENS}; use another base")
    sizes_fit = all((vocabulary, positions, inner, width)) and width % heads == 0 and kept <= layers <= MOST_LAYERS
    eps_fits = type(eps) is float and 0 < eps < 1
    if not (sizes_fit and eps_fits and activation in ("quick_gelu", "gelu")):
        raise EmoeError(
            f"{where}: {layers} layers, {width} wide, num_hidden_layers {shown(kept)}, num_attention_heads "
            f"{shown(heads)}, hidden_act {shown(activation)}, layer_norm_eps {shown(eps)} make no CLIP text encoder; "
            "its config.json is wrong, or the file broken"
        )
    return CLIPTextConfig(
        vocab_size=min(vocabulary, CLIP_TOKENS),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=kept,  # fewer than there are: clip skip
        num_attention_heads=heads,
        max_position_embeddings=positions,
        hidden_act=activation,
        layer_norm_eps=eps,
        **{"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},  # for pooling alone, which SD1.5 does not use
    )


def own_tokenizer(checkpoint: Checkpoint) -> CLIPTokenizer | None:
    """The one that lies beside a checkpoint's text encoder; None if it came without."""
    if checkpoint.folder and checkpoint.folder.has("tokenizer"):
        return load_tokenizer(checkpoint.folder.folder("tokenizer"))
    return None


def load_tokenizer(folder: Folder) -> CLIPTokenizer:
    """EmoeError if the folder holds none, or one that cannot be read."""
    paths = [folder.path(name) for name in folder.names() if name in TOKENIZER_FILES]
    if not {"tokenizer.json", "merges.txt"} & {path.name for path in paths}:
        raise EmoeError(f"{folder} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt)")
    try:
        return CLIPTokenizer.from_pretrained(paths[0].parent, local_files_only=True)
    except Exception as error:  # whatever a damaged file makes of the library
        raise EmoeError(f"the tokenizer in {folder} cannot be read ({type(error).__name__}); use another") from error
