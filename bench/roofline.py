"""How close to the machine's own limit is scoring? Counted operations a second, beside a large matrix product's.

python bench/roofline.py --small        small widths, under 20 s
python bench/roofline.py                SD1.5's size, four experts, top 2, 512x512 (five minutes on 2 cores, 10 GB)

Bytes are an estimate: each weight, and the input and output of each layer that has weights, moved once.
"""

from __future__ import annotations

from typing import Any

import torch
from card import show
from measure import side_by_side
from networks import inputs, random_unet, read_options
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from emoe.route import PromptRoute
from emoe.study.cost import ON_A_CPU

EXPERTS, TOP = 4, 2


def main() -> None:
    options, to = read_options(__doc__, rounds=3)
    unet, dense = random_unet(options.config, EXPERTS, **to), random_unet(options.config, **to)
    cuda = to["device"].type == "cuda"
    side = 512 if options.small else 8192 if cuda else 4096
    a, b = (torch.randn(side, side, **to) for _ in range(2))
    long = torch.randn((1 if options.small else 8) * 2**25, **to)  # far more than any cache
    copy = torch.empty_like(long)

    candidates: dict[str, Any] = {"matrix product": lambda: a @ b, "copy": lambda: copy.copy_(long)}
    for rows in (1, 4, 16) if cuda else (1, 2):
        x, t, text = inputs(unet, rows, 256 if options.small else 512)
        weights = torch.tensor([[0.0, 0.6, 0.4, 0.0]]).repeat(rows, 1)
        route = PromptRoute(weights, "attn2", **to)
        candidates |= {
            f"dense forward, {rows}": lambda x=x, t=t, text=text: dense(x, t, text),
            f"score, {rows}": lambda x=x, t=t, text=text, route=route: unet(x, t, text, route, stop_at_mid=True),
        }
    seconds = side_by_side(candidates, options.rounds)

    ceiling = 2 * side**3 / seconds["matrix product"]
    bandwidth = 2 * long.nbytes / seconds["copy"]
    table = []
    for name, run in candidates.items():
        if name == "copy":
            table.append(_row(name, seconds[name], 0, 2 * long.nbytes, ceiling, bandwidth))
            continue
        network = {"matrix": None, "dense": dense}.get(name.partition(" ")[0], unet)
        operations, moved = counted(run, network)
        table.append(_row(name, seconds[name], operations, moved or 3 * a.nbytes, ceiling, bandwidth))
    show(
        "How close to the machine's own limit is scoring?",
        table,
        experts=EXPERTS,
        top=TOP,
        size=256 if options.small else 512,
        dtype=str(to["dtype"]),
    )


def counted(run: Any, network: nn.Module | None) -> tuple[int, int]:
    """Operations, and the bytes of every leaf's weights, input and output."""
    moved = 0

    def see(module: nn.Module, x: tuple[Any, ...], y: Any) -> None:
        nonlocal moved
        tensors = [*module.parameters(recurse=False), *x, *(y if isinstance(y, tuple) else (y,))]
        moved += sum(t.nbytes for t in tensors if isinstance(t, Tensor))

    leaves = [module for module in network.modules() if list(module.parameters(recurse=False))] if network else []
    hooks = [leaf.register_forward_hook(see) for leaf in leaves]
    with FlopCounterMode(display=False, custom_mapping=ON_A_CPU) as counter, torch.inference_mode():
        run()
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops(), moved


def _row(name: str, s: float, operations: int, moved: int, ceiling: float, bandwidth: float) -> dict[str, object]:
    bound = max(operations / ceiling, moved / bandwidth)
    return {
        "what": name,
        "s": s,
        "GFLOP": operations / 1e9,
        "GB": moved / 1e9,
        "GFLOP/s": operations / s / 1e9,
        "of the matrix product": operations / s / ceiling,
        "of the bound": bound / s,
    }


if __name__ == "__main__":
    main()
