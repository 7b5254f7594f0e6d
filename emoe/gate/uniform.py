"""The uniform gate: every expert, weight 1/M. The control for "does the gate matter?"."""

from __future__ import annotations

import torch
from torch import Tensor

from emoe.text import TextStates


class UniformGate:
    def __init__(self, experts: int):
        self.experts = experts
        self.settings = (experts,)  # what tells two gates apart

    def __call__(self, prompt: TextStates, negative: TextStates | None = None) -> Tensor:
        """The weights, (b, e) on the CPU."""
        return torch.full((len(prompt.prompts), self.experts), 1 / self.experts)
