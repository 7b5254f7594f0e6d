"""Eight digits that tell one mixture from another, so that scores of different mixtures are not taken together."""

from __future__ import annotations

from hashlib import sha256

import torch
from torch import nn

from emoe.moe import is_gate

SAMPLE = 64  # values of every tensor that are looked at: a fine-tune or a merge moves nearly all of them


def fingerprint(settings: object, *networks: nn.Module, gates: bool = True) -> str:
    """The same on every device; another for other weights or dtype, or where `settings` print differently.

    gates: False where something in `settings` stands for the mixtures' gate vectors, which then do not count.
    """
    digest = sha256(repr(settings).encode())
    for network in networks:
        for name, tensor in network.state_dict().items():
            if not gates and is_gate(name):
                continue
            # spread evenly from first to last; the stride is rarely whole rows, so they lie in many columns
            places = torch.arange(SAMPLE, device=tensor.device) * (tensor.numel() - 1) // (SAMPLE - 1)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.flatten()[places].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]
