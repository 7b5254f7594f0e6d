"""What does mixing cost: one mixture, and a whole mixed UNet, beside dense ones and beside SegMoE's blocks?

python bench/mixture.py --small         small widths, under 20 s
python bench/mixture.py                 SD1.5's size, four experts, top 2, 512x512 (five minutes on 2 cores, 13 GB)
"""

from __future__ import annotations

import torch
from card import show
from measure import side_by_side
from networks import inputs, random_unet, read_options
from peers import MISSING, segmoe_peer

from emoe.moe import mixtures
from emoe.route import PromptRoute

EXPERTS, TOP = 4, 2


def main() -> None:
    options, to = read_options(__doc__, rounds=5)
    mixed = random_unet(options.config, EXPERTS, **to)
    dense = random_unet(options.config, **to)
    theirs = segmoe_peer(mixed, "all", EXPERTS, TOP)
    route = PromptRoute(torch.tensor([[0.0, 0.6, 0.4, 0.0]]), **to)
    x, t, text = inputs(mixed, 1, 256 if options.small else 512)

    rows = []
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    for name in ("attn1.to_q", "attn2.to_k", "ff"):
        layer, tokens = mixtures(mixed)[f"{block}.{name}"], 77 if name == "attn2.to_k" else x.shape[-1] ** 2
        y = torch.randn(1, tokens, next(layer.experts[0].parameters()).shape[1], **to)
        candidates = {
            "dense": lambda: layer.experts[0](y),  # noqa: B023
            "emoe": lambda: layer(y, route),  # noqa: B023
        }
        if theirs:
            candidates["SegMoE"] = lambda: theirs.get_submodule(f"{block}.{name}")(y)  # noqa: B023
        rows.append(_row(name, side_by_side(candidates, 4 * options.rounds)))
    candidates = {"dense": lambda: dense(x, t, text), "emoe": lambda: mixed(x, t, text, route)}
    if theirs:
        candidates["SegMoE"] = lambda: theirs(x, t, text)
    rows.append(_row("whole UNet", side_by_side(candidates, options.rounds)))
    show("What does mixing cost?", rows, experts=EXPERTS, top=TOP, size=x.shape[-1] * 8, dtype=str(to["dtype"]))


def _row(what: str, seconds: dict[str, float]) -> dict[str, object]:
    def times(name: str) -> object:
        return seconds[name] / seconds["dense"] if name in seconds else MISSING

    return {
        "what": what,
        "dense, s": seconds["dense"],
        "emoe, times dense": times("emoe"),
        "SegMoE, times dense": times("SegMoE"),
    }


if __name__ == "__main__":
    main()
