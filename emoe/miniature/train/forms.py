"""The trained experts, written in the forms in which users meet checkpoints: no two of a family alike.

They predict v, and each form has its own way to say so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from emoe.checkpoint.names import unet_to_ldm
from emoe.checkpoint.save import SCHEDULER, save_json, unet_json
from emoe.unet import UNet

LDM = "model.diffusion_model."
STEM = "diffusion_pytorch_model"
State = dict[str, Tensor]


def half(unet: UNet) -> State:
    return {name: tensor.half().contiguous() for name, tensor in unet.state_dict().items()}


def original(unet: UNet) -> State:
    """In the names of the first Stable Diffusion."""
    return {f"{LDM}{unet_to_ldm(name)}": tensor for name, tensor in half(unet).items()}


# Single files --------------------------------------------------------------------------------------------------------


def single_file(unet: UNet, path: Path) -> str:
    """A Civitai download; its metadata say what it predicts."""
    path = path.with_suffix(".safetensors")
    save_file(original(unet), path, {"modelspec.prediction_type": "v"})  # of two entries, the order would be random
    return path.name


def pickled(unet: UNet, path: Path) -> str:
    """A checkpoint as the training code of 2022 left it, with the settings beside it that web UIs read."""
    torch.save({"state_dict": original(unet), "global_step": 100}, path.with_suffix(".ckpt"))
    path.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n', encoding="utf-8")
    return path.with_suffix(".ckpt").name


def unprefixed(unet: UNet, path: Path) -> str:
    """A UNet alone, in diffusers' names, with the empty tensor that ComfyUI marks v-prediction by."""
    path = path.with_suffix(".safetensors")
    save_file(half(unet) | {"v_pred": torch.zeros(0)}, path)
    return path.name


def comfy(unet: UNet, path: Path) -> str:
    """A UNet alone, in the original names without "model.", as ComfyUI saves diffusion models; the same mark."""
    path = path.with_suffix(".safetensors")
    state = {name.removeprefix("model."): tensor for name, tensor in original(unet).items()}
    save_file(state | {"v_pred": torch.zeros(0)}, path)
    return path.name


# Hub repositories ----------------------------------------------------------------------------------------------------


def folder(unet: UNet, path: Path) -> str:
    save_file(half(unet), _settings(unet, path) / f"{STEM}.safetensors", {"format": "pt"})
    return path.name


def variant(unet: UNet, path: Path) -> str:
    """One that says in the name that it is half precision."""
    save_file(half(unet), _settings(unet, path) / f"{STEM}.fp16.safetensors", {"format": "pt"})
    return path.name


def shards(unet: UNet, path: Path) -> str:
    """In two pieces and an index."""
    inner, state, place = _settings(unet, path), half(unet), {}
    for number, some in enumerate((list(state)[::2], list(state)[1::2]), start=1):
        name = f"{STEM}-0000{number}-of-00002.safetensors"
        save_file({key: state[key] for key in some}, inner / name, {"format": "pt"})
        place |= dict.fromkeys(some, name)
    index = {"metadata": {}, "weight_map": dict(sorted(place.items()))}
    (inner / f"{STEM}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return path.name


def _settings(unet: UNet, path: Path) -> Path:
    """The JSON files of a repository; returns its folder for the UNet."""
    (path / "unet").mkdir(parents=True)
    save_json(unet_json(unet), path / "unet" / "config.json")
    save_json(SCHEDULER | {"prediction_type": "v_prediction"}, path / "scheduler" / "scheduler_config.json")
    return path / "unet"


STYLE: tuple[Callable[[UNet, Path], str], ...] = (single_file, folder, pickled, unprefixed)
BOOTSTRAP: tuple[Callable[[UNet, Path], str], ...] = (shards, variant, comfy, single_file)
