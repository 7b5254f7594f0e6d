"""The mixture: one sub-layer of every expert, and the walk that puts mixtures into a dense UNet.

Parameter names are SegMoE's (`X.experts.2.weight`, `X.gate.weight`), so a checkpoint saved by it loads as it is.

Axes: b rows (samples or paths), e experts, n tokens, c channels.
"""

from __future__ import annotations

import re
from copy import deepcopy

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from emoe.choices import LAYERS
from emoe.route import Route
from emoe.unet import UNet


class Mixture(nn.Module):
    """The weighted sum of the chosen experts' outputs (the paper's Eq. 7)."""

    def __init__(self, experts: list[nn.Module], gate: nn.Linear | None = None):
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gate = gate  # (b, n, c) -> (b, n, e), no bias: the hidden gate's vectors, where there are any

    def forward(self, x: Tensor, route: Route) -> Tensor:
        """x (b, n, c) -> (b, n, c'). An expert that nobody chose is not run."""
        out = None
        for expert, rows, weight in route.divide(x, self.gate):
            y = self.experts[expert](x[rows]) * weight
            if out is None:
                out = y.new_zeros(*x.shape[:-1], y.shape[-1])
            out[rows] += y
        return out


class LinearMixture(Mixture):
    """The same where experts are linear maps without bias: sum_i w_i (W_i x) = (sum_i w_i W_i) x.

    So where the weights are the prompt's, the experts' matrices are summed first and the layer costs what a dense one
    does, however many experts are chosen. `Mixture.forward` is its plain twin.
    """

    def forward(self, x: Tensor, route: Route) -> Tensor:
        """x (b, n, c) -> (b, n, c')."""
        merged = route.merged([expert.weight for expert in self.experts])
        if merged is None:  # weights that differ from token to token, or from path to path
            return super().forward(x, route)
        if len(merged) == 1:
            return F.linear(x, merged[0])
        paths = len(x) // len(merged)
        rows = rearrange(x, "(p b) n c -> b (p n) c", p=paths)  # one matrix a prompt
        return rearrange(torch.bmm(rows, merged.mT), "b (p n) c -> (p b) n c", p=paths)


def mixed_layers(unet: UNet, layers: str) -> list[str]:
    """The names of the layers that `layers` ("attn", "ff" or "all") mixes: 7 in each of SD1.5's 15 blocks."""
    return [
        name
        for name, _ in unet.named_modules()
        if name.rpartition(".")[2] in LAYERS[layers] and not name.startswith("mid_block.")
    ]


def mix(unet: UNet, experts: int, layers: str = "all", gated: bool = False) -> UNet:
    """Replace, in place, every layer to be mixed by a mixture of `experts` copies of it.

    Meant for a UNet on the meta device, whose copies weigh nothing; `origin` tells where each tensor comes from.
    """
    for name in mixed_layers(unet, layers):
        parent, _, leaf = name.rpartition(".")
        layer = unet.get_submodule(name)
        gate = None
        if gated:
            weight = next(layer.parameters())
            gate = nn.Linear(layer.in_features, experts, bias=False, device=weight.device, dtype=weight.dtype)
        kind = LinearMixture if isinstance(layer, nn.Linear) else Mixture
        setattr(unet.get_submodule(parent), leaf, kind([deepcopy(layer) for _ in range(experts)], gate))
    return unet


def mixtures(unet: UNet) -> dict[str, Mixture]:
    """The mixtures in a UNet, by name."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, Mixture)}


def layers_of(unet: UNet) -> str:
    """Which `layers` were mixed: "attn", "ff" or "all"."""
    leaves = {name.rpartition(".")[2] for name in mixtures(unet)}
    return next(layers for layers, mixed in LAYERS.items() if leaves == set(mixed))


def is_gate(name: str) -> bool:
    """Whether a mixed UNet's tensor is a mixture's gate vectors."""
    return name.endswith(".gate.weight")


def origin(name: str) -> tuple[int | None, str]:
    """A mixed UNet's tensor name -> (expert, its name in that expert's checkpoint); expert None is the base."""
    match = re.fullmatch(r"(.+)\.experts\.(\d+)\.(.+)", name)
    return (int(match[2]), f"{match[1]}.{match[3]}") if match else (None, name)
