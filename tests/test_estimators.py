"""The estimators that bench/coverage.py sets side by side, and the two of them that a score offers."""

from __future__ import annotations

import pytest
import torch
from coverage_parts.estimators import ESTIMATORS, join, look, parts

from emoe.errors import EmoeError
from emoe.schedule import noise
from emoe.scores import Reading

PROMPTS = ["a red bus", "punainen bussi", "a", "two dogs and a cat, oil painting", "yksi kaksi kolme"]

# Beside a score ------------------------------------------------------------------------------------------------------


def test_what_is_looked_at_is_what_is_scored(model):
    scores = model.score(PROMPTS, batch_size=5)
    part = parts(look(model, model.encode(PROMPTS), model.noise(0), 961).m_post, torch.zeros(4, 1, 1, 1, 1))
    assert torch.allclose(ESTIMATORS["eu"](part), scores.eu, rtol=1e-4)
    assert torch.allclose(ESTIMATORS["relative"](part), scores.relative, rtol=1e-4)


def test_several_seeds_are_the_means_of_their_parts(model):
    text = model.encode(PROMPTS)
    found = []
    for seed in (0, 1):
        z = model.noise(seed)
        found.append(parts(look(model, text, z, 961).m_post, look(model, model.encode([""]), z, 961).m_post))
    scores = model.score(PROMPTS, seeds=2, batch_size=5)
    joined = join(found)
    assert torch.allclose(ESTIMATORS["eu"](joined), scores.eu, rtol=1e-4)
    assert torch.allclose(ESTIMATORS["relative"](joined), scores.relative, rtol=1e-4)


def test_the_score_over_the_answer(model):
    asked = {"estimator": "eu-over-answer", "read_out": "pre", "seed": 3, "seeds": 2}
    scores = model.score(PROMPTS, batch_size=2, **asked)
    seeds = []
    for seed in (3, 4):
        z = model.noise(seed)
        here, empty = (look(model, model.encode(texts), z, 961).m_pre for texts in (PROMPTS, [""]))
        seeds.append(parts(here, empty))
    part = join(seeds)
    assert torch.allclose(scores.uncertainty, ESTIMATORS["eu over answer"](part), rtol=1e-4)
    plain = model.score(PROMPTS, batch_size=5, **asked | {"estimator": "eu"})
    assert torch.equal(plain.eu, model.score(PROMPTS, batch_size=5, **asked).eu)  # the other numbers stay
    assert (plain.uncertainty / scores.uncertainty).std() > 0


def test_an_empty_prompt_has_no_answer(model):
    with pytest.raises(EmoeError, match="is empty"):
        model.score(["a red bus", "  "], estimator="eu-over-answer", batch_size=2)


def test_an_empty_prompt_is_found_before_anything_is_scored(model, monkeypatch):
    """Though it is of the last batch."""
    monkeypatch.setattr("emoe.unet.UNet.forward", lambda *_, **__: pytest.fail("the network was run"))
    with pytest.raises(EmoeError, match="is empty"):
        next(model.stream(["a red bus", "a", "  "], reading=Reading(estimator="eu-over-answer"), batch_size=1))


def test_no_answer_is_no_number(model, monkeypatch):
    monkeypatch.setattr("emoe.uncertainty.answer", lambda m, empty: torch.zeros(m.shape[2], len(m)))
    with pytest.raises(EmoeError, match="not finite"):
        model.score("a red bus", estimator="eu-over-answer")


def test_a_batch_may_start_anywhere(model):
    text, z = model.encode(PROMPTS[:2]), torch.cat([noise(s, (1, 4, 16, 16)) for s in (1, 2)])
    both = look(model, text, z, 481)
    alone = look(model, model.encode(PROMPTS[1:2]), z[1:], 481)
    assert torch.allclose(both.m_post[:, 1:], alone.m_post, atol=1e-5)


# By themselves -------------------------------------------------------------------------------------------------------


def test_estimators_by_hand():
    m = torch.tensor([[3.0, 4.0], [4.0, 3.0]]).reshape(2, 1, 2, 1, 1)  # two paths, two channels
    empty = torch.tensor([[3.0, 0.0], [0.0, 3.0]]).reshape(2, 1, 2, 1, 1)
    found = {name: f(parts(m, empty)).item() for name, f in ESTIMATORS.items()}
    assert found == pytest.approx(
        {
            "eu": 0.25,
            "relative": 0.25 / 3.5**2,
            "by channel": 0.25 / 3.5**2,
            "angle": 1 - 24 / 25,
            "answer": 4.0,  # what the prompt changes: (0, 4) and (4, 0)
            "relative answer": 1.0,
            "answer's angle": 1.0,
            "eu over answer": 0.25 / 4,
            "silence": -4.0,
        },
        abs=1e-6,
    )


def test_more_pixels_of_the_same_change_nothing():
    torch.manual_seed(0)
    m, empty = torch.randn(4, 3, 8, 2, 2), torch.randn(4, 1, 8, 2, 2)
    before, after = parts(m, empty), parts(*(x.repeat(1, 1, 1, 3, 2) for x in (m, empty)))
    for name, of in ESTIMATORS.items():
        assert torch.allclose(of(before), of(after), rtol=1e-4), name


def test_what_all_prompts_share_does_not_count():
    """An expert that shifts every prompt alike, the empty one too, changes eu and not the answer."""
    torch.manual_seed(0)
    m, empty, shift = torch.randn(4, 3, 8, 2, 2), torch.randn(4, 1, 8, 2, 2), torch.randn(4, 1, 8, 2, 2)
    before, after = parts(m, empty), parts(m + shift, empty + shift)
    assert torch.allclose(before["answer's variance"], after["answer's variance"], rtol=1e-4)
    assert not torch.allclose(before["variance"], after["variance"], rtol=1e-2)


def test_relative_numbers_are_free_of_scale():
    torch.manual_seed(0)
    m, empty = torch.randn(4, 3, 8, 2, 2), torch.randn(4, 1, 8, 2, 2)
    before, after = parts(m, empty), parts(9 * m, 9 * empty)
    for name in ("relative", "by channel", "angle", "relative answer", "answer's angle", "eu over answer"):
        of = ESTIMATORS[name]
        assert torch.allclose(of(before), of(after), rtol=1e-3, atol=1e-5), name


def test_equal_experts_give_nothing(equal):
    m, empty = (look(equal, equal.encode(texts), equal.noise(0), 961).m_post for texts in (PROMPTS, [""]))
    part = parts(m, empty)
    for name in ESTIMATORS.keys() - {"silence"}:
        assert ESTIMATORS[name](part).abs().max() < 1e-5, name


def test_the_experts_order_does_not_matter():
    torch.manual_seed(0)
    m, empty, order = torch.randn(4, 3, 8, 2, 2), torch.randn(4, 1, 8, 2, 2), [2, 0, 3, 1]
    before, after = parts(m, empty), parts(m[order], empty[order])
    for name, of in ESTIMATORS.items():
        assert torch.allclose(of(before), of(after), rtol=1e-4), name
