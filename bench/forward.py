"""Is the dense UNet as fast as diffusers'? Same weights, same inputs, one run.

python bench/forward.py --small         small widths, under 20 s
python bench/forward.py                 SD1.5's size, 512x512 (three minutes on 2 cores, 7 GB)
"""

from __future__ import annotations

from card import show
from measure import side_by_side
from networks import inputs, random_unet, read_options
from peers import MISSING, dense_peer


def main() -> None:
    options, to = read_options(__doc__, rounds=5)
    ours = random_unet(options.config, **to)
    theirs = dense_peer(ours)
    rows = []
    for batch in (1, 4):
        x, t, text = inputs(ours, batch, 256 if options.small else 512)
        candidates = {"emoe": lambda: ours(x, t, text), "emoe, to the mid-block": lambda: ours(x, t, text, None, True)}  # noqa: B023
        if theirs:
            candidates["diffusers"] = lambda: theirs(x, t, text).sample  # noqa: B023
        seconds = side_by_side(candidates, options.rounds)
        peer = seconds.get("diffusers")
        rows += [
            {"rows": batch, "forward": name, "s": s, "times diffusers": s / peer if peer else MISSING}
            for name, s in seconds.items()
        ]
    show("Is the dense UNet as fast as diffusers'?", rows, size=x.shape[-1] * 8, dtype=str(to["dtype"]))


if __name__ == "__main__":
    main()
