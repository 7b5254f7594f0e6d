"""A miniature Stable Diffusion family on a synthetic world, where coverage is a dial that we set.

Nobody knows what real checkpoints were trained on; of these it is known exactly. `world.py` (scenes, dials),
`languages.py` (captions), `render.py` (pictures), `judge.py` and `clip.py` (is a picture right?), `train/` (how the
weights came about), `weights/` (the weights; `emoe.shipped` names their two families).
"""

from emoe.shipped import WEIGHTS

__all__ = ["GUIDANCE", "WEIGHTS"]

GUIDANCE = 2.5  # at which it draws best: a network this small overdoes it at SD1.5's 7.5
