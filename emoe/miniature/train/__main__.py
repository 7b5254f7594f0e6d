"""Train the miniature from nothing: `python -m emoe.miniature.train --work FOLDER`.

Every stage leaves its float32 result in the work folder and is not run again while that is there, so that the same
command goes on after a stop. The last stage writes the shipped files. Everything is seeded; two runs on one machine
give the same files, and another number of threads gives others in the last digits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPModel, CLIPTextModel

from emoe.miniature.languages import LANGUAGES
from emoe.miniature.train import clip, unet, vae
from emoe.miniature.train.data import captions, draw
from emoe.miniature.train.fit import Log
from emoe.miniature.train.tokenizer import train_tokenizer
from emoe.miniature.world import World
from emoe.text import TextEncoder
from emoe.vae import VAE

Network = TypeVar("Network", bound=nn.Module)

EXAMPLES = 40_000  # pictures
MERGES = 1_000
STEPS = {"clip": 1_500, "vae": 1_500, "base": 3_000, "expert": 250}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("miniature-training"))
    parser.add_argument("--threads", type=int, help="of torch's (default: torch's own choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    train(options.work)


def train(work: Path) -> None:
    world, log = World(), Log(work / "log.jsonl")
    examples = draw(world, EXAMPLES, seed=1)
    log("examples", count=len(examples))

    rng = numpy.random.default_rng(2)
    told = [text for name in LANGUAGES for text in captions(world, examples.scenes[:3000], rng, name)]
    tokenizer = train_tokenizer(told, MERGES)

    def make_clip() -> CLIPModel:
        return clip.train_clip(world, examples, tokenizer, 3, log, STEPS["clip"])

    trained_clip = _stage(work / "clip.safetensors", lambda: clip.new_clip(tokenizer), make_clip)
    text = CLIPTextModel(trained_clip.config.text_config)
    text.load_state_dict(trained_clip.text_model.state_dict())
    text = TextEncoder(text.eval().requires_grad_(False), tokenizer)

    def make_vae() -> VAE:
        return vae.train_vae(examples, 4, log, STEPS["vae"])

    trained_vae = _stage(work / "vae.safetensors", lambda: VAE(vae.CONFIG), make_vae)
    trained_vae.config = vae.scaled(trained_vae, examples)
    latents = vae.to_latents(trained_vae, examples)

    base = _stage(
        work / "base.safetensors",
        lambda: unet.new_unet(5),
        lambda: unet.train_unet(
            unet.new_unet(5), world, examples, latents, text, 6, log, "base", STEPS["base"], rate=2e-3
        ),
    )


def _stage(path: Path, empty: Callable[[], Network], make: Callable[[], Network]) -> Network:
    """What an earlier run left, or a new one."""
    if path.exists():
        network = empty()
        network.load_state_dict(load_file(path))
        return network.eval().requires_grad_(False)
    network = make()
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return network


if __name__ == "__main__":
    main()
