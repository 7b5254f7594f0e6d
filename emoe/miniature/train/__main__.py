"""Train the miniature from nothing: `python -m emoe.miniature.train --work FOLDER`.

Every stage leaves its float32 result in the work folder and is not run again while that is there, so that the same
command goes on after a stop. The last stage writes the files that are shipped to FOLDER/weights. Everything is seeded;
two runs on one machine give the same files. Another machine, or another number of threads, rounds otherwise, and after
thousands of steps the weights are others, of the same quality.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from emoe.errors import EmoeError
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

EXAMPLES, LESSON = 40_000, 4_000  # pictures: for the base, for an expert
MERGES = 1_000
STEPS = {"clip": 1_800, "vae": 1_500, "first": 3_000, "base": 1_800, "expert": 80, "judge": 1_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("miniature-training"))
    parser.add_argument("--threads", type=int, help="of torch's (default: torch's own choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    try:
        train(options.work, World())
    except EmoeError as error:
        parser.error(str(error))


def train(work: Path, world: World) -> None:
    """EmoeError if the work folder is of another training."""
    _check(work / "settings.json", asdict(world) | STEPS | {"examples": EXAMPLES, "lesson": LESSON})
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

    base = unet.new_unet(5)
    for seed, (name, rate) in enumerate({"first": 2.5e-3, "base": 2e-3}.items(), start=6):  # warmed up again once
        how = (seed, log, name, STEPS[name], rate)
        base = _stage(
            work / f"{name}.safetensors",
            lambda: unet.new_unet(5),
            lambda start=base, how=how: unet.train_unet(start, world, examples, latents, text, *how),
        )
    save_samples(base, autoencoder, text, world, work / "base.png")

    def train_expert(lesson: Lesson, seed: int) -> UNet:
        own = draw(world, LESSON, seed, lesson.styles, lesson.keep)
        seen = vae.to_latents(autoencoder, own)
        how = (STEPS["expert"], 2e-3)
        return unet.train_unet(base, world, own, seen, text, seed, log, lesson.name, *how, average=0.95)

    families = {"style": style_family(), "bootstrap": bootstrap_family(world, seed=7)}
    lessons = [lesson for family in families.values() for lesson in family]
    experts = {
        lesson.name: _stage(
            work / f"{lesson.name}.safetensors",
            lambda: unet.new_unet(5),
            lambda lesson=lesson, seed=seed: train_expert(lesson, seed),
        )
        for seed, lesson in enumerate(lessons, start=10)
    }
    judge = _stage(work / "judge.safetensors", Judge, lambda: train_judge(EXAMPLES, 20, log, STEPS["judge"]))
    ship(work / "weights", base, autoencoder, text, whole_clip, judge, families, experts)


def _check(path: Path, settings: dict[str, Any]) -> None:
    """What earlier stages left under other settings would go into the weights unseen."""
    text = json.dumps(settings, indent=1) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise EmoeError(f"{path.parent} holds a training under other settings; name another with --work")
    path.write_text(text, encoding="utf-8")


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
