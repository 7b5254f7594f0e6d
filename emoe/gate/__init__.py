"""Gates: a prompt, or a layer's input, becomes one logit per expert. All are training-free."""

from emoe.gate.hidden import HiddenGate
from emoe.gate.prompt import PromptGate, phi
from emoe.gate.uniform import UniformGate

Gate = PromptGate | UniformGate | HiddenGate

__all__ = ["Gate", "HiddenGate", "PromptGate", "UniformGate", "phi"]
