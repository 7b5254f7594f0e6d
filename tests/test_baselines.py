"""Baselines and estimators: values worked by hand, what equal experts give, what ranks like what."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import uniform_model
from coverage_parts.baselines import CALIBRATED, calibration, saturated, unheard
from torch import Tensor

from emoe.schedule import BARS, next_timestep, noise, posterior_mean, posterior_sigma
from emoe.study import baselines
from emoe.study.baselines import BASELINES, GATED, classifier_error, paide
from emoe.study.observe import Observed, observe
from emoe.study.statistics import spearman

PROMPTS = ["a red bus", "punainen bussi", "a", "two dogs and a cat, oil painting", "yksi kaksi kolme"]


@pytest.fixture(scope="module")
def seen(model) -> Observed:
    return observe(model, model.encode(PROMPTS), model.noise(0))


# What a forward shows ------------------------------------------------------------------------------------------------


def test_what_is_observed_is_what_is_scored(model, seen):
    assert torch.allclose(baselines.variance(seen.m_post), model.score(PROMPTS, batch_size=5).eu, rtol=1e-4)
    pre = model.score(PROMPTS, batch_size=5, read_out="pre").eu
    assert torch.allclose(BASELINES["Var(m_pre)"](seen), pre, rtol=1e-4)
    text, z = model.encode(PROMPTS), model.noise(0).expand(5, -1, -1, -1)
    noises = model.unet(z, torch.tensor([961]), text.states, model.route(text, None)).prediction.reshape(4, 5, -1)
    assert torch.allclose(BASELINES["Var(noise)"](seen), baselines.variance(noises), rtol=1e-4)  # without guidance
    over = model.score(PROMPTS, batch_size=5, estimator="eu-over-answer")
    assert torch.allclose(-BASELINES["silence"](seen), over.eu / over.uncertainty, rtol=1e-3)


def test_the_observed_step_is_the_runs_first(model, seen):
    from emoe import Recipe
    from emoe.generating import denoising_steps

    recipe = Recipe("emoe", size=model.unet.config.sample_size * 8)
    first = next(denoising_steps(model, PROMPTS, [""] * len(PROMPTS), recipe))
    after = baselines.next_latents(seen)
    assert torch.allclose(after, first.latents, atol=1e-4)
    assert torch.allclose(seen.m_post, first.m_post, atol=1e-4)


# By hand -------------------------------------------------------------------------------------------------------------


def test_the_coefficients_of_the_first_step(seen):
    """z = c * noise + ..., and DDPM's sigma, at the first of 25 and of 50 steps."""
    for steps, timestep, c_ddim, c_ddpm, sigma in (
        (25, 961, -0.249, -0.448, 0.597),
        (50, 981, -0.123, -0.233, 0.455),
    ):
        here = seen._replace(timestep=timestep, to=next_timestep(timestep, steps))
        both = _with_noise(here, here.now.noise), _with_noise(here, here.now.noise + 1)
        less, more = (baselines.next_latents(s) for s in both)
        assert (more - less).mean().item() == pytest.approx(c_ddim, abs=6e-4)
        less, more = (posterior_mean(s.timestep, s.to, s.z, s.now) for s in both)
        assert (more - less).mean().item() == pytest.approx(c_ddpm, abs=6e-4)
        assert posterior_sigma(here.timestep, here.to) == pytest.approx(sigma, abs=6e-4)


def _with_noise(seen: Observed, found: Tensor) -> Observed:
    bar = BARS[seen.timestep]
    image = (seen.z - (1 - bar) ** 0.5 * found) / bar**0.5
    return seen._replace(now=seen.now._replace(noise=found, image=image))


def test_paide_of_two_by_hand():
    distance = torch.tensor([[[0.0, 2.0], [2.0, 0.0]]], dtype=torch.float64)
    expected = -math.log((1 + math.exp(-2)) / 2)
    assert paide(distance).item() == pytest.approx(expected)
    assert paide(distance, scale=4).item() == pytest.approx(-math.log((1 + math.exp(-0.5)) / 2))
    assert baselines.mean_distance(distance).item() == 2


