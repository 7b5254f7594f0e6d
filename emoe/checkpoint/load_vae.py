"""A checkpoint's VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from emoe.checkpoint.architecture import WIDEST
from emoe.checkpoint.parts import Part
from emoe.checkpoint.settings import positive
from emoe.errors import EmoeError, shown
from emoe.vae import VAE, VAEConfig
from emoe.vae.config import LEVELS

# Settings of diffusers' AutoencoderKL that change results and not shapes; only SD1.5's values are built here.
FIXED = {"act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None}
SDXL_SCALING = 0.13025


def load_vae(part: Part, device: Any = "cpu", dtype: torch.dtype = torch.float32) -> VAE:
    """The VAE, in float32 or bfloat16: where float16 is asked for, in float32, as some overflow it to black images.

    EmoeError for another architecture, missing tensors, weights that are not finite.
    """
    with torch.device("meta"):
        vae = VAE(vae_config(part.shapes, part.config, part.where))
    shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    for problem in part.problems(shapes):
        raise EmoeError(f"{part.where}: its VAE is not like SD1.5's: it {problem}; use another file")
    to = {"device": device, "dtype": torch.bfloat16 if dtype == torch.bfloat16 else torch.float32}
    state = {name: part.read(name, shape, **to) for name, shape in shapes.items()}
    vae.load_state_dict(state, strict=True, assign=True)
    return vae.eval().requires_grad_(False)


def vae_config(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], where: str) -> VAEConfig:
    """Levels and widths follow from the shapes; groups and scaling do not: SD1.5's where no config.json tells."""
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise EmoeError(f"{where}: its config.json sets {key} to {shown(config[key])}; only {value!r} is SD1.5")
    levels = range(_levels(shapes, where))
    try:
        channels = tuple(shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in levels)
        latent_channels = shapes["decoder.conv_in.weight"][1]
    except KeyError as error:
        raise EmoeError(f"{where}: its VAE lacks {error.args[0]}; the file is damaged, download it again") from error
    except IndexError as error:
        raise EmoeError(f"{where}: its VAE's tensors have other shapes than SD1.5's; use another file") from error
    groups = positive(config, "norm_num_groups", VAEConfig.groups, where)
    for width in (*channels, latent_channels):
        if not 1 <= width <= WIDEST:
            raise EmoeError(f"{where}: its VAE has a layer {width} wide; the file is broken, use another")
    for width in channels:
        if width % groups:
            raise EmoeError(
                f"{where}: a VAE {width} wide does not divide into {shown(groups)} groups; the config.json that "
                "belongs to it is missing or wrong"
            )
    return VAEConfig(channels=channels, groups=groups, latent_channels=latent_channels, scaling=_scaling(config, where))


def downsampling_told(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str) -> int:
    """Image pixels per latent pixel, along a side, before a VAE is loaded: SD1.5's 8 where nothing tells.

    config: its config.json, or {}.  shapes: those of its tensors, or {}.  EmoeError for a number of levels that no VAE
    has.
    """
    widths = config.get("block_out_channels")
    if widths is None:
        return 2 ** (_levels(shapes, where) - 1)
    if not isinstance(widths, list) or len(widths) not in LEVELS:
        raise EmoeError(
            f"{where}: its config.json sets block_out_channels to something else than a list of {LEVELS[0]} to "
            f"{LEVELS[-1]} widths, one a level; use another"
        )
    return 2 ** (len(widths) - 1)


def _levels(shapes: Mapping[str, tuple[int, ...]], where: str) -> int:
    """How many levels the encoder has; SD1.5's 4 without an encoder, so that a damaged file is said to lack them."""
    count = len({name.split(".")[2] for name in shapes if name.startswith("encoder.down_blocks.")}) or 4
    if count not in LEVELS:
        raise EmoeError(f"{where}: its VAE has {count} levels, not {LEVELS[0]} to {LEVELS[-1]}; use another file")
    return count


def _scaling(config: Mapping[str, Any], where: str) -> float:
    """Old configs have none."""
    value = config.get("scaling_factor")
    if value is None:
        return VAEConfig.scaling
    if value == SDXL_SCALING:
        raise EmoeError(f"{where}: its scaling_factor is {value}, SDXL's; such a VAE does not read SD1.5's latents")
    if type(value) not in (int, float) or not 1e-3 < value < 1e3:
        raise EmoeError(
            f"{where}: its config.json sets scaling_factor to {shown(value)}; it must be a number like SD1.5's "
            f"{VAEConfig.scaling}"
        )
    return float(value)
