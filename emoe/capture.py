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
from emoe.schedule import noises
from emoe.text import TextEncoder
from emoe.unet import UNet

SEED, STEPS, GUIDANCE = 0, 25, 7.5


class CapturingRoute(PromptRoute):
    """Everything to one expert; on the way, each mixture's gate vector becomes the direction of the mixture's input.

    That is the mean over the tokens of the conditional half, which is the last row. Every step overwrites the one
    before, so the last one stays.
    """

    def __init__(self, expert: int, experts: int, rows: int, device: torch.device, dtype: torch.dtype):
        one_hot = torch.eye(experts)[[expert] * rows]
        super().__init__(one_hot, device=device, dtype=dtype)
        self.expert = expert

    def merged(self, matrices: Sequence[Tensor]) -> None:
        """None, so that every mixture falls back to `divide`, where its input is seen."""

    def divide(self, x: Tensor, gate: nn.Module) -> list[Work]:
        gate.weight[self.expert] = normalize(x[-1].float().mean(dim=0), dim=0)  # (n, c) -> (c,): what is captured
        return super().divide(x, gate)


@torch.inference_mode()
def capture(
    unet: UNet,
    text: TextEncoder,
    descriptors: Sequence[tuple[str, str]],
    prediction_type: str = "epsilon",
    watch: Callable[[int, int], None] = lambda expert, step: None,
) -> None:
    """Write the gate vectors of a mixed UNet, in place; seeded, so the same every time.

    descriptors: (positive, negative) of each expert; the negative one steers through guidance alone.
    prediction_type: what the UNet predicts, "epsilon" or "v".  watch: told of every step.
    """
    device, dtype, side = unet.conv_in.weight.device, unet.conv_in.weight.dtype, unet.config.sample_size
    for expert, (positive, negative) in enumerate(descriptors):
        states = text([positive, negative]).states.to(dtype)
        route = CapturingRoute(expert, len(descriptors), 2, device, dtype)
        drawn = noises(SEED, (1, unet.config.latent_channels, side, side))
        for step in denoise(
            unet, drawn, states[:1], states[1:], route, steps=STEPS, guidance=GUIDANCE, prediction_type=prediction_type
        ):
            watch(expert, step.index)
