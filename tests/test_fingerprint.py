"""Eight digits of a mixture: others for whatever changes its numbers."""

from __future__ import annotations

import copy

import pytest
import torch

from emoe.fingerprint import fingerprint


@torch.no_grad()
def test_everything_counts():
    torch.manual_seed(0)
    network = torch.nn.Linear(8, 8).half()
    moved, shaped = copy.deepcopy(network), copy.deepcopy(network)
    moved.bias[3] += 1
    shaped.weight = torch.nn.Parameter(network.weight.reshape(16, 4))
    named = torch.nn.Sequential(network)
    wide = copy.deepcopy(network).float()  # the same numbers, worked with in float32
    others = [("", n) for n in (network, wide, moved, shaped, named)] + [("other settings", network)]
    assert len({fingerprint(*told) for told in others}) == len(others)
    assert fingerprint("", network) == fingerprint("", copy.deepcopy(network))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(320, 320), (1280, 768), (2560, 320), (32, 32)])
def test_every_part_of_a_matrix_counts(shape):
    """Rows and columns alike: a merge of some blocks, or pruning, may leave the first ones as they are."""
    network = torch.nn.Linear(*reversed(shape), bias=False)
    before = fingerprint("", network)
    for axis in (0, 1):
        for part in network.weight.chunk(8, dim=axis):
            part += 1
            assert fingerprint("", network) != before
            part -= 1
