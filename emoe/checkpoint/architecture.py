"""From a UNet's shapes, and its config.json where there is one, to its numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from emoe.checkpoint.settings import positive
from emoe.errors import EmoeError, shown
from emoe.unet import UNetConfig

Shapes = Mapping[str, tuple[int, ...]]

# Settings of diffusers' UNet that change results and not shapes; only SD1.5's values are built here.
FIXED = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
}
WIDEST = 2**14  # SD1.5's widest layer has 1,280; a file without a single number can name any width
FULL_SIZE = 64  # latent pixels per side; what a file without a config was trained on
LARGEST_SIZE = 1024  # a config must not ask for all of the memory


def unet_config(shapes: Shapes, config: Mapping[str, Any], where: str) -> UNetConfig:
    """Widths follow from the shapes; heads, groups and size do not, and are SD1.5's where no config.json tells."""
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise EmoeError(f"{where}: its config.json sets {key} to {shown(config[key])}; only {value!r} is SD1.5")
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    try:
        channels = tuple(shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(4))
        text = shapes[f"{block}.weight" if f"{block}.weight" in shapes else f"{block}.experts.0.weight"]
        text_dim, latent_channels = text[1], shapes["conv_in.weight"][1]
    except KeyError as error:
        raise EmoeError(f"{where}: its UNet lacks {error.args[0]}; the file is damaged, download it again") from error
    except IndexError as error:
        raise EmoeError(f"{where}: its UNet's tensors have other shapes than SD1.5's; use another file") from error
    heads, groups = _heads(config, where), positive(config, "norm_num_groups", UNetConfig.groups, where)
    for width in (*channels, text_dim, latent_channels):
        if not 1 <= width <= WIDEST:
            raise EmoeError(f"{where}: its UNet has a layer {width} wide; the file is broken, use another")
    for width in channels:
        if width % heads or width % groups:
            raise EmoeError(
                f"{where}: a UNet {width} wide does not divide into {shown(heads)} heads and {shown(groups)} groups; "
                "the config.json that belongs to it is missing or wrong"
            )
    return UNetConfig(
        channels=channels,
        heads=heads,
        groups=groups,
        text_dim=text_dim,
        latent_channels=latent_channels,
        sample_size=_sample_size(config, where),
    )


def tells_all(shapes: Shapes, config: Mapping[str, Any]) -> bool:
    """Whether heads and groups are known: from a config.json, or as SD1.5's own where they go with the widths.

    An expert need not tell them, for mixtures take them from the base.
    """
    widths = [(shapes.get(f"down_blocks.{i}.resnets.0.conv1.weight") or (0,))[0] for i in range(4)]
    return bool(config) or not any(width % UNetConfig.heads or width % UNetConfig.groups for width in widths)


def _heads(config: Mapping[str, Any], where: str) -> int:
    """`attention_head_dim` is the NUMBER of heads: an old mistake that every SD1.5 config keeps."""
    key = "num_attention_heads" if config.get("num_attention_heads") else "attention_head_dim"
    heads = config.get(key)
    if isinstance(heads, list) and heads and all(type(other) is int and other == heads[0] for other in heads):
        heads = heads[0]
    if isinstance(heads, list):
        raise EmoeError(
            f"{where}: its config.json sets {key} to {shown(heads)}, other heads on every level; SD1.x has one number"
        )
    return positive({key: heads}, key, UNetConfig.heads, where)


def _sample_size(config: Mapping[str, Any], where: str) -> int:
    """Configs written before diffusers 0.9 say 32 for networks trained on 64."""
    size = positive(config, "sample_size", FULL_SIZE, where)
    if size > LARGEST_SIZE:
        raise EmoeError(
            f"{where}: its config.json sets sample_size to {shown(size)}; it must be at most {LARGEST_SIZE}"
        )
    version = config.get("_diffusers_version")
    old = isinstance(version, str) and re.match(r"0\.[0-8](\.|$)", version)
    return max(size, FULL_SIZE) if old else size