def test_paide_lies_between_zero_and_the_logarithm():
    near, far = torch.zeros(1, 4, 4, dtype=torch.float64), 1e6 * (1 - torch.eye(4, dtype=torch.float64))[None]
    assert paide(near).item() == 0
    assert paide(far).item() == pytest.approx(math.log(4))
    both = torch.cat([paide(near), paide(far)])
    assert saturated(both, 4) == 0.5


def test_distances_of_gaussians(seen):
    """Against KL and Bhattacharyya written out for two paths of one prompt."""
    mean = posterior_mean(seen.timestep, seen.to, seen.z, seen.now)[:2, 0].double().flatten(1)
    sigma = posterior_sigma(seen.timestep, seen.to)
    p, q = (torch.distributions.Normal(m, sigma) for m in mean)
    kl = torch.distributions.kl_divergence(p, q).sum()
    assert baselines.distances(seen, "KL")[0, 0, 1].item() == pytest.approx(kl.item(), rel=1e-5)
    bhattacharyya = (mean[0] - mean[1]).square().sum() / (8 * sigma**2)
    assert baselines.distances(seen, "Bhattacharyya")[0, 0, 1].item() == pytest.approx(bhattacharyya.item(), rel=1e-5)


def test_every_paide_has_the_scale_it_is_named_for(model, seen):
    known = calibration(model.encode(PROMPTS), seen)
    for name in ("KL", "Bhattacharyya", "W2"):
        between = baselines.distances(seen, name)
        assert torch.equal(BASELINES[f"PaiDE {name}"](seen), paide(between))
        assert torch.equal(BASELINES[f"PaiDE {name}, D/d"](seen), paide(between, 4 * 16 * 16))
    assert torch.equal(CALIBRATED["PaiDE, D/median"](seen, known), paide(between, known.distance))


def test_the_gates_numbers_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    shares = logits.softmax(dim=-1)
    assert baselines.entropy(shares).tolist() == pytest.approx(
        [math.log(2), -0.75 * math.log(0.75) + 0.25 * math.log(4)]
    )
    assert baselines.margin(logits).tolist() == pytest.approx([1, 0.5])
    assert baselines.spread(logits).tolist() == pytest.approx([0, -(math.log(3) ** 2) / 4])
    assert baselines.entropy(torch.tensor([[0.5, 0.5, 0, 0]])).item() == pytest.approx(math.log(2))


def test_the_gates_entropies(seen):
    """Over the two experts that are chosen, and over all four."""
    assert 0 < GATED["gate entropy, chosen"](seen).max() <= math.log(2)
    assert math.log(2) < GATED["gate entropy, all"](seen).min() <= math.log(4)


def test_the_length_counts_the_prompts_own_tokens(model, seen):
    ids = model.text.tokenizer(PROMPTS)["input_ids"]
    assert BASELINES["tokens"](seen).tolist() == [2 - len(row) for row in ids]  # less the two marks


def test_text_distances(model, seen):
    known = calibration(model.encode([*PROMPTS[:2], "a blue car"]), seen)
    nearest = CALIBRATED["text to nearest caption"](seen, known)
    assert nearest[:2].abs().max() < 1e-5  # they are captions themselves
    assert nearest[2:].min() > 1e-5
    by_hand = 1 - (seen.direction[:, None] * known.captions).sum(dim=-1).mean(dim=1)
    assert torch.allclose(CALIBRATED["text to mean caption"](seen, known), by_hand, atol=1e-5)


def test_the_empty_prompt_says_nothing(model):
    found = unheard(model, model.encode(["", *PROMPTS]))
    assert found[0].item() == pytest.approx(1)
    assert found[1:].max() < 1


