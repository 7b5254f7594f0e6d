"""Networks -> a folder in diffusers' layout, as the Hub keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from emoe.text import TextEncoder
from emoe.unet import UNet
from emoe.vae import VAE

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


def save_pipeline(
    folder: Path,
    unet: UNet,
    vae: VAE,
    text: TextEncoder,
    prediction_type: str = "epsilon",
    dtype: torch.dtype = torch.float16,
    **unet_settings: Any,
) -> None:
    """All parts of a checkpoint. unet_settings: what its config.json says besides."""
    save_unet(folder / "unet", unet, dtype, **unet_settings)
    save(vae, folder / "vae", _vae_config(vae), dtype)
    save(text.model, folder / "text_encoder", text.model.config.to_dict(), dtype, "model.safetensors")
    text.tokenizer.save_pretrained(folder / "tokenizer")
    kind = {"prediction_type": "v_prediction" if prediction_type == "v" else "epsilon"}
    save_json(SCHEDULER | kind, folder / "scheduler" / "scheduler_config.json")
    save_json(INDEX, folder / "model_index.json")


def save_unet(folder: Path, unet: UNet, dtype: torch.dtype = torch.float16, **settings: Any) -> None:
    save(unet, folder, unet_json(unet) | settings, dtype)


def save(
    network: nn.Module,
    folder: Path,
    config: dict[str, Any],
    dtype: torch.dtype,
    name: str = "diffusion_pytorch_model.safetensors",
) -> None:
    """A network and its config.json. Takes a converted copy of the network; an expert that comes twice is two."""
    save_json(config, folder / "config.json")
    state = {key: t.to("cpu", dtype, copy=True).contiguous() for key, t in network.state_dict().items()}
    save_file(state, folder / name, {"format": "pt"})


def save_json(value: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def unet_json(unet: UNet) -> dict[str, Any]:
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
