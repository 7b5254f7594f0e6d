"""Parity at SD1.5's own size: `pytest -m full_size` (a minute, 8 GB)."""

import pytest
import torch
from conftest import close, sample

from emoe.unet import UNet, UNetConfig
from emoe.vae import VAE


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
    assert close(found.prediction, expected) < 1e-5
    assert close(found.m_pre, seen["m_pre"]) < 1e-5
    assert close(found.m_post, seen["m_post"]) < 1e-5


@pytest.mark.full_size
@torch.inference_mode()
def test_the_vae_equals_diffusers():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
    ).eval()
    with torch.device("meta"):
        ours = VAE()
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    assert sum(p.numel() for p in ours.parameters()) == 83_653_863

    image, latents = torch.rand(1, 3, 256, 256) * 2 - 1, torch.randn(1, 4, 32, 32)
    assert close(ours.encode(image), theirs.encode(image).latent_dist.mean * 0.18215) < 1e-5
    assert close(ours.decode(latents), theirs.decode(latents / 0.18215).sample) < 1e-5
