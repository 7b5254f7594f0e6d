"""Parity at SD1.5's own size: `pytest -m full_size` (a minute, 8 GB)."""

import pytest
import torch
from conftest import close, sample

from emoe.unet import UNet, UNetConfig


@pytest.mark.full_size
@torch.inference_mode()
def test_the_dense_unet_equals_diffusers():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).eval()
    with torch.device("meta"):
        ours = UNet()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    assert sum(p.numel() for p in ours.parameters()) == 859_520_964

    seen = {}
    theirs.mid_block.register_forward_hook(lambda _, args, out: seen.update(m_pre=args[0], m_post=out))
    x, t, states = sample(1, config=UNetConfig())
    expected, found = theirs(x, t, states).sample, ours(x, t, states)
    assert close(found.noise, expected) < 1e-5
    assert close(found.m_pre, seen["m_pre"]) < 1e-5
    assert close(found.m_post, seen["m_post"]) < 1e-5
