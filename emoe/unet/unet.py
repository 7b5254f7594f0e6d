"""The SD1.5 UNet, dense. Put mixtures into it with `emoe.moe.mix`; this package knows nothing of them.

Axes: b samples (or paths after the split), e paths, c channels, h w space, m text tokens.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import silu

from emoe.route import Route
from emoe.unet.blocks import DownBlock, MidBlock, TimeEmbedding, UpBlock
from emoe.unet.config import UNetConfig


class UNetOutput(NamedTuple):
    """Of b rows, or of e·b after a split."""

    prediction: Tensor | None  # (b, 4, h, w), noise or "v" as the checkpoint learnt; None when stopped at the mid-block
    m_pre: Tensor  # (b, c, h/8, w/8), what enters the mid-block
    m_post: Tensor  # the same shape, what leaves it


class UNet(nn.Module):
    """Predicts the noise in a latent (or a mix of noise and image, "v"). 859.5 M parameters with the default config."""

    def __init__(self, config: UNetConfig = UNetConfig()):  # noqa: B008 (frozen)
        super().__init__()
        self.config = config
        widths, levels = config.channels, range(len(config.channels))
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0])

        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]  # the width of every stage, as the forward will stack them
        for level in levels:
            last = level == levels[-1]
            self.down_blocks.append(DownBlock(skips[-1], level, last, config))
            skips += [widths[level]] * (config.depth + (not last))

        self.mid_block = MidBlock(skips[-1], config)

        self.up_blocks = nn.ModuleList()
        width = skips[-1]
        for level in reversed(levels):
            own = [skips.pop() for _ in range(config.depth + 1)]
            self.up_blocks.append(UpBlock(width, own, level, level == 0, config))
            width = widths[level]

        self.conv_norm_out = nn.GroupNorm(config.groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.latent_channels, 3, padding=1)

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor, route: Route | None = None, stop_at_mid: bool = False
    ) -> UNetOutput:
        """One forward, dense or routed; with a route that splits, every output has e·b rows, path-major.

        x: noisy latents (b, 4, h, w), h and w multiples of 8
        t: timesteps (b,) or (1,), 0 to 999
        text: text states (b, m, text_dim)
        stop_at_mid: scoring needs nothing after the mid-block
        """
        temb = self.time_embedding(t)

        skips = [self.conv_in(x)]
        for block in self.down_blocks:
            skips += block(skips[-1], temb, text, route)

        m_pre = skips[-1]
        m_post = self.mid_block(m_pre, temb, text, route)
        if stop_at_mid:
            return UNetOutput(None, m_pre, m_post)

        x = m_post
        for block in self.up_blocks:
            x = block(x, skips, temb, text, route)
        return UNetOutput(self.conv_out(silu(self.conv_norm_out(x))), m_pre, m_post)
