"""A small CLIP, trained on pictures and captions of the world's covered part.

Its text tower is Stable Diffusion's text encoder here; whole, it measures how well pictures fit their prompts.

Contrast alone taught so small a CLIP colours and sizes, but no places and few shapes: to tell a picture's caption from
others at random, it needs neither. A UNet then cannot draw what its text encoder does not tell. So half of a batch are
scenes that differ in their places at most, four at a time, and both towers also learn to name what a scene holds.

Axes: b pairs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from emoe.miniature.clip import LENGTH, tokens
from emoe.miniature.judge import ANSWERS, Seen
from emoe.miniature.render import SIDE
from emoe.miniature.train.data import Examples, captions
from emoe.miniature.train.fit import Log, fit
from emoe.miniature.train.judge import mistakes, right_answers
from emoe.miniature.world import Scene, World

WIDTH = 64
ALIKE = 4  # scenes that differ in their places at most, side by side in a batch
NAMING = 1.0  # how much naming counts beside the contrast
PLACES = 10.0  # how much larger position embeddings of pictures are at first


def train_clip(
    world: World, examples: Examples, tokenizer: CLIPTokenizer, seed: int, log: Log, steps: int, batch: int = 192
) -> CLIPModel:
    torch.manual_seed(seed)
    rng = numpy.random.default_rng(seed)
    clip = new_clip(tokenizer)
    with torch.no_grad():
        clip.vision_model.embeddings.position_embedding.weight.mul_(PLACES)
    naming = nn.ModuleList([nn.Linear(WIDTH, ANSWERS), nn.Linear(WIDTH, ANSWERS)])
    right, families = right_answers(examples.scenes), alike(examples.scenes)

    def loss(step: int) -> Tensor:
        chosen = rng.integers(len(families), size=batch // 2 // ALIKE)
        some = [rng.choice(families[i], ALIKE, replace=False) for i in chosen]
        rows = torch.from_numpy(numpy.concatenate([*some, rng.integers(len(examples), size=batch // 2)]))
        ids = tokens(tokenizer, captions(world, [examples.scenes[i] for i in rows], rng))
        out = clip(input_ids=ids, pixel_values=examples.pixels(rows), return_loss=True)
        towers = (out.vision_model_output.pooler_output, out.text_model_output.pooler_output)
        answers = Seen(*(answer[rows] for answer in right))
        named = [mistakes(Seen.split(head(pooled)), answers) for head, pooled in zip(naming, towers, strict=True)]
        return out.loss + NAMING * sum(named)

    trained = fit(nn.ModuleList([clip, naming]), loss, steps, 2e-3, "clip", log, average=0.99)
    return trained[0]


def alike(scenes: list[Scene]) -> list[list[int]]:
    """Rows of scenes that are alike but for their places; where there are enough of them."""
    families = defaultdict(list)
    for row, scene in enumerate(scenes):
        things = tuple(replace(thing, position="") for thing in scene.things)
        families[replace(scene, things=things)].append(row)
    return [rows for rows in families.values() if len(rows) >= ALIKE]


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
