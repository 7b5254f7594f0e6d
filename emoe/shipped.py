"""The small families that come with emoe, by what they go by; how they came about is in `emoe/miniature/`."""

from difflib import get_close_matches
from pathlib import Path

WEIGHTS = Path(__file__).parent / "miniature" / "weights"
SHIPPED = {"miniature": WEIGHTS / "style.toml", "miniature-bootstrap": WEIGHTS / "bootstrap.toml"}


def meant(name: str) -> str | None:
    """What somebody meant who wrote nearly the name of one."""
    return next(iter(get_close_matches(name, SHIPPED, 1, 0.8)), None)
