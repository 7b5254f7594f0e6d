"""Does it pay to lay out the trunk's weights otherwise, or to compile it?

python bench/compiled.py --small        a network of one level, under 20 s
python bench/compiled.py                SD1.5's size, four experts, top 2, 512x512 (seven minutes on 2 cores, 15 GB)

Routes are planned on the host, so a trunk that is compiled whole is one of certain experts: `other experts, s` is what
the next set of them costs. By parts, residual blocks and feed-forwards are compiled, which do most of the work and know
nothing of routes. Frozen: weights are constants, in an order that the compiler chooses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from card import show
from measure import side_by_side
from networks import inputs, random_unet, read_options, twin
from torch import Tensor

from emoe.heap import keep_freed_memory
from emoe.route import PromptRoute
from emoe.unet import UNet, UNetConfig
from emoe.unet.attention import FeedForward
from emoe.unet.blocks import Downsample, Resnet

Network = Callable[..., Any]

EXPERTS = 4
TINY = UNetConfig(channels=(32,), attention=(True,), depth=1, text_dim=64)
ROUTE, OTHER = [0.0, 0.6, 0.4, 0.0], [0.3, 0.0, 0.0, 0.7]


def main() -> None:
    options, to = read_options(__doc__, rounds=3)
    keep_freed_memory()
    unet = random_unet(TINY if options.small else UNetConfig(), EXPERTS, **to)
    x, t, text = inputs(unet, 1, 256 if options.small else 512)
    cuda = to["device"].type == "cuda"

    def trunk(network: Network, weights: list[float] = ROUTE) -> Tensor:
        return network(x, t, text, PromptRoute(torch.tensor([weights]), "attn2", **to), stop_at_mid=True).m_post

    ways: dict[str, tuple[Callable[[UNet], Network], bool]] = {
        "channels last": (lambda new: new.to(memory_format=torch.channels_last), False),
        "compiled by parts": (by_parts, False),
    }
    if not options.small:
        ways["compiled"] = torch.compile, False
        if cuda:
            ways["compiled, CUDA graphs"] = lambda new: torch.compile(new, mode="reduce-overhead"), False
        else:
            ways["compiled by parts, frozen"] = by_parts, True
            ways["compiled, frozen"] = torch.compile, True

    rows = []
    for name, (make, freezing) in ways.items():
        torch._dynamo.reset()  # what was compiled belongs to the code, not to a network
        with torch._inductor.config.patch(freezing=freezing), torch.inference_mode():
            new = make(twin(unet, EXPERTS))
            reference, start = trunk(unet), time.perf_counter()
            far = float((trunk(new) - reference).abs().max() / reference.abs().max())
            first, start = time.perf_counter() - start, time.perf_counter()
            trunk(new, OTHER)
            other = time.perf_counter() - start
            seconds = side_by_side({"as loaded": lambda: trunk(unet), "so": lambda: trunk(new)}, options.rounds)  # noqa: B023
        rows.append(
            {
                "trunk": name,
                "s": seconds["so"],
                "as loaded, s": seconds["as loaded"],
                "times": seconds["so"] / seconds["as loaded"],
                "first, s": first,
                "other experts, s": other,
                "largest difference": far,
            }
        )
    show(
        "Does it pay to lay out the trunk's weights otherwise, or to compile it?",
        rows,
        experts=EXPERTS,
        top=2,
        size=x.shape[-1] * 8,
        dtype=str(to["dtype"]),
    )


def by_parts(unet: UNet) -> UNet:
    parts = [module for module in unet.modules() if isinstance(module, Resnet | Downsample | FeedForward)]
    # torch counts what it compiled by source line, which blocks share; frozen, each is one of its own
    torch._dynamo.config.recompile_limit = len(parts)
    for part in parts:
        part.compile(dynamic=False)
    return unet


if __name__ == "__main__":
    main()
