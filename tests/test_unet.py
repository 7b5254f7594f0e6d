"""The dense UNet is the published architecture."""

import pytest
import torch
from conftest import TINY, close, random_unet, sample, table
from twins import unet_twin

from emoe.unet import UNet, UNetConfig
from emoe.unet.blocks import TimeEmbedding

OTHERS = [
    TINY,
    UNetConfig(channels=(32, 32, 64, 96), heads=4, groups=16, text_dim=48, sample_size=8),
    UNetConfig(channels=(16, 32, 32, 32), heads=2, groups=8, text_dim=24, sample_size=16),
]


def test_names_and_shapes_are_those_published():
    with torch.device("meta"):
        unet = UNet()
    assert {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()} == table("sd15_unet_diffusers")
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964


@pytest.mark.parametrize("config", OTHERS, ids=lambda c: "-".join(map(str, c.channels)))
@torch.inference_mode()
def test_equals_diffusers(config):
    torch.manual_seed(0)
    ours = random_unet(3, config)
    theirs = unet_twin(ours)

    seen = {}
    theirs.mid_block.register_forward_hook(lambda _, args, out: seen.update(m_pre=args[0], m_post=out))
    x, _, states = sample(2, config=config)
    t = torch.tensor([961, 3])
    expected = theirs(x, t, states).sample
    found = ours(x, t, states)
    assert close(found.prediction, expected) < 1e-5
    assert close(found.m_pre, seen["m_pre"]) < 1e-5
    assert close(found.m_post, seen["m_post"]) < 1e-5


@torch.inference_mode()
def test_stops_at_the_mid_block(base):
    x, t, states = sample()
    stopped, whole = base(x, t, states, stop_at_mid=True), base(x, t, states)
    assert stopped.prediction is None
    assert torch.equal(stopped.m_pre, whole.m_pre)
    assert torch.equal(stopped.m_post, whole.m_post)
    assert whole.prediction.shape == x.shape


@torch.inference_mode()
@torch.inference_mode()
def test_timesteps_are_exact_in_half_precision():
    """Angles of 961 radians are: in half precision they would be half a radian off."""
    torch.manual_seed(0)
    embedding, t = TimeEmbedding(320), torch.tensor([961, 421])
    expected = embedding(t)
    for dtype in (torch.float16, torch.bfloat16):
        assert close(embedding.to(dtype)(t), expected) < 0.01
        embedding.float()


def test_one_timestep_serves_all_rows(base):
    x, t, states = sample(3)
    assert close(base(x, t, states).prediction, base(x, t.expand(3), states).prediction) < 1e-6
