"""Does a checkpoint compute here what it computes in diffusers? For the first machine with real weights.

python bench/parity.py --small          a small random checkpoint, under 20 s
python bench/parity.py                  a random one of SD1.5's size (four minutes on 2 cores, 11 GB, 2 GB of disk)
python bench/parity.py SOURCE           a real one: a file, a folder, owner/name on the Hub, civitai:VERSION
python bench/parity.py SOURCE --lora L  and what a LoRA makes of the layers that are mixed

Text states, the predicted noise and the mid-block at timestep 961, a decoded latent, and an image of a few steps, with
guidance, from one noise: float32 throughout, the largest difference over the largest value. Exit code 1 if one is more
than rounding explains.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from card import show
from networks import SMALL, random_text, random_unet
from peers import MISSING
from torch import Tensor

from emoe.checkpoint.load_text import load_text, own_tokenizer
from emoe.checkpoint.load_unet import load_unet, mixed_shapes
from emoe.checkpoint.load_vae import load_vae
from emoe.checkpoint.lora import with_loras
from emoe.checkpoint.open import locate, open_checkpoint
from emoe.checkpoint.open_lora import open_lora
from emoe.checkpoint.parts import Checkpoint
from emoe.checkpoint.save import save_pipeline
from emoe.checkpoint.source import Hub, parse
from emoe.denoise import denoise
from emoe.device import choose_device
from emoe.errors import EmoeError
from emoe.images import to_images
from emoe.schedule import noises
from emoe.text import TextEncoder
from emoe.unet import UNet, UNetConfig
from emoe.vae import VAE, VAEConfig

EXACT, IMAGE = 1e-4, 3 / 255  # what rounding may do; images are of 256 steps
PROMPT, NEGATIVE, GUIDANCE, T, SEED = "a red bus in the rain, oil painting", "blurry, low quality", 7.5, 961, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", metavar="SOURCE")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--lora", metavar="SOURCE", help="a LoRA for it (diffusers takes it with peft)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=5, help="of the image (default: %(default)s)")
    options = parser.parse_args()
    try:
        compare(options)
    except EmoeError as error:
        sys.exit(f"parity.py: {error}")


def compare(options: argparse.Namespace) -> None:
    device, dtype = choose_device(options.device, "float32")
    with source_of(options) as source:
        checkpoint = open_checkpoint(source)
        pipe = diffusers_pipeline(source, checkpoint.prediction_type)
        if pipe is None:
            rows: list[dict[str, Any]] = [{"what": "diffusers", "apart": MISSING}]
        else:
            pipe = pipe.to(device, torch.float32)
            rows = compared(*ours(checkpoint, device), pipe, checkpoint.prediction_type, options.steps)
            rows += [with_lora(checkpoint, options.lora, pipe)] if options.lora else []
        show(
            "Does a checkpoint compute here what it computes in diffusers?",
            rows,
            source=options.source or "random",
            scored_on=str(device),
            dtype=str(dtype),
            steps=options.steps,
        )
        if others := [row["what"] for row in rows if row.get("alike") == "no"]:
            sys.exit(f"parity.py: emoe and diffusers do not agree on {', '.join(others)}")


@contextmanager
def source_of(options: argparse.Namespace) -> Iterator[str]:
    """What was named, or a folder with random weights."""
    if options.source:
        yield options.source
        return
    with tempfile.TemporaryDirectory() as folder:
        write_random(Path(folder), options.small)
        yield folder


def write_random(folder: Path, small: bool) -> None:
    unet = random_unet(replace(SMALL, sample_size=16) if small else UNetConfig())
    vae = VAE(VAEConfig(channels=(32, 64, 128, 128)) if small else VAEConfig()).requires_grad_(False)
    save_pipeline(folder, unet, vae, random_text(small, torch.device("cpu")))


def ours(checkpoint: Checkpoint, device: torch.device) -> tuple[UNet, TextEncoder, VAE]:
    """A checkpoint as emoe loads it, without a mixture."""
    parts, tokenizer = checkpoint.parts, own_tokenizer(checkpoint)
    unet = load_unet(checkpoint, device=device, dtype=torch.float32)
    return unet, load_text(parts["text_encoder"], tokenizer, device), load_vae(parts["vae"], device)


def diffusers_pipeline(source: str, prediction_type: str) -> Any:
    """The same as diffusers loads it; None if it is not installed."""
    try:
        from diffusers import DDIMScheduler, StableDiffusionPipeline
    except ImportError:
        return None
    kind = {"prediction_type": "v_prediction" if prediction_type == "v" else "epsilon"}
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="leading",
        steps_offset=1,
        **kind,
    )
    folder, names = locate(source)
    settings = {"safety_checker": None, "scheduler": scheduler}
    if names:
        return StableDiffusionPipeline.from_single_file(folder.path(next(iter(names.values()))), **settings)
    found = parse(source)
    if isinstance(found, Hub):
        return StableDiffusionPipeline.from_pretrained(found.repo, revision=found.revision, **settings)
    return StableDiffusionPipeline.from_pretrained(found.path, **settings)


@torch.inference_mode()
def compared(
    unet: UNet, text: TextEncoder, vae: VAE, pipe: Any, prediction_type: str, steps: int
) -> list[dict[str, Any]]:
    pipe.set_progress_bar_config(disable=True)
    device, side = unet.conv_in.weight.device, unet.config.sample_size
    states = text([PROMPT, NEGATIVE]).states
    told = pipe.encode_prompt(PROMPT, device, 1, True, NEGATIVE)
    rows = [row("text states", states, torch.cat(told))]

    seen: dict[str, Tensor] = {}
    hook = pipe.unet.mid_block.register_forward_hook(lambda _, args, out: seen.update(m_post=out))
    shape = (1, unet.config.latent_channels, side, side)
    z, t = next(noises(SEED, shape)).to(device), torch.tensor([T], device=device)
    found, expected = unet(z, t, states[:1]), pipe.unet(z, t, states[:1]).sample
    hook.remove()
    rows.append(row(f"what the UNet predicts at {T}", found.prediction, expected))
    rows.append(row("its mid-block", found.m_post, seen["m_post"]))
    rows.append(row("a decoded latent", vae.decode(z), pipe.vae.decode(z / vae.config.scaling).sample))

    start = noises(SEED, shape)
    settings = {"steps": steps, "guidance": GUIDANCE, "prediction_type": prediction_type}
    *_, last = denoise(unet, start, states[:1], states[1:], None, **settings)
    image = torch.tensor(numpy.asarray(to_images(vae, last.latents[0])[0])).float()
    theirs = pipe(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        latents=z,
        output_type="np",
    )
    rows.append(row(f"an image of {steps} steps", image, torch.tensor(theirs.images[0] * 255).round(), IMAGE))
    return rows


def with_lora(checkpoint: Checkpoint, source: str, pipe: Any) -> dict[str, Any]:
    """The weights of the layers that are mixed, as the LoRA leaves them."""
    opened = open_lora(source)
    ours = load_unet(with_loras(checkpoint, [(opened, 1.0)]), dtype=torch.float32)
    tensors, alphas = pipe.lora_state_dict(str(opened.files[0].path), unet_config=pipe.unet.config)
    pipe.load_lora_into_unet(tensors, network_alphas=alphas, unet=pipe.unet)
    pipe.unet.fuse_lora()
    pipe.unet.unload_lora()
    layers = list(mixed_shapes(ours, "all"))
    weights = [torch.cat([net.get_submodule(n).weight.cpu().flatten() for n in layers]) for net in (ours, pipe.unet)]
    return row("a LoRA's mixed layers", *weights)


def row(what: str, ours: Tensor, theirs: Tensor, most: float = EXACT) -> dict[str, Any]:
    apart = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
    return {"what": what, "apart": apart, "at most": most, "alike": "yes" if apart <= most else "no"}


if __name__ == "__main__":
    main()
