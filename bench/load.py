"""Time and memory to build a mixture from four fp16 files, beside SegMoE's builder and the size of what is built.

python bench/load.py --small            small widths, 25 s
python bench/load.py                    SD1.5's size (17 GB on disk, 7 GB of memory, five minutes)

Each build has a process of its own, whose peak counts from after the imports; pages of mapped files are part of it.
Files are read once before, so that all builds find them in the system's cache. SegMoE, whose loader asks the network
about single files, gets the same weights as folders, VAEs included, and is spared the denoising that makes its gates.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from card import peak_memory, show
from peers import MISSING
from random_experts import DESCRIPTORS, write_mixture

from emoe import EMoE
from emoe.checkpoint.load_text import load_text
from emoe.checkpoint.load_unet import load_unet
from emoe.checkpoint.load_vae import load_vae
from emoe.checkpoint.open import open_checkpoint
from emoe.checkpoint.save import save_pipeline


class Built(NamedTuple):
    seconds: float
    peak: float  # GB above what the imports took
    model: float  # GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rounds = 1 if options.small else options.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_mixture(folder, full=not options.small)
        builds: dict[str, Callable[[], Built]] = {
            "emoe, float32": lambda: _apart(ours, weights, "float32"),
            "emoe, float16": lambda: _apart(ours, weights, "float16"),
        }
        if importlib.util.find_spec("segmoe"):
            config = _folders(folder)
            builds["SegMoE, float16, no gates"] = lambda: _apart(segmoes, config)
        for path in folder.rglob("*.safetensors"):
            path.read_bytes()
        found: dict[str, list[Built]] = {name: [] for name in builds}
        for _ in range(rounds):
            for name, build in builds.items():
                found[name].append(build())
    rows = [_row(name, results) for name, results in found.items()]
    told = {} if len(builds) == 3 else {"SegMoE": MISSING}
    show("What does it cost to build a mixture from four files?", rows, rounds=rounds, **told)


def _apart(build: Callable[..., Built], *arguments: Any) -> Built:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(build, *arguments).result()


def ours(weights: Path, dtype: str) -> Built:
    before, start = peak_memory(), time.perf_counter()
    model = EMoE.from_toml(weights, device="cpu", dtype=dtype)
    seconds, peak = time.perf_counter() - start, peak_memory() - before
    return Built(seconds, peak, _size(model.unet, model.text.model))


def segmoes(config: Path) -> Built:
    logging.disable(logging.WARNING)
    from segmoe import SegMoEPipeline

    before, start = peak_memory(), time.perf_counter()
    pipe = SegMoEPipeline(str(config), device="cpu", torch_dtype=torch.float16).pipe
    seconds, peak = time.perf_counter() - start, peak_memory() - before
    return Built(seconds, peak, _size(pipe.unet, pipe.text_encoder, pipe.vae))


def _folders(folder: Path) -> Path:
    """The same checkpoints in diffusers' layout; what a small expert lacks, the first one gives. SegMoE's config."""
    first = open_checkpoint(str(folder / "expert_1.safetensors"))
    experts = []
    for number, (positive, negative) in enumerate(DESCRIPTORS, start=1):
        own = open_checkpoint(str(folder / f"expert_{number}.safetensors"))
        parts = first.parts | own.parts
        unet, vae = load_unet(own, device="cpu", dtype=torch.float16), load_vae(parts["vae"])
        save_pipeline(folder / str(number), unet, vae, load_text(parts["text_encoder"], None))
        told = {"source_model": str(folder / str(number)), "positive_prompt": positive, "negative_prompt": negative}
        experts.append(told)
    config = {"base_model": str(folder / "1"), "experts": experts, "moe_layers": "all", "num_experts_per_tok": 2}
    path = folder / "segmoe.yaml"
    path.write_text(json.dumps(config | {"type": "sd", "init": "none"}))  # JSON is YAML
    return path


def _size(*networks: torch.nn.Module) -> float:
    """GB"""
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters()) / 1e9


def _row(name: str, results: list[Built]) -> dict[str, object]:
    best = min(results)
    return {
        "build": name,
        "s": best.seconds,
        "model GB": best.model,
        "peak GB": best.peak,
        "peak over model": best.peak / best.model,
    }


if __name__ == "__main__":
    main()
