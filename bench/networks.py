"""Networks with random weights, made in memory: benches of speed need no files."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from emoe.device import choose_device
from emoe.moe import mix
from emoe.text import TextEncoder
from emoe.tokenizer import clip_tokenizer
from emoe.unet import UNet, UNetConfig

SMALL = UNetConfig(channels=(32, 64, 128, 128), text_dim=64)


def random_unet(config: UNetConfig, experts: int = 0, layers: str = "all", **to: Any) -> UNet:
    """Dense, or with mixtures and gate vectors. Weights keep activations near unit scale. to: device and dtype."""
    with torch.device("meta"):
        unet = UNet(config)
        if experts:
            mix(unet, experts, layers, gated=True)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(t.shape, generator=generator) / max(1, t[0].numel()) ** 0.5 if t.ndim > 1
        else torch.full(t.shape, float(name.endswith("weight")))
        for name, t in unet.state_dict().items()
    }  # fmt: skip
    unet.load_state_dict({name: t.to(**to) for name, t in state.items()}, strict=True, assign=True)
    return unet.eval().requires_grad_(False)


def twin(unet: UNet, experts: int) -> UNet:
    """Another module over the same tensors, of mixtures of so many experts."""
    with torch.device("meta"):
        new = mix(UNet(unet.config), experts, gated=True)
    new.load_state_dict(unet.state_dict(), strict=True, assign=True)
    return new.eval().requires_grad_(False)


def random_text(small: bool, device: torch.device) -> TextEncoder:
    """SD1.5's text encoder."""
    torch.manual_seed(0)
    width, layers = (64, 2) if small else (768, 12)
    config = CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers)
    config.num_attention_heads, config.bos_token_id, config.eos_token_id = width // 64, 49406, 49407
    return TextEncoder(CLIPTextModel(config).eval().requires_grad_(False).to(device), clip_tokenizer())


def inputs(unet: UNet, rows: int = 1, size: int = 512) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, timestep, text states."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(rows, unet.config.latent_channels, size // 8, size // 8, generator=generator)
    text = torch.randn(rows, 77, unet.config.text_dim, generator=generator)
    device, dtype = unet.conv_in.weight.device, unet.conv_in.weight.dtype
    return latents.to(device, dtype), torch.tensor([961], device=device), text.to(device, dtype)


def read_options(doc: str | None, rounds: int) -> tuple[argparse.Namespace, dict[str, Any]]:
    """What every bench of networks is asked, and device and dtype, as `emoe score` chooses them."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small widths, under 20 s")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    options.config = SMALL if options.small else UNetConfig()
    device, dtype = choose_device(options.device, options.dtype)
    return options, {"device": device, "dtype": dtype}
