"""Attention, feed-forward, and the transformer block in which the paths part.

Names are those of published checkpoints (diffusers' spelling). Every layer that can be mixed takes the route and,
unmixed, ignores it, so that a mixture fits in its place.

Axes: b rows (samples, or paths after the split), n tokens, m text tokens, c channels, h heads, d head width.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from emoe.route import Route, match_paths, split
from emoe.unet.config import UNetConfig


class Linear(nn.Linear):
    """A linear layer that can be mixed."""

    def forward(self, x: Tensor, route: Route | None = None) -> Tensor:
        return super().forward(x)


class Attention(nn.Module):
    """Multi-head attention from x (b, n, c) to `context`, (b, m, context_dim) or, of paths, one row a sample."""

    def __init__(self, channels: int, context_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = Linear(channels, channels, bias=False)
        self.to_k = Linear(context_dim, channels, bias=False)
        self.to_v = Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor, route: Route | None = None) -> Tensor:
        q, k, v = self.to_q(x, route), self.to_k(context, route), self.to_v(context, route)
        k, v = match_paths(k, q), match_paths(v, q)
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


class GEGLU(nn.Module):
    """c -> 4c: one half of the projection is the value, the other its gate (which has nothing to do with experts)."""

    def __init__(self, channels: int):
        super().__init__()
        self.proj = nn.Linear(channels, 8 * channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """(b, n, c) -> (b, n, c). Can be mixed, as a whole."""

    def __init__(self, channels: int):
        super().__init__()
        self.in_features = channels  # as of an nn.Linear: the width of a hidden gate's vectors
        # published files count a dropout between the two, which is never used
        self.net = nn.Sequential(GEGLU(channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor, route: Route | None = None) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward; each may be where a sample splits into paths."""

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels, config.heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, config.text_dim, config.heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, text: Tensor, route: Route | None = None) -> Tensor:
        """x (b, n, c), text (b, m, text_dim) -> (b, n, c), or (e·b, n, c) from the block that splits.

        `here` is the route in one layer: the ordinary one, but one-hot at the split, where the paths' keys and values
        differ. Elsewhere they have one text, and its keys and values are computed once a sample.
        """
        x, here = split(x, route, "attn1")
        y = self.norm1(x)
        x = x + self.attn1(y, y, here)

        x, here = split(x, route, "attn2")  # the paper's split: CA_i, one per expert
        x = x + self.attn2(self.norm2(x), text if here is route else match_paths(text, x), here)

        x, here = split(x, route, "ff")
        return x + self.ff(self.norm3(x), here)


class Transformer2D(nn.Module):
    """One transformer block over the pixels of a feature map, with an outer residual."""

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, config)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, text: Tensor, route: Route | None = None) -> Tensor:
        h, w = x.shape[-2:]
        y = rearrange(self.proj_in(self.norm(x)), "b c h w -> b (h w) c")
        for block in self.transformer_blocks:
            y = block(y, text, route)
        y = self.proj_out(rearrange(y, "b (h w) c -> b c h w", h=h, w=w))
        return match_paths(x, y) + y
