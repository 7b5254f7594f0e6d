"""The small families that come with emoe, by what they go by; how they came about is in `emoe/miniature/`."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "miniature" / "weights"
SHIPPED = {"miniature": WEIGHTS / "style.toml", "miniature-bootstrap": WEIGHTS / "bootstrap.toml"}
