"""A small CLIP, trained on pictures and captions of the world's covered part.

Its text tower is Stable Diffusion's text encoder here; whole, it measures how well pictures fit their prompts.

Axes: b pairs.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from emoe.miniature.clip import LENGTH, tokens
from emoe.miniature.render import SIDE
from emoe.miniature.train.data import Examples, captions
from emoe.miniature.train.fit import Log, fit
from emoe.miniature.world import World

WIDTH = 64


def train_clip(
    world: World, examples: Examples, tokenizer: CLIPTokenizer, seed: int, log: Log, steps: int, batch: int = 192
) -> CLIPModel:
    torch.manual_seed(seed)
    rng = numpy.random.default_rng(seed)
    clip = new_clip(tokenizer)

    def loss(step: int) -> Tensor:
        rows = torch.from_numpy(rng.integers(len(examples), size=batch))
        texts = captions(world, [examples.scenes[i] for i in rows], rng)
        ids = tokens(tokenizer, texts)
        return clip(input_ids=ids, pixel_values=examples.pixels(rows), return_loss=True).loss

    return fit(clip, loss, steps, 1.5e-3, "clip", log, average=0.99)


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = {
        "vocab_size": len(tokenizer.get_vocab()),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
