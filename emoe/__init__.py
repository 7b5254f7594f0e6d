"""EMoE: how uncertain a text-to-image model is about a prompt, before an image is paid for."""

from emoe.errors import EmoeError
from emoe.pipeline import EMoE, Scores

__all__ = ["EMoE", "EmoeError", "Scores"]
