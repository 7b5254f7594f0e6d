"""What others make of the same: diffusers' networks and schedulers, SegMoE's pipeline. A test without them skips."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import dense_peer
from torch import nn

from emoe.schedule import timesteps
from emoe.unet import UNet
from emoe.vae import VAEConfig


def unet_twin(unet: UNet) -> nn.Module:
    """diffusers' UNet with the tensors of ours: every one has its name and shape there."""
    pytest.importorskip("diffusers")
    return dense_peer(unet)


def vae_twin(config: VAEConfig) -> nn.Module:
    """diffusers' VAE of the same size, with random weights."""
    diffusers = pytest.importorskip("diffusers")
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(config.channels),
        up_block_types=("UpDecoderBlock2D",) * len(config.channels),
        block_out_channels=config.channels,
        layers_per_block=config.depth,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
    ).eval()


def scheduler_twin(name: str, kind: str, steps: int) -> Any:
    """diffusers' scheduler that takes the steps `name` does, on the same timesteps."""
    diffusers = pytest.importorskip("diffusers")
    told = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "prediction_type": {"epsilon": "epsilon", "v": "v_prediction"}[kind]}  # fmt: skip
    leading = {"timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False}
    if name == "dpm++":
        scheduler = diffusers.DPMSolverMultistepScheduler(**told)
        scheduler.set_timesteps(timesteps=timesteps(steps))
        return scheduler
    if name == "ddim":
        scheduler = diffusers.DDIMScheduler(**told, **leading, set_alpha_to_one=False)
    else:
        scheduler = diffusers.DDPMScheduler(**told, **leading)
    scheduler.set_timesteps(steps)
    return scheduler


def segmoe_twin(folder: Path) -> Any:
    """SegMoE's own pipeline, from a folder."""
    module = pytest.importorskip("segmoe")
    logging.disable(logging.WARNING)
    found = module.SegMoEPipeline(str(folder), device="cpu", torch_dtype=torch.float32)
    logging.disable(logging.NOTSET)
    return found.pipe
