"""The peers: diffusers' UNet, and SegMoE's blocks in it, with our weights. Without the extra `bench`, None."""

from __future__ import annotations

import logging

import torch
from torch import nn

from emoe.moe import mixed_layers
from emoe.unet import UNet

MISSING = "not installed (pip install -e '.[bench]')"


def diffusers_unet(unet: UNet) -> nn.Module | None:
    """diffusers' UNet of the same shape, on the meta device."""
    try:
        from diffusers import UNet2DConditionModel
    except ImportError:
        return None
    config = unet.config
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=config.sample_size,
            block_out_channels=config.channels,
            cross_attention_dim=config.text_dim,
            attention_head_dim=config.heads,
            norm_num_groups=config.groups,
        ).eval()


def dense_peer(unet: UNet) -> nn.Module | None:
    """diffusers' UNet, sharing a dense UNet's tensors."""
    return _sharing(diffusers_unet(unet), unet)


def segmoe_peer(unet: UNet, layers: str, experts: int, top: int) -> nn.Module | None:
    """diffusers' UNet with SegMoE's blocks, sharing the tensors of a mixed UNet that has gate vectors."""
    theirs = diffusers_unet(unet)
    try:
        logging.disable(logging.WARNING)
        from segmoe.main import SparseMoeBlock
    except ImportError:
        return None
    finally:
        logging.disable(logging.NOTSET)
    with torch.device("meta"):
        for name in mixed_layers(UNet(unet.config), layers):
            layer = theirs.get_submodule(name)
            weight = next(layer.parameters())
            config = {"hidden_size": weight.shape[1], "num_experts_per_tok": top, "num_local_experts": experts}
            if isinstance(layer, nn.Linear):
                config["out_dim"] = layer.out_features
            parent, _, leaf = name.rpartition(".")
            setattr(theirs.get_submodule(parent), leaf, SparseMoeBlock(config, [layer] * experts))
    return _sharing(theirs, unet)


def _sharing(theirs: nn.Module | None, ours: UNet) -> nn.Module | None:
    if theirs is not None:
        theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
        theirs.requires_grad_(False)
    return theirs