def test_the_median_distance_scales_to_one(model, seen):
    known = calibration(model.encode(PROMPTS), seen)
    between = baselines.distances(seen, "W2")
    pairs = [between[b, i, j].item() for b in range(len(PROMPTS)) for i in range(4) for j in range(i + 1, 4)]
    assert known.distance == pytest.approx(sorted(pairs)[(len(pairs) - 1) // 2])


# What must hold ------------------------------------------------------------------------------------------------------


def test_equal_experts_give_nothing(equal):
    found = observe(equal, equal.encode(PROMPTS), equal.noise(0))
    for name in ("Var(m_pre)", "Var(m_post)", "Var(z)", "Var(noise)", "mean W2", "PaiDE KL, D/d"):
        assert BASELINES[name](found).abs().max() < 1e-8, name


def test_mean_w2_ranks_as_the_latents_variance(seen):
    w2, var = BASELINES["mean W2"](seen), BASELINES["Var(z)"](seen)
    factor = 2 * 4 / 3 * seen.z[0].numel()  # 2 M / (M - 1) * d
    assert torch.allclose(w2, factor * var.double(), rtol=1e-4)
    assert spearman(w2, var) == 1
    assert spearman(var, baselines.variance(seen.now.noise)) == 1


def test_every_baseline_is_a_number_a_prompt_and_minds_no_batch_mates(model, seen):
    known = calibration(model.encode(["a blue car", "a"]), seen)
    alone = observe(model, model.encode(PROMPTS[1:2]), model.noise(0))
    tables = [BASELINES, GATED, {name: lambda s, f=f: f(s, known) for name, f in CALIBRATED.items()}]
    for name, of in {name: f for table in tables for name, f in table.items()}.items():
        found = of(seen)
        assert found.shape == (len(PROMPTS),), name
        assert torch.isfinite(found).all(), name
        assert found[1].item() == pytest.approx(of(alone).item(), rel=1e-3, abs=1e-5), name


def test_faithful_paide_saturates_where_the_paths_are_far_apart(seen):
    far = seen._replace(now=seen.now._replace(image=100 * seen.now.image))
    assert saturated(BASELINES["PaiDE W2"](far), 4) == 1
    assert saturated(BASELINES["PaiDE W2, D/d"](seen._replace(now=_shrunk(seen))), 4) == 0


def _shrunk(seen: Observed):
    return seen.now._replace(image=1e-3 * seen.now.image, noise=1e-3 * seen.now.noise)


def test_a_gate_without_logits(base, experts, text):
    model = uniform_model(base, experts, text)
    found = observe(model, model.encode(PROMPTS), model.noise(0))
    assert found.logits is None
    assert BASELINES["Var(z)"](found).min() > 0


def test_the_classifiers_error(model, seen):
    """Against the definition written out: predicted image, fresh noise, the ordinary mixture's error."""
    text = model.encode(PROMPTS)
    error = classifier_error(model, text, seen)
    bar, fresh = BARS[481], noise(1000, (1, 4, 16, 16))
    z = bar**0.5 * seen.unguided.image.mean(dim=0) + (1 - bar) ** 0.5 * fresh
    out = model.unet(z, torch.tensor([481]), text.states, model.route(text, None, split=False)).prediction
    assert torch.allclose(error, (out - fresh).square().mean(dim=(1, 2, 3)), rtol=1e-4)


def test_a_v_predicting_base_is_read_as_one(base, experts, text):
    model = uniform_model(base, experts, text, prediction_type="v")
    found = observe(model, model.encode(PROMPTS[:1]), model.noise(0))
    bar = BARS[961]
    again = bar**0.5 * found.now.image + (1 - bar) ** 0.5 * found.now.noise
    assert torch.allclose(again, found.z.expand_as(again), atol=1e-4)  # image and noise make z
    text, fresh, bar = model.encode(PROMPTS[:1]), noise(1000, (1, 4, 16, 16)), BARS[481]
    z = bar**0.5 * found.unguided.image.mean(dim=0) + (1 - bar) ** 0.5 * fresh
    v = model.unet(z, torch.tensor([481]), text.states, model.route(text, None, split=False)).prediction
    error = (bar**0.5 * v + (1 - bar) ** 0.5 * z - fresh).square().mean(dim=(1, 2, 3))
    assert torch.allclose(classifier_error(model, text, found), error, rtol=1e-4)
