"""One small checkpoint, written in every form in which SD1.5 files reach users."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from random_experts import random, shapes
from safetensors.torch import save_file
from torch import Tensor

from emoe.checkpoint import names

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
State = dict[str, Tensor]


def state(seed: int) -> State:
    """A small SD1.5 checkpoint in the original names, fp16."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: random(name, shape, generator) for name, shape in shapes(full=False).items()}
    return {name: t if name.endswith("position_ids") else t.half() for name, t in tensors.items()}


def below(state: State, prefix: str) -> State:
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def unet(state: State) -> State:
    """In diffusers' names."""
    return {names.unet_from_ldm(name): tensor for name, tensor in below(state, UNET).items()}


def vae(state: State, old: bool = False) -> State:
    """In diffusers' names; `old` are those before 2023, today's attention weights are matrices."""
    ours = {names.vae_from_ldm(name): tensor for name, tensor in below(state, VAE).items()}
    ours = {n: t[:, :, 0, 0] if ".attentions." in n and t.ndim == 4 else t for n, t in ours.items()}
    spelling = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"} if old else {}
    return {_replaced(name, spelling): tensor for name, tensor in ours.items()}


def _replaced(name: str, spelling: dict[str, str]) -> str:
    for new, old in spelling.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


def text(state: State, prefix: str = "") -> State:
    return {prefix + name: tensor for name, tensor in below(state, TEXT).items() if not name.endswith("position_ids")}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def wide(state: State) -> State:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def safetensors(path: Path, state: State, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata or None)
    return path


def shards(folder: Path, stem: str, extension: str, state: State, variant: str = "") -> None:
    """Two shards and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    for i, part in enumerate((list(state)[::2], list(state)[1::2]), start=1):
        name = f"{stem}{variant}-0000{i}-of-00002.{extension}"
        tensors = {key: state[key].contiguous() for key in part}
        save_file(tensors, folder / name) if extension == "safetensors" else torch.save(tensors, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.{extension}.index{variant}.json").write_text(json.dumps(index))


def save_config(folder: Path) -> None:
    """The config.json files that go with the small widths, as diffusers and transformers write them."""
    configs = {
        "unet": {"block_out_channels": [32, 64, 128, 128], "attention_head_dim": 8, "cross_attention_dim": 64,
                 "norm_num_groups": 32, "sample_size": 64, "in_channels": 4, "_diffusers_version": "0.30.0"},
        "text_encoder": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "eos_token_id": 2,
                         "num_attention_heads": 1, "hidden_act": "quick_gelu", "vocab_size": 49408},
    }  # fmt: skip
    for part, config in configs.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))


def hub(folder: Path, unet: State, text: State, vae: State, variant: str = "", extension: str = "safetensors") -> Path:
    save_config(folder)
    stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
    stems["text_encoder"] = "model" if extension == "safetensors" else "pytorch_model"
    for part, state in (("unet", unet), ("text_encoder", text), ("vae", vae)):
        (folder / part).mkdir(exist_ok=True)
        path = folder / part / f"{stems[part]}{variant}.{extension}"
        safetensors(path, state) if extension == "safetensors" else torch.save(state, path)
    return folder


def lightning(path: Path, state: State, legacy: bool = False) -> Path:
    """An original .ckpt: Lightning's wrapping, with the globals that such files ask for."""
    package = types.ModuleType("pytorch_lightning")
    callbacks = types.ModuleType("pytorch_lightning.callbacks")
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    checkpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = checkpoint
    fakes = {m.__name__: m for m in (package, callbacks, module)}
    wrapping = {
        "state_dict": state,
        "epoch": 3,
        "global_step": 470_000,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {checkpoint: {"best_model_score": numpy.float64(0.5), "monitor": "val/loss"}},
    }
    sys.modules.update(fakes)
    try:
        torch.save(wrapping, path, _use_new_zipfile_serialization=not legacy)
    finally:
        for name in fakes:
            del sys.modules[name]
    return path


def pickled(path: Path, tree: object, legacy: bool = False) -> Path:
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    return path


def junk(state: State) -> State:
    """What original files carry along: an EMA copy, schedule buffers, a corrupted position table, a logit scale."""
    ema = {
        "model_ema." + name[len("model.") :].replace(".", ""): t + 1
        for name, t in state.items()
        if name.startswith(UNET)
    }
    return state | ema | {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(1),
        "alphas_cumprod": torch.rand(1000).half(),
        "betas": torch.rand(1000),
        "sqrt_one_minus_alphas_cumprod": torch.rand(1000),
        "cond_stage_model.logit_scale": torch.tensor(1.0),
        f"{TEXT}embeddings.position_ids": torch.arange(77)[None].half() * 0.583,
    }  # fmt: skip


def hybrid_vae(state: State) -> State:
    """Old "convert back" scripts left diffusers' attention names in LDM files."""
    found = {}
    for name, tensor in state.items():
        if ".mid.attn_1." in name:
            head, leaf, kind = name.rsplit(".", 2)
            leaf = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0", "norm": "group_norm"}[leaf]
            name, tensor = f"{head}.{leaf}.{kind}", tensor.squeeze()
        found[name] = tensor
    return found


