"""Train the miniature from nothing: `python -m emoe.miniature.train --work FOLDER`.

Every stage leaves its float32 result in the work folder and is not run again while that is there, so that the same
command goes on after a stop. The last stage writes the files that are shipped to FOLDER/weights. Everything is seeded;
two runs on one machine give the same files. Another machine, or another number of threads, rounds otherwise, and after
thousands of steps the weights are others, of the same quality.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from emoe.miniature.judge import Judge
from emoe.miniature.languages import LANGUAGES
from emoe.miniature.train import clip, unet, vae
from emoe.miniature.train.data import captions, draw
from emoe.miniature.train.experts import Lesson, bootstrap_family, style_family
from emoe.miniature.train.fit import Log
from emoe.miniature.train.judge import train_judge
from emoe.miniature.train.samples import save_samples
from emoe.miniature.train.ship import ship
from emoe.miniature.train.tokenizer import train_tokenizer
from emoe.miniature.world import World
from emoe.text import TextEncoder
from emoe.unet import UNet
from emoe.vae import VAE

Network = TypeVar("Network", bound=nn.Module)

EXAMPLES, LESSON = 40_000, 8_000  # pictures: for the base, for an expert
MERGES = 1_000
STEPS = {"clip": 1_500, "vae": 1_500, "start": 2_500, "middle": 1_500, "base": 1_300, "expert": 100, "judge": 1_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("miniature-training"))
    parser.add_argument("--threads", type=int, help="of torch's (default: torch's own choice)")
    parser.add_argument("--help-out", action="store_true", help="a second process: train experts from the last one on")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    train(options.work, World(), options.help_out)


def train(work: Path, world: World, help_out: bool = False) -> None:
    log = Log(work / "log.jsonl")
    examples = draw(world, EXAMPLES, seed=1)

    rng = numpy.random.default_rng(2)
    told = [text for name in LANGUAGES for text in captions(world, examples.scenes[:3000], rng, name)]
    tokenizer = train_tokenizer(told, MERGES)

    whole_clip = _stage(
        work / "clip.safetensors",
        lambda: clip.new_clip(tokenizer),
        lambda: clip.train_clip(world, examples, tokenizer, 3, log, STEPS["clip"]),
    )
    text = _text_encoder(whole_clip, tokenizer)

    autoencoder = _stage(
        work / "vae.safetensors",
        lambda: VAE(vae.CONFIG),
        lambda: vae.train_vae(examples, 4, log, STEPS["vae"]),
    )
    autoencoder.config = vae.scaled(autoencoder, examples)
    latents = vae.to_latents(autoencoder, examples)

    def train_base(stage: str, start: UNet, seed: int, rate: float, prediction: str, early: bool) -> UNet:
        def make() -> UNet:
            how = (STEPS[stage], rate, prediction, early)
            return unet.train_unet(start, world, examples, latents, text, seed, log, stage, *how)

        return _stage(work / f"{stage}.safetensors", lambda: unet.new_unet(5), make)

    start = train_base("start", unet.new_unet(5), 6, 2e-3, "epsilon", early=False)
    middle = train_base("middle", start, 8, 1.5e-3, "v", early=False)
    base = train_base("base", middle, 9, 1.5e-3, "v", early=True)
    save_samples(base, autoencoder, text, world, work / "base.png")

    def train_expert(lesson: Lesson, seed: int) -> UNet:
        own = draw(world, LESSON, seed, lesson.styles, lesson.keep)
        seen = vae.to_latents(autoencoder, own)
        expert = unet.train_unet(
            base, world, own, seen, text, seed, log, lesson.name, STEPS["expert"], rate=1e-3, average=0.98
        )
        save_samples(expert, autoencoder, text, world, work / f"{lesson.name}.png")
        return expert

    families = {"style": style_family(), "bootstrap": bootstrap_family(world, seed=7)}
    lessons = [lesson for family in families.values() for lesson in family]
    experts = {
        lesson.name: _stage(
            work / f"{lesson.name}.safetensors",
            lambda: unet.new_unet(5),
            lambda lesson=lesson, seed=seed: train_expert(lesson, seed),
        )
        for seed, lesson in list(enumerate(lessons, start=10))[:: -1 if help_out else 1]
    }
    if help_out:
        return
    judge = _stage(work / "judge.safetensors", Judge, lambda: train_judge(EXAMPLES, 20, log, STEPS["judge"]))
    ship(work / "weights", base, autoencoder, text, whole_clip, judge, families, experts)


def _text_encoder(whole_clip: CLIPModel, tokenizer: CLIPTokenizer) -> TextEncoder:
    """The text tower by itself, as Stable Diffusion uses it."""
    tower = CLIPTextModel(whole_clip.config.text_config)
    tower.load_state_dict(whole_clip.text_model.state_dict())
    return TextEncoder(tower.eval().requires_grad_(False), tokenizer)


def _stage(path: Path, empty: Callable[[], Network], make: Callable[[], Network]) -> Network:
    """What an earlier run left, or a new one."""
    if not path.exists():
        made = make()
        new = path.with_suffix(".part")
        save_file({name: tensor.contiguous() for name, tensor in made.state_dict().items()}, new)
        os.replace(new, path)
    network = empty()
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
