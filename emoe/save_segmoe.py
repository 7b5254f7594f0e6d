"""A mixture -> a folder in SegMoE's form: diffusers' pipeline layout, mixtures and gates in the UNet's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from emoe.checkpoint.source import plain
from emoe.errors import EmoeError
from emoe.model import Model
from emoe.moe import layers_of
from emoe.unet import UNet
from emoe.vae import VAE
from emoe.whole import whole

SCHEDULER = {
    "_class_name": "DDPMScheduler",  # SegMoE's own choice
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "clip_sample": False,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "requires_safety_checker": False,
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def save_segmoe(model: Model, folder: Path, base: str, dtype: torch.dtype = torch.float16) -> None:
    """Write a folder that SegMoE's loader reads, and ours; it appears when it is whole.

    model: with a hidden gate.  base: where the rest comes from, for the record.  dtype: of the files.
    """
    if folder.exists():
        raise EmoeError(f"{folder} is there already; name another with --out")
    vae = model.vae
    with whole(folder) as new:
        new.mkdir(parents=True)
        unet_config = _unet_config(model.unet) | {"segmoe_config": _segmoe_config(model, base)}
        _save(model.unet, new / "unet", unet_config, dtype)
        _save(vae, new / "vae", _vae_config(vae), dtype)
        text = model.text.model
        _save(text, new / "text_encoder", text.config.to_dict(), dtype, "model.safetensors")
        model.text.tokenizer.save_pretrained(new / "tokenizer")
        kind = {"prediction_type": "v_prediction" if model.prediction == "v" else "epsilon"}
        _save_json(SCHEDULER | kind, new / "scheduler" / "scheduler_config.json")
        _save_json(INDEX, new / "model_index.json")


def _save(
    network: nn.Module,
    folder: Path,
    config: dict[str, Any],
    dtype: torch.dtype,
    name: str = "diffusion_pytorch_model.safetensors",
) -> None:
    """A network and its config.json. Takes a converted copy of the network; an expert that comes twice is two."""
    _save_json(config, folder / "config.json")
    state = {key: t.to("cpu", dtype, copy=True).contiguous() for key, t in network.state_dict().items()}
    save_file(state, folder / name, {"format": "pt"})


def _save_json(value: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def _segmoe_config(model: Model, base: str) -> dict[str, Any]:
    levels, with_attention = len(model.unet.config.channels), sum(model.unet.config.attention)
    return {
        "base_model": base,
        "experts": [
            {"source_model": plain(e.source), "positive_prompt": e.positive, "negative_prompt": e.negative}
            for e in model.experts
        ],
        "moe_layers": layers_of(model.unet),
        "num_experts": model.gate.experts,
        "num_experts_per_tok": model.gate.top,
        "type": "sd",
        # the levels with mixtures: the first ones on the way down, the last ones on the way up
        "down_idx_start": 0,
        "down_idx_end": with_attention,
        "up_idx_start": levels - with_attention,
        "up_idx_end": levels,
    }


def _unet_config(unet: UNet) -> dict[str, Any]:
    config = unet.config
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": config.sample_size,
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "block_out_channels": list(config.channels),
        "layers_per_block": config.depth,
        "attention_head_dim": config.heads,  # an old misnomer: the number of heads
        "cross_attention_dim": config.text_dim,
        "norm_num_groups": config.groups,
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in config.attention],
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in config.attention[::-1]],
    }


def _vae_config(vae: VAE) -> dict[str, Any]:
    config = vae.config
    levels = len(config.channels)
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": list(config.channels),
        "layers_per_block": config.depth,
        "norm_num_groups": config.groups,
        "latent_channels": config.latent_channels,
        "scaling_factor": config.scaling,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
