"""Timesteps, and the three schedulers beside diffusers' classes."""

import pytest
import torch
from twins import scheduler_twin

from emoe.errors import EmoeError
from emoe.schedule import BARS, SCHEDULERS, estimate, next_timestep, noise, noises, timesteps


def test_the_published_noise_levels():
    assert BARS[0] == pytest.approx(0.99915)
    assert BARS[-1] == pytest.approx(0.0046601, rel=1e-4)
    sigmas = [((1 - bar) / bar) ** 0.5 for bar in BARS]
    assert (min(sigmas), max(sigmas)) == (pytest.approx(0.0291672, rel=1e-5), pytest.approx(14.6146, rel=1e-5))


def test_timesteps():
    assert timesteps(25)[:2] == [961, 921]
    assert timesteps(25)[-2:] == [41, 1]
    assert timesteps(50)[:2] == [981, 961]
    assert len(timesteps(50)) == 50
    assert timesteps(1) == [1]
    assert timesteps(999)[0] == 999
    for steps, sentence in ((0, "between 1 and"), (-1, "between 1 and"), (1000, "between 1 and 999"), (2.5, "whole")):
        with pytest.raises(EmoeError, match=sentence):
            timesteps(steps)


def test_timesteps_are_those_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for steps in (1, 10, 25, 30, 50, 333):
        theirs = diffusers.DDIMScheduler(timestep_spacing="leading", steps_offset=1)
        theirs.set_timesteps(steps)
        assert timesteps(steps) == theirs.timesteps.tolist()


def test_noise_belongs_to_its_seed():
    a, b = noise(0, (1, 4, 8, 8)), noise(0, (1, 4, 8, 8))
    torch.manual_seed(123)
    assert torch.equal(a, b)
    assert torch.equal(a, torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(a, noise(1, (1, 4, 8, 8)))


def test_draws_begin_with_the_noise_and_repeat():
    once, again = noises(3, (1, 4, 2, 2)), noises(3, (1, 4, 2, 2))
    first = next(once)
    assert torch.equal(first, noise(3, (1, 4, 2, 2)))
    assert torch.equal(first, next(again))
    assert torch.equal(second := next(once), next(again))
    assert not torch.equal(first, second)


def test_a_callers_defaults_change_no_noise():
    expected = noise(3, (1, 4, 2, 2))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = noise(3, (1, 4, 2, 2))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_both_parts_make_z(kind):
    z, output = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    image, eps = estimate(z, output, 500, kind)
    assert torch.allclose(BARS[500] ** 0.5 * image + (1 - BARS[500]) ** 0.5 * eps, z)


@pytest.mark.parametrize("steps", [2, 10, 25, 30, 501])
@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_steps_equal_diffusers(name, kind, steps):
    scheduler, ts = scheduler_twin(name, kind, steps), timesteps(steps)
    assert scheduler.timesteps.tolist() == ts
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))

    def network(z):
        return torch.einsum("oc, bchw -> bohw", mix, z).tanh()

    ours, before, generator = noises(0, (1, 4, 8, 8)), None, torch.Generator().manual_seed(0)
    z, expected = next(ours), torch.randn(1, 4, 8, 8, generator=generator)
    more = {} if name == "dpm++" else {"generator": generator}
    for t in ts:
        expected = scheduler.step(network(expected), t, expected, **more).prev_sample
        now = estimate(z, network(z), t, kind)
        z, before = SCHEDULERS[name](t, next_timestep(t, steps), z, now, before, lambda: next(ours)), (t, now)
        assert torch.allclose(z, expected, rtol=1e-4, atol=1e-5 if steps < 100 else 1e-4)  # rounding adds up
