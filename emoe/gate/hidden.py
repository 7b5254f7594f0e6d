"""The hidden gate (what SegMoE runs): every mixture holds gate vectors g_i, and asks its own input x·g_i."""

from __future__ import annotations

from emoe.text import TextStates


class HiddenGate:
    """The vectors lie in the mixtures (`X.gate.weight`); the gate itself only says how many experts to take.

    What becomes of them is in `emoe.route.HiddenRoute`.
    """

    def __init__(self, experts: int, top: int, captured_from: tuple = ()):
        """captured_from: descriptors and settings that the vectors were captured with; () if a checkpoint had them."""
        self.experts, self.top, self.captured_from = experts, top, captured_from
        self.settings = (experts, top, *captured_from)  # what tells two gates apart

    def __call__(self, prompt: TextStates, negative: TextStates | None = None) -> None:
        """None: the weights depend on every layer's input, see `HiddenRoute`."""
        return None
