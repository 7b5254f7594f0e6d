"""A checkpoint's VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from emoe.checkpoint.architecture import WIDEST
from emoe.checkpoint.parts import Part
from emoe.checkpoint.settings import positive
from emoe.errors import EmoeError
from emoe.vae import VAE, VAEConfig

# Settings of diffusers' AutoencoderKL that change results and not shapes; only SD1.5's values are built here.
FIXED = {"act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None}


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
    """Widths follow from the shapes; groups and scaling do not, and are SD1.5's where no config.json tells."""
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise EmoeError(f"{where}: its config.json sets {key} to {config[key]!r}; only {value!r} is SD1.5")
    try:
        channels = tuple(shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(4))
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
                f"{where}: a VAE {width} wide does not divide into {groups} groups; the config.json that belongs to it "
                "is missing or wrong"
            )
    return VAEConfig(channels=channels, groups=groups, latent_channels=latent_channels, scaling=_scaling(config, where))


def _scaling(config: Mapping[str, Any], where: str) -> float:
    """Old configs have none."""
    value = config.get("scaling_factor")
    if value is None:
        return VAEConfig.scaling
    if type(value) not in (int, float) or not 1e-3 < value < 1e3:
        raise EmoeError(
            f"{where}: its config.json sets scaling_factor to {value!r}; it must be a number like SD1.5's "
            f"{VAEConfig.scaling}"
        )
    return float(value)