def matrices(state: State) -> State:
    """1x1 convolutions as matrices, as some converters write proj_in and proj_out."""
    return {n: t[:, :, 0, 0] if n.endswith((".proj_in.weight", ".proj_out.weight")) else t for n, t in state.items()}


def without(state: State, *prefixes: str) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def _flat_text_ldm(s: State) -> State:
    """NovelAI's descendants, and tools that save transformers >= 5.6 under the old prefix."""
    return without(s, TEXT) | text(s, "cond_stage_model.transformer.")


# Name -> how to write it: (folder, state) -> the source.
Writer = Callable[[Path, State], Path]
COMPLETE: dict[str, Writer] = {
    "ldm-fp16": lambda f, s: safetensors(f / "a.safetensors", s),
    "ldm-fp32": lambda f, s: safetensors(f / "a.safetensors", wide(s)),
    "ldm-wrong-extension": lambda f, s: safetensors(f / "a.ckpt", s),
    "ldm-flat-text": lambda f, s: safetensors(f / "a.safetensors", _flat_text_ldm(s)),
    "ldm-junk": lambda f, s: safetensors(f / "a.safetensors", junk(s)),
    "ldm-hybrid-vae": lambda f, s: safetensors(f / "a.safetensors", hybrid_vae(s)),
    "ldm-no-vae": lambda f, s: safetensors(f / "a.safetensors", without(s, VAE)),
    "ldm-matrices": lambda f, s: safetensors(f / "a.safetensors", matrices(s)),
    "ckpt-bare": lambda f, s: pickled(f / "a.ckpt", s),
    "ckpt-state-dict": lambda f, s: pickled(f / "a.ckpt", {"state_dict": s, "epoch": 1}),
    "ckpt-nested": lambda f, s: pickled(f / "a.ckpt", {"state_dict": {"state_dict": s}}),
    "ckpt-wrong-extension": lambda f, s: pickled(f / "a.safetensors", {"state_dict": s}),
    "ckpt-legacy": lambda f, s: pickled(f / "a.ckpt", {"state_dict": s}, legacy=True),
    "ckpt-parameters": lambda f, s: pickled(
        f / "a.ckpt", {n: torch.nn.Parameter(t, requires_grad=False) for n, t in s.items()}
    ),
    "ckpt-lightning": lambda f, s: lightning(f / "a.ckpt", s),
    "ckpt-lightning-legacy": lambda f, s: lightning(f / "a.ckpt", s, legacy=True),
    "prefixed-diffusers": lambda f, s: safetensors(
        f / "a.safetensors", prefixed("unet.", unet(s)) | prefixed("vae.", vae(s)) | text(s, "text_encoder.")
    ),
    "hub-flat-text": lambda f, s: hub(f / "a", unet(s), text(s), vae(s)),
    "hub-old-names": lambda f, s: hub(f / "a", unet(s), text(s, "text_model."), vae(s, old=True)),
    "hub-fp16-variant": lambda f, s: hub(f / "a", unet(s), text(s), vae(s), variant=".fp16"),
    "hub-bin": lambda f, s: hub(f / "a", unet(s), text(s, "text_model."), vae(s, old=True), extension="bin"),
    "hub-with-projection": lambda f, s: hub(
        f / "a", unet(s), text(s, "text_model.") | {"text_projection.weight": torch.zeros(64, 64)}, vae(s)
    ),
}


def hub_sharded(folder: Path, state: State, extension: str = "safetensors", variant: str = "") -> Path:
    hub(folder / "a", {}, text(state), vae(state))
    (folder / "a" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    shards(folder / "a" / "unet", "diffusion_pytorch_model", extension, unet(state), variant)
    return folder / "a"


COMPLETE |= {
    "hub-shards": hub_sharded,
    "hub-shards-fp16": lambda f, s: hub_sharded(f, s, variant=".fp16"),
    "hub-shards-bin": lambda f, s: hub_sharded(f, s, extension="bin"),
}

UNET_ONLY: dict[str, Writer] = {
    "unet-ldm": lambda f, s: safetensors(f / "b.safetensors", below(s, UNET)),
    "unet-ldm-prefix": lambda f, s: safetensors(f / "b.safetensors", prefixed("diffusion_model.", below(s, UNET))),
    "unet-diffusers": lambda f, s: safetensors(f / "b.safetensors", unet(s)),
    "unet-bf16": lambda f, s: safetensors(f / "b.safetensors", {n: t.bfloat16() for n, t in unet(s).items()}),
    "unet-fp8": lambda f, s: safetensors(
        f / "b.safetensors", {n: t.to(torch.float8_e4m3fn) for n, t in unet(s).items()}
    ),
    "unet-folder": lambda f, s: safetensors(f / "b" / "diffusion_pytorch_model.safetensors", unet(s)).parent,
    "no-text-no-vae": lambda f, s: safetensors(f / "b.safetensors", without(s, TEXT, VAE)),
}
