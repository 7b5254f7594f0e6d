"""The uniform gate: every expert, weight 1/M. The control for "does the gate matter?"."""

from __future__ import annotations

from typing import Any

import torch

from emoe.route import PromptRoute
from emoe.text import TextStates


class UniformGate:
    def __init__(self, experts: int):
        self.experts = experts

    def route(
        self, prompt: TextStates, negative: TextStates | None, split: str | None, *, device: Any, dtype: Any
    ) -> PromptRoute:
        weights = torch.full((len(prompt.prompts), self.experts), 1 / self.experts)
        return PromptRoute(weights, split, device=device, dtype=dtype)
