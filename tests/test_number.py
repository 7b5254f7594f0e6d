"""The uncertainty, against sums written out."""

import math

import numpy
import torch

from emoe.uncertainty import answer, by_path, measure


def test_against_numpy():
    m = numpy.random.default_rng(0).normal(3, 1, (3, 4, 2, 5, 2, 2))  # s e b c h w
    found = measure(torch.from_numpy(m))
    variance = m.var(axis=1).mean(axis=0)
    eu = variance.mean(axis=(1, 2, 3))
    assert numpy.allclose(found.eu, eu, rtol=1e-12)
    assert numpy.allclose(found.uncertainty, math.sqrt(5 * 2 * 2) * eu, rtol=1e-12)
    assert numpy.allclose(found.relative, eu / (m.mean(axis=1) ** 2).mean(axis=(0, 2, 3, 4)), rtol=1e-12)
    assert numpy.allclose(found.map, variance.mean(axis=1), rtol=1e-12)
    assert numpy.allclose(found.aleatoric, m.mean(axis=1).var(axis=0).mean(axis=(1, 2, 3)), rtol=1e-12)
    by_seed = m.var(axis=1).mean(axis=(2, 3, 4)).T
    assert numpy.allclose(found.by_seed, math.sqrt(5 * 2 * 2) * by_seed, rtol=1e-12)
    empty = m[:, :, :1] / 2
    answered = ((m.mean(axis=1) - empty.mean(axis=1)) ** 2).mean(axis=(2, 3, 4)).T
    over = measure(torch.from_numpy(m), torch.from_numpy(empty))
    assert numpy.allclose(over.uncertainty, eu / answered.mean(axis=1), rtol=1e-12)
    assert numpy.allclose(over.by_seed, by_seed / answered, rtol=1e-12)
    assert torch.equal(over.eu, found.eu)
    apart = ((m - m.mean(axis=1, keepdims=True)) ** 2).sum(axis=(0, 3, 4, 5)).T  # b e
    assert numpy.allclose(found.shares, apart / apart.sum(axis=1, keepdims=True), rtol=1e-12)


def test_paths_that_agree_have_no_shares():
    assert measure(torch.ones(2, 3, 1, 4, 2, 2)).shares.tolist() == [[0, 0, 0]]


def test_paths_that_agree_have_exactly_no_variance():
    """Whatever their number, and however large they are beside it."""
    for count in (2, 3, 4, 7):
        m = (1e3 + torch.randn(2, 1, 2, 64, 4, 4)).expand(-1, count, -1, -1, -1, -1)
        assert measure(m).eu.tolist() == [0, 0]


def test_one_path_apart_has_most_of_it():
    m = torch.zeros(1, 4, 1, 8, 2, 2)
    m[:, 2] = 1.0
    shares = measure(m).shares[0]
    assert torch.allclose(shares, torch.tensor([1, 1, 9, 1]) / 12)  # (3/4)^2 beside (1/4)^2


def test_the_law_of_total_variance():
    m = torch.randn(5, 4, 2, 8, 2, 2, dtype=torch.float64)
    found = measure(m)
    total = m.transpose(0, 2).reshape(2, 20, -1).var(dim=1, correction=0).mean(dim=1)
    assert torch.allclose(found.eu + found.aleatoric, total)


def test_one_seed_has_no_aleatoric_part():
    assert measure(torch.randn(1, 4, 3, 8, 2, 2)).aleatoric.tolist() == [0, 0, 0]


def test_half_precision_is_measured_in_float32():
    m = (torch.randn(1, 4, 2, 64, 4, 4) * 100).half()
    found = measure(m)
    assert found.eu.dtype == torch.float32
    assert torch.allclose(found.eu, measure(m.double()).eu.float(), rtol=1e-5)
    found = answer(m, m[:, :, :1] / 2)
    assert (found.dtype, found.shape) == (torch.float32, (2, 1))
    assert torch.allclose(found, answer(m.double(), m[:, :, :1].double() / 2).float(), rtol=1e-3)


def test_a_small_variance_around_a_large_mean_survives():
    apart = 1e-3 * torch.randn(1, 4, 1, 64, 4, 4)
    assert torch.allclose(measure(apart + 64).eu, measure(apart).eu, rtol=0.02)


def test_paths_are_path_major():
    m = torch.arange(6.0).reshape(6, 1, 1, 1)
    assert by_path(m, 3)[..., 0, 0, 0].tolist() == [[0, 1], [2, 3], [4, 5]]
