"""The uniform gate: every expert, weight 1/M. The control for "does the gate matter?"."""

from __future__ import annotations

import torch

from emoe.route import PromptRoute
from emoe.text import TextStates


class UniformGate:
    def __init__(self, experts: int):
        self.experts = experts

    def route(
        self,
        prompt: TextStates,
        negative: TextStates | None,
        split: str | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> PromptRoute:
        weights = torch.full((len(prompt.prompts), self.experts), 1 / self.experts)
        return PromptRoute(weights, split, device, dtype)
