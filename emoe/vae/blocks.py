"""The autoencoder's layers and its down-, mid- and up-blocks.

Names are those of published checkpoints (diffusers' spelling). There is no time embedding and no text here, and all
but the attention is convolutional.

Axes: b rows, c channels, h w space.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from emoe.vae.config import VAEConfig


def norm(channels: int, config: VAEConfig) -> nn.GroupNorm:
    return nn.GroupNorm(config.groups, channels, eps=1e-6)


class Resnet(nn.Module):
    """Two convolutions, with a residual. (b, in_channels, h, w) -> (b, channels, h, w)."""

    def __init__(self, in_channels: int, channels: int, config: VAEConfig):
        super().__init__()
        self.norm1 = norm(in_channels, config)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = norm(channels, config)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv_shortcut(x) if self.conv_shortcut else x)


class Attention(nn.Module):
    """Every pixel attends to all, with a single head, and a residual. (b, c, h, w) -> the same."""

    def __init__(self, channels: int, config: VAEConfig):
        super().__init__()
        self.group_norm = norm(channels, config)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        y = rearrange(self.group_norm(x), "b c h w -> b 1 (h w) c")  # 1: the head
        y = F.scaled_dot_product_attention(self.to_q(y), self.to_k(y), self.to_v(y))
        return x + rearrange(self.to_out(y), "b 1 (h w) c -> b c h w", h=h, w=w)


class Downsample(nn.Module):
    """Half the resolution. Pads on the right and below alone, unlike the UNet's."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def resnets(in_channels: int, channels: int, count: int, config: VAEConfig) -> nn.Sequential:
    inputs = [in_channels] + [channels] * (count - 1)
    return nn.Sequential(*(Resnet(i, channels, config) for i in inputs))


class DownBlock(nn.Module):
    """The resnets of one level of the encoder, then half the resolution."""

    def __init__(self, in_channels: int, channels: int, last: bool, config: VAEConfig):
        super().__init__()
        self.resnets = resnets(in_channels, channels, config.depth, config)
        self.downsamplers = nn.Sequential(*([] if last else [Downsample(channels)]))

    def forward(self, x: Tensor) -> Tensor:
        return self.downsamplers(self.resnets(x))


class MidBlock(nn.Module):
    """Resnet, attention, resnet at the lowest resolution."""

    def __init__(self, channels: int, config: VAEConfig):
        super().__init__()
        self.resnets = resnets(channels, channels, 2, config)
        self.attentions = nn.Sequential(Attention(channels, config))

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions(self.resnets[0](x)))


class UpBlock(nn.Module):
    """The resnets of one level of the decoder, then twice the resolution."""

    def __init__(self, in_channels: int, channels: int, last: bool, config: VAEConfig):
        super().__init__()
        self.resnets = resnets(in_channels, channels, config.depth + 1, config)
        self.upsamplers = nn.Sequential(*([] if last else [Upsample(channels)]))

    def forward(self, x: Tensor) -> Tensor:
        return self.upsamplers(self.resnets(x))
