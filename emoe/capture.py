"""Where the hidden gate's vectors come from: every expert denoises its own descriptors, and every mixture looks on.

Axes: b rows, n tokens, c channels, e experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from emoe.denoise import denoise
from emoe.route import PromptRoute, Work
from emoe.schedule import draws
from emoe.text import TextEncoder
from emoe.unet import UNet

SEED, STEPS, GUIDANCE = 0, 25, 7.5


class Witness(PromptRoute):
    """Everything to one expert; each mixture's gate keeps the direction of what it was given.

    Of the conditional half, which is the last row. Every step overwrites the one before, so the last one stays.
    """

    def __init__(self, expert: int, experts: int, rows: int, device: torch.device, dtype: torch.dtype):
        one_hot = torch.eye(experts)[[expert] * rows]
        super().__init__(one_hot, device=device, dtype=dtype)
        self.expert = expert

    def merged(self, matrices: Sequence[Tensor]) -> None:
        """Nothing: every mixture is to ask how its work is divided, and so to show its input."""

    def divide(self, x: Tensor, gate: nn.Module) -> list[Work]:
        gate.weight[self.expert] = normalize(x[-1].float().mean(dim=0), dim=0)  # (n, c) -> (c,)
        return super().divide(x, gate)


@torch.inference_mode()
def capture(
    unet: UNet,
    text: TextEncoder,
    descriptors: Sequence[tuple[str, str]],
    prediction: str = "epsilon",
    watch: Callable[[int, int], None] = lambda expert, step: None,
) -> None:
    """Write the gate vectors of a mixed UNet, in place; seeded, so the same every time.

    descriptors: (positive, negative) of each expert; the negative one steers through guidance alone.
    prediction: what the UNet predicts, "epsilon" or "v".  watch: told of every step.
    """
    device, dtype, side = unet.conv_in.weight.device, unet.conv_in.weight.dtype, unet.config.sample_size
    for expert, (positive, negative) in enumerate(descriptors):
        states = text([positive, negative]).states.to(dtype)
        route = Witness(expert, len(descriptors), 2, device, dtype)
        noises = draws(SEED, (1, unet.config.latent_channels, side, side))
        for step in denoise(
            unet, noises, states[:1], states[1:], route, steps=STEPS, guidance=GUIDANCE, prediction=prediction
        ):
            watch(expert, step.index)
