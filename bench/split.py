"""What does the uncertainty of a prompt cost beside the paper's way, four full forwards through SegMoE's blocks?

python bench/split.py --small           small widths, under 20 s
python bench/split.py                   SD1.5's size, four experts, top 2, 512x512 (ten minutes on 2 cores, 9 GB)

On a CPU all run twice: with freed memory kept, as emoe's command line does, and given back, as other programs do.
"""

from __future__ import annotations

import torch
from card import show
from measure import side_by_side
from networks import inputs, random_unet, read_options
from peers import MISSING, segmoe_peer

from emoe.route import PromptRoute
from emoe.uncertainty import by_path, measure

EXPERTS, TOP = 4, 2


def main() -> None:
    options, to = read_options(__doc__, rounds=3)
    unet = random_unet(options.config, EXPERTS, **to)
    theirs = segmoe_peer(unet, "all", EXPERTS, TOP)
    x, t, text = inputs(unet, 1, 256 if options.small else 512)
    weights = torch.tensor([[0.0, 0.6, 0.4, 0.0]])
    split, whole = PromptRoute(weights, "attn2", **to), PromptRoute(weights, **to)

    def score():
        return measure(by_path(unet(x, t, text, split, stop_at_mid=True).m_post, EXPERTS)[None]).eu

    candidates = {"emoe": score, "emoe, four full forwards": lambda: [unet(x, t, text, whole) for _ in range(EXPERTS)]}
    if theirs:
        guided = x.repeat(2, 1, 1, 1), t, text.repeat(2, 1, 1)
        candidates["SegMoE, four full forwards"] = lambda: [theirs(x, t, text) for _ in range(EXPERTS)]
        candidates["SegMoE, with guidance (the paper)"] = lambda: [theirs(*guided) for _ in range(EXPERTS)]
    on_cpu = to["device"].type == "cpu"
    seconds = side_by_side(candidates, options.rounds)
    given_back = side_by_side(candidates, options.rounds, keep_memory=False) if on_cpu else {}
    rows = []
    for name in candidates:
        row = {"way": name, "s": seconds[name], "times emoe": seconds[name] / seconds["emoe"]}
        if on_cpu:
            row["s, memory given back"] = given_back[name]
            row["times emoe, memory kept"] = given_back[name] / seconds["emoe"]
        rows.append(row)
    if not theirs:
        rows.append(dict.fromkeys(rows[0], MISSING) | {"way": "SegMoE"})
    show(
        "What does the uncertainty of a prompt cost?",
        rows,
        experts=EXPERTS,
        top=TOP,
        size=x.shape[-1] * 8,
        dtype=str(to["dtype"]),
    )


if __name__ == "__main__":
    main()
