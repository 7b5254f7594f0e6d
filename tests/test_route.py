"""Choosing experts, and dividing the work."""

import torch
from torch import nn

from emoe.route import HiddenRoute, PromptRoute, choose, largest, match_paths, split, work_per_expert


def test_choose_is_a_softmax_over_the_largest():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    weights = choose(logits, 2)
    assert torch.allclose(weights[0, [1, 2]], torch.tensor([3.0, 2.0]).softmax(0))
    assert weights[0, [0, 3]].tolist() == [0, 0]


def test_ties_go_to_the_lower_index():
    for count in (4, 64):
        logits = torch.zeros(3, count)
        assert largest(logits, 2).nonzero()[:, 1].tolist() == [0, 1] * 3
    assert largest(torch.tensor([[1.0, 2.0, 2.0, 2.0]]), 2).tolist() == [[False, True, True, False]]


def test_all_of_them_is_a_softmax():
    logits = torch.randn(5, 3)
    assert torch.allclose(choose(logits, 3), logits.softmax(-1))


def test_the_work_covers_every_weight_once():
    weights = choose(torch.randn(6, 4), 2)
    found = torch.zeros_like(weights)
    for work in work_per_expert(weights > 0, weights[:, None]):
        found[work.rows, work.expert] += work.weight[:, 0, 0]
    assert torch.equal(found, weights)
    assert work_per_expert(torch.ones(2, 1, dtype=torch.bool), torch.ones(2, 1, 1))[0].rows == slice(None)


def test_both_guidance_halves_make_one_choice():
    """Each prompt's on each path, by the logits of both halves and all tokens."""
    logits = torch.randn(2, 2, 3, 5, 4)  # paths, halves, prompts, tokens, experts
    expected = logits.sum(dim=(1, 3)).argmax(dim=-1)[:, None].expand(-1, 2, -1).flatten()
    found = torch.full((12,), -1)
    for work in HiddenRoute(6, 4, 1, halves=2).divide(logits.reshape(12, 5, 4), nn.Identity()):
        found[work.rows] = work.expert
    assert torch.equal(found, expected)


def test_the_hidden_choice_is_made_in_float32():
    logits = torch.ones(1, 1000, 2, dtype=torch.bfloat16)
    logits[0, 0, 1] = 2  # the sums are 1000 and 1001, which bfloat16 cannot tell apart
    assert [work.expert for work in HiddenRoute(1, 2, 1).divide(logits, nn.Identity())] == [1]


def test_the_split_happens_once_and_where_it_is_said():
    x, route = torch.randn(2, 5, 3), PromptRoute(torch.ones(2, 4) / 4, "attn2")
    assert split(x, route, "attn1") == (x, route)
    assert split(x, None, "attn2") == (x, None)
    rows, here = split(x, route, "attn2")
    assert torch.equal(rows, x.repeat(4, 1, 1))  # path-major
    assert len(here.divide(rows)) == 4
    assert split(rows, route, "attn2") == (rows, route)
    assert len(route.divide(rows)[0].weight) == 8


def test_follow_repeats_samples_for_their_paths():
    t = torch.tensor([[1.0], [2.0]])
    assert match_paths(t, torch.zeros(6, 1)).flatten().tolist() == [1, 2, 1, 2, 1, 2]
    assert match_paths(t, torch.zeros(2, 9)) is t
