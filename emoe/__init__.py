"""EMoE: how uncertain a text-to-image model is about a prompt, before an image is paid for."""

from typing import TYPE_CHECKING, Any

from emoe.errors import EmoeError

if TYPE_CHECKING:
    from emoe.generations import Generation, Recipe
    from emoe.pipeline import EMoE
    from emoe.scores import Reading, Scores

__all__ = ["EMoE", "EmoeError", "Generation", "Reading", "Recipe", "Scores"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """torch and transformers take seconds to import, so they wait until they are asked for."""
    if name in __all__:
        from emoe import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
