"""What does it cost to route a prompt, beside running it?

python bench/gate.py --small            small widths, under 20 s
python bench/gate.py                    SD1.5's size, four experts, top 2, 512x512 (four minutes on 2 cores, 8 GB)
"""

from __future__ import annotations

import torch
from card import show
from measure import side_by_side
from networks import inputs, random_text, random_unet, read_options

from emoe.gate import PromptGate, UniformGate
from emoe.route import HiddenRoute, PromptRoute

EXPERTS, TOP = 4, 2
PROMPT = "a photograph of an astronaut riding a horse"


def main() -> None:
    options, to = read_options(__doc__, rounds=3)
    unet, encode = random_unet(options.config, EXPERTS, **to), random_text(options.small, to["device"])
    x, t, text = inputs(unet, 1, 256 if options.small else 512)

    said = encode([PROMPT])
    descriptors = encode([f"descriptor {i}" for i in range(EXPERTS)])
    prompt, uniform = PromptGate(descriptors, descriptors, TOP), UniformGate(EXPERTS)
    of_all = PromptGate(descriptors, descriptors, EXPERTS)

    def run(route: PromptRoute | HiddenRoute) -> torch.Tensor:
        return unet(x, t, text, route, stop_at_mid=True).m_post

    seconds = side_by_side(
        {
            "text encoder": lambda: encode([PROMPT]),
            "prompt gate, of its states": lambda: prompt(said),
            "uniform gate": lambda: uniform(said),
            "split trunk, prompt route": lambda: run(PromptRoute(prompt(said), "attn2", **to)),
            "split trunk, prompt route of all experts": lambda: run(PromptRoute(of_all(said), "attn2", **to)),
            "split trunk, uniform route": lambda: run(PromptRoute(uniform(said), "attn2", **to)),
            "split trunk, hidden route": lambda: run(HiddenRoute(1, EXPERTS, TOP, "attn2")),
        },
        options.rounds,
    )
    trunk = seconds["split trunk, prompt route"]
    rows = [{"what": name, "s": s, "of the split trunk": s / trunk} for name, s in seconds.items()]
    show(
        "What does it cost to route a prompt?",
        rows,
        experts=EXPERTS,
        top=TOP,
        size=x.shape[-1] * 8,
        dtype=str(to["dtype"]),
    )


if __name__ == "__main__":
    main()
