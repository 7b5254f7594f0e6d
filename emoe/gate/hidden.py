"""The hidden gate (what SegMoE runs): every mixture holds gate vectors g_i, and asks its own input x·g_i."""

from __future__ import annotations

import torch

from emoe.route import HiddenRoute
from emoe.text import TextStates


class HiddenGate:
    """The vectors lie in the mixtures (`X.gate.weight`); the gate itself only says how many experts to take."""

    def __init__(self, experts: int, top: int):
        self.experts, self.top = experts, top

    def route(
        self,
        prompt: TextStates,
        negative: TextStates | None,
        split: str | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> HiddenRoute:
        return HiddenRoute(len(prompt.prompts), self.experts, self.top, split)
