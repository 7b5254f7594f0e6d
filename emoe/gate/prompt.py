"""The prompt gate (the paper's Appendix D): a dot product between the prompt and each expert's descriptors.

Axes: b prompts, e experts, n tokens (77), c channels of the text encoder.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from emoe.route import choose
from emoe.text import TextStates


def phi(text: TextStates) -> Tensor:
    """A prompt's direction: the mean state of its content and first end token, at unit length. (b, c)

    The start token is left out: its state is the same for every prompt.
    """
    states = text.states.float()
    content = text.content[..., None]  # (b, n, 1)
    return normalize((states * content).sum(dim=1) / content.sum(dim=1), dim=-1)


class PromptGate:
    """Training-free. One route for all layers, tokens, steps and both guidance halves."""

    def __init__(self, positive: TextStates, negative: TextStates, top: int, temperature: float = 1.0):
        """positive, negative: the experts' descriptors, e prompts each, in the order of the experts."""
        self.positive, self.negative = phi(positive), phi(negative)  # (e, c)
        self.top, self.temperature = top, temperature
        self.experts = len(self.positive)
        self.settings = (positive.prompts, negative.prompts, top, temperature)  # what tells two gates apart

    def logits(self, prompt: TextStates, negative: TextStates | None = None) -> Tensor:
        """[phi(prompt)·phi(positive_i) + phi(negative prompt)·phi(negative_i)] / temperature, (b, e).

        A negative prompt that says nothing contributes nothing.
        """
        logits = phi(prompt) @ self.positive.T
        if negative is not None:
            logits = logits + ~negative.empty[:, None] * (phi(negative) @ self.negative.T)
        return logits / self.temperature

    def __call__(self, prompt: TextStates, negative: TextStates | None = None) -> Tensor:
        """The weights, (b, e) on the CPU: a softmax over the `top` largest logits, zero elsewhere."""
        return choose(self.logits(prompt, negative), self.top).cpu()
