"""Choosing experts, and dividing the work."""

import torch

from emoe.route import PromptRoute, choose, divide, follow, largest, split


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


def test_the_shares_cover_every_weight_once():
    weights = choose(torch.randn(6, 4), 2)
    found = torch.zeros_like(weights)
    for share in divide(weights > 0, weights[:, None]):
        found[share.rows, share.expert] += share.weight[:, 0, 0]
    assert torch.equal(found, weights)
    assert divide(torch.ones(2, 1, dtype=torch.bool), torch.ones(2, 1, 1))[0].rows == slice(None)


def test_the_split_happens_once_and_where_it_is_said():
    x, route = torch.randn(2, 5, 3), PromptRoute(torch.ones(2, 4) / 4, "attn2")
    assert split(x, route, "attn1") == (x, route)
    assert split(x, None, "attn2") == (x, None)
    rows, here = split(x, route, "attn2")
    assert torch.equal(rows, x.repeat(4, 1, 1))  # path-major
    assert len(here.shares(rows)) == 4
    assert split(rows, route, "attn2") == (rows, route)
    assert len(route.shares(rows)[0].weight) == 8


def test_follow_repeats_samples_for_their_paths():
    t = torch.tensor([[1.0], [2.0]])
    assert follow(t, torch.zeros(6, 1)).flatten().tolist() == [1, 2, 1, 2, 1, 2]
    assert follow(t, torch.zeros(2, 9)) is t
