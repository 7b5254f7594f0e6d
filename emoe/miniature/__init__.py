"""A miniature Stable Diffusion family on a synthetic world, where coverage is a dial that we set.

Nobody knows what real checkpoints were trained on; of these it is known exactly. `world.py` (scenes, dials),
`languages.py` (captions), `render.py` (pictures), `train/` (how the weights came about), `weights/` (the weights).
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"

# What --weights takes besides a file's name.
FAMILIES = {
    "miniature": WEIGHTS / "style.toml",  # each expert fine-tuned on a drawing style of its own, as on Civitai
    "miniature-bootstrap": WEIGHTS / "bootstrap.toml",  # each on its own resample of the world's concepts
}
