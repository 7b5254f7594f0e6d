"""The UNet's convolutional parts and its down-, mid- and up-blocks.

Axes: b rows (samples, or paths after the split), c channels, h w space.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emoe.route import Route, match_paths
from emoe.unet.attention import Transformer2D
from emoe.unet.config import UNetConfig


class TimeEmbedding(nn.Module):
    """Timestep (b,) -> (b, 4c): a sinusoid of width c, then a small MLP."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, 4 * channels)
        self.linear_2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        half = self.channels // 2
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        angle = t[:, None].float() * torch.exp(-math.log(10_000) * index / half)
        wave = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(wave)))


class Resnet(nn.Module):
    """Two convolutions around the time embedding, with a residual."""

    def __init__(self, in_channels: int, channels: int, config: UNetConfig):
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * config.channels[0], channels)
        self.norm2 = nn.GroupNorm(config.groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else None

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x (b, c, h, w), temb (b, 4c) -> (b, channels, h, w)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + match_paths(self.time_emb_proj(F.silu(temb)), y)[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv_shortcut(x) if self.conv_shortcut else x)


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class NoAttention(nn.Module):
    """Stands where the lowest level has no transformer, so that all levels read alike. Holds no weights."""

    def forward(self, x: Tensor, text: Tensor, route: Route | None = None) -> Tensor:
        return x


def transformers(channels: int, level: int, count: int, config: UNetConfig) -> nn.ModuleList:
    """What follows each resnet of a level."""
    layer = (lambda: Transformer2D(channels, config)) if config.attention[level] else NoAttention
    return nn.ModuleList(layer() for _ in range(count))


class DownBlock(nn.Module):
    """Resnets and transformers of one level on the way down, then half the resolution."""

    def __init__(self, in_channels: int, level: int, last: bool, config: UNetConfig):
        super().__init__()
        width = config.channels[level]
        inputs = [in_channels] + [width] * (config.depth - 1)
        self.resnets = nn.ModuleList(Resnet(i, width, config) for i in inputs)
        self.attentions = transformers(width, level, config.depth, config)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(width)])

    def forward(self, x: Tensor, temb: Tensor, text: Tensor, route: Route | None = None) -> list[Tensor]:
        """Returns the output of every stage, for the skips; the last is what the next block takes."""
        stages = []
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            x = attention(resnet(x, temb), text, route)
            stages.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            stages.append(x)
        return stages


class MidBlock(nn.Module):
    """Resnet, transformer, resnet at the lowest resolution: what leaves it is where uncertainty is read."""

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, config) for _ in range(2))
        self.attentions = nn.ModuleList([Transformer2D(channels, config)])

    def forward(self, x: Tensor, temb: Tensor, text: Tensor, route: Route | None = None) -> Tensor:
        x = self.resnets[0](x, temb)
        x = self.attentions[0](x, text, route)
        return self.resnets[1](x, temb)


class UpBlock(nn.Module):
    """Resnets and transformers of one level on the way up, each meeting a skip, then twice the resolution."""

    def __init__(self, in_channels: int, skips: list[int], level: int, last: bool, config: UNetConfig):
        super().__init__()
        width = config.channels[level]
        inputs = [in_channels] + [width] * (len(skips) - 1)
        self.resnets = nn.ModuleList(Resnet(i + s, width, config) for i, s in zip(inputs, skips, strict=True))
        self.attentions = transformers(width, level, len(skips), config)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(width)])

    def forward(self, x: Tensor, skips: list[Tensor], temb: Tensor, text: Tensor, route: Route | None = None) -> Tensor:
        """Takes its skips from the end of the list."""
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            x = torch.cat([x, match_paths(skips.pop(), x)], dim=1)
            x = attention(resnet(x, temb), text, route)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x
