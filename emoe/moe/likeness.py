"""Are the experts different enough for their disagreement to mean anything?"""

from __future__ import annotations

from itertools import combinations

from torch.linalg import vector_norm

from emoe.moe.mixture import mixtures
from emoe.unet import UNet


def alike(unet: UNet, threshold: float = 1e-3) -> list[tuple[int, int]]:
    """Pairs of experts i < j with ||W_i - W_j|| < threshold · ||W_i||, W all mixed layers' weights together."""
    # layer, expert, tensor
    layers = [[list(expert.parameters()) for expert in mixture.experts] for mixture in mixtures(unet).values()]
    experts = range(len(layers[0]))
    norm = [sum(float(vector_norm(w.float())) ** 2 for layer in layers for w in layer[i]) for i in experts]

    pairs = dict.fromkeys(combinations(experts, 2), 0.0)
    for layer in layers:
        for i, j in list(pairs):
            pairs[i, j] += sum(
                float(vector_norm((a - b).float())) ** 2 for a, b in zip(layer[i], layer[j], strict=True)
            )
            if pairs[i, j] > threshold**2 * norm[i]:  # different enough already: most pairs leave at the first layer
                del pairs[i, j]
    return list(pairs)
