"""The trained experts, written in the forms in which users meet checkpoints: no two of a family alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from emoe.checkpoint.names import unet_to_ldm
from emoe.checkpoint.save import save_json, unet_config
from emoe.unet import UNet

LDM = "model.diffusion_model."
STEM = "diffusion_pytorch_model"
State = dict[str, Tensor]


def half(unet: UNet) -> State:
    return {name: tensor.half().contiguous() for name, tensor in unet.state_dict().items()}


def original(unet: UNet) -> State:
    """In the names of the first Stable Diffusion."""
    return {f"{LDM}{unet_to_ldm(name)}": tensor for name, tensor in half(unet).items()}


def single_file(unet: UNet, path: Path) -> str:
    """A Civitai download."""
    path = path.with_suffix(".safetensors")
    save_file(original(unet), path)
    return path.name


def pickled(unet: UNet, path: Path) -> str:
    """A checkpoint as the training code of 2022 left it."""
    path = path.with_suffix(".ckpt")
    torch.save({"state_dict": original(unet), "global_step": 250}, path)
    return path.name


def folder(unet: UNet, path: Path) -> str:
    """A Hub repository."""
    (path / "unet").mkdir(parents=True)
    save_json(unet_config(unet), path / "unet" / "config.json")
    save_file(half(unet), path / "unet" / f"{STEM}.safetensors", {"format": "pt"})
    return path.name


def variant(unet: UNet, path: Path) -> str:
    """A Hub repository that says in the name that it is half precision."""
    folder(unet, path)
    (path / "unet" / f"{STEM}.safetensors").rename(path / "unet" / f"{STEM}.fp16.safetensors")
    return path.name


def shards(unet: UNet, path: Path) -> str:
    """A Hub repository, in two pieces and an index."""
    (path / "unet").mkdir(parents=True)
    save_json(unet_config(unet), path / "unet" / "config.json")
    state, place = half(unet), {}
    for number, some in enumerate((list(state)[::2], list(state)[1::2]), start=1):
        name = f"{STEM}-0000{number}-of-00002.safetensors"
        save_file({key: state[key] for key in some}, path / "unet" / name, {"format": "pt"})
        place |= dict.fromkeys(some, name)
    index = {"metadata": {}, "weight_map": dict(sorted(place.items()))}
    (path / "unet" / f"{STEM}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return path.name


def binary(unet: UNet, path: Path) -> str:
    """A Hub repository of 2022: a pickle."""
    (path / "unet").mkdir(parents=True)
    save_json(unet_config(unet), path / "unet" / "config.json")
    torch.save(half(unet), path / "unet" / f"{STEM}.bin")
    return path.name


def unprefixed(unet: UNet, path: Path) -> str:
    """A UNet alone, in diffusers' names, as some web UIs export it."""
    path = path.with_suffix(".safetensors")
    save_file(half(unet), path)
    return path.name


STYLE: tuple[Callable[[UNet, Path], str], ...] = (single_file, folder, pickled, unprefixed)
BOOTSTRAP: tuple[Callable[[UNet, Path], str], ...] = (shards, variant, binary, single_file)
