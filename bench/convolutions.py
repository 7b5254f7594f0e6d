"""Would it pay to convolve with fewer multiplications?

python bench/convolutions.py --small    small widths, under 20 s
python bench/convolutions.py            SD1.5's size, four experts, top 2, 512x512 (four minutes on 2 cores, 14 GB)

Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308): m x m outputs of a 3x3 convolution come from (m + 2)^2
products, where a plain one takes 9 m^2; for this, every tile of inputs and of outputs goes through a small matrix, and
each kernel is kept as (m + 2)^2 numbers instead of 9.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from card import show
from einops import rearrange
from measure import side_by_side
from networks import inputs, random_unet, read_options, twin
from torch import Tensor, nn

from emoe.route import PromptRoute
from emoe.uncertainty import by_path, measure
from emoe.unet import UNet

EXPERTS, TOP = 4, 2
AT_ONCE = 2**22  # numbers of a transformed tensor at a time: what a processor's cache holds

# Outputs a side: matrices of inputs, kernels and outputs
WINOGRAD = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
         [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]],
        [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
         [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}  # fmt: skip


class Winograd(nn.Module):
    """A 3x3 convolution with a border of one, in tiles of m x m outputs. Heights and widths are multiples of m."""

    def __init__(self, plain: nn.Conv2d, m: int):
        super().__init__()
        self.m = m
        of_inputs, of_kernels, of_outputs = (plain.weight.new_tensor(matrix) for matrix in WINOGRAD[m])
        self.of_inputs = torch.kron(of_inputs, of_inputs)  # a tile's columns and rows at once
        self.of_outputs = torch.kron(of_outputs, of_outputs)
        kernels = torch.einsum("ik, jl, ockl -> ijoc", of_kernels, of_kernels, plain.weight)
        self.weight = nn.Parameter(kernels.flatten(0, 1).contiguous(), requires_grad=False)  # ((m + 2)^2, o, c)
        self.bias = plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """x (b, c, h, w) -> (b, o, h, w)."""
        m, (points, o, c) = self.m, self.weight.shape
        y = x.new_empty(len(x), o, *x.shape[2:])
        tiles = F.pad(x, (1, 1, 1, 1)).unfold(2, m + 2, m).unfold(3, m + 2, m)
        results = rearrange(y, "b o (y i) (x j) -> b o y x i j", i=m, j=m)
        most = max(1, AT_ONCE // (points * max(o, c)))
        for tile, result in zip(_bands(tiles, most), _bands(results, most), strict=True):
            inputs = self.of_inputs @ rearrange(tile, "b c y x i j -> (i j) (c b y x)")
            products = self.weight @ inputs.view(points, c, -1)
            outputs = self.of_outputs @ products.view(points, -1)
            b, _, rows, columns = tile.shape[:4]
            result.copy_(rearrange(outputs.view(m, m, o, b, rows, columns), "i j o b y x -> b o y x i j"))
        return y.add_(self.bias[:, None, None])


def _bands(tiles: Tensor, most: int) -> Iterable[Tensor]:
    """About so many tiles at a time, of several samples or of a band of one. tiles (b, c, y, x, i, j)."""
    rows, columns = tiles.shape[2:4]
    for samples in tiles.split(max(1, most // (rows * columns))):
        yield from samples.split(max(1, most // columns), dim=2)


def with_winograd(unet: UNet, m: int, widest: int) -> UNet:
    """On the way down, convolutions of at most so many channels become Winograd's."""
    plain = [
        (parent, name, layer)
        for part in (unet.down_blocks, unet.mid_block)
        for parent in part.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Conv2d) and (layer.kernel_size, layer.stride) == ((3, 3), (1, 1))
    ]
    for parent, name, layer in plain:
        if layer.in_channels <= widest:
            setattr(parent, name, Winograd(layer, m))
    return unet


def main() -> None:
    options, to = read_options(__doc__, rounds=4)
    unet = random_unet(options.config, EXPERTS, **to)
    x, t, text = inputs(unet, 1, 256 if options.small else 512)
    route = PromptRoute(torch.tensor([[0.0, 0.6, 0.4, 0.0]]), "attn2", **to)

    def score(network: UNet) -> float:
        return float(measure(by_path(network(x, t, text, route, stop_at_mid=True).m_post, EXPERTS)[None]).eu)

    widest, second = max(options.config.channels), options.config.channels[1]
    networks = {"as loaded": unet}
    for m, width in ((2, widest), (4, widest), (4, second)):
        networks[f"tiles of {m}x{m}, up to {width} channels"] = with_winograd(twin(unet, EXPERTS), m, width)
    seconds = side_by_side({name: lambda n=network: score(n) for name, network in networks.items()}, options.rounds)
    plain = score(unet)
    rows = [
        {
            "convolutions": name,
            "s": seconds[name],
            "times as loaded": seconds[name] / seconds["as loaded"],
            "GB of weights": sum(weight.nbytes for weight in network.parameters()) / 1e9,
            "EU apart": abs(score(network) / plain - 1),
        }
        for name, network in networks.items()
    ]
    show(
        "Would it pay to convolve with fewer multiplications?",
        rows,
        experts=EXPERTS,
        top=TOP,
        size=x.shape[-1] * 8,
        dtype=str(to["dtype"]),
    )


if __name__ == "__main__":
    main()
