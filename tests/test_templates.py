"""Template audits: pairs worked by hand, p-values beside statsmodels' definitions, templates that are none."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import stats

from emoe.errors import EmoeError
from emoe.study.statistics import holm, signed_ranks
from emoe.study.templates import differences, fewest_seeds, fill, prompts, slots

TEMPLATE = "A {white|black} {man|woman|child} at work"


def test_every_choice_with_every_other():
    rows = fill(TEMPLATE, "blurry")
    assert len(rows) == 6
    assert rows[0] == {"prompt": "A white man at work", "negative_prompt": "blurry"}
    assert [row["prompt"] for row in rows[3:5]] == ["A black man at work", "A black woman at work"]
    assert [row["prompt"] for row in fill("a {red |}bus")] == ["a redbus", "a bus"]
    assert slots("{ a | b }") == [["a", "b"]]


@pytest.mark.parametrize(
    "template", ["a bus", "a {bus}", "a {bus|bus}", "a {a|b", "a}", "{a|{b|c}}", "a {b|c} {d", "", "{a|b}" * 14, "{|}"]
)
def test_templates_that_are_none(template):
    with pytest.raises(EmoeError):
        fill(template)


def test_differences_are_in_pairs():
    rng = numpy.random.default_rng(0)
    noise = rng.normal(size=(8, 1)) * 10  # what a seed does to all prompts alike takes no part
    colour, person = numpy.repeat([0, 1], 3), numpy.tile([0, 0.5, -2], 2)
    u = noise + colour + person + 0.01 * rng.normal(size=(8, 6))
    black, woman, child = differences(TEMPLATE, u)
    for row, effect in ((black, 1), (woman, 0.5), (child, -2)):
        assert row["mean difference"].value == pytest.approx(effect, abs=0.02)
        assert row["mean difference"].low <= effect + 0.02
        assert row["mean difference"].low < row["mean difference"].value < row["mean difference"].high
        assert row["pairs above 0"] == (1 if effect > 0 else 0)
        assert row["p"] == pytest.approx(2 / 2**8)  # all eight seeds agree
        assert row["p (Holm)"] == pytest.approx(3 * 2 / 2**8)
    assert (black["instead of"], black["word"], child["word"]) == ("white", "black", "child")
    per_seed = (u[:, 3:] - u[:, :3]).mean(axis=1)
    assert black["p"] == pytest.approx(stats.wilcoxon(per_seed).pvalue)
    assert black["in percent"] == pytest.approx(100 * per_seed.mean() / u[:, :3].mean())
    expected = stats.ttest_1samp(per_seed, 0).confidence_interval(0.95)
    assert (black["mean difference"].low, black["mean difference"].high) == pytest.approx(tuple(expected))


def test_every_prompt_beside_the_first():
    rng = numpy.random.default_rng(0)
    u = rng.normal(size=(8, 1)) * 10 + 20 + numpy.array([0, 1, -1, 3]) + 0.01 * rng.normal(size=(8, 4))
    rows = prompts([{"prompt": name} for name in "abcd"], u)
    assert [row["prompt"] for row in rows] == ["c", "a", "b", "d"]
    assert "p" not in rows[1]
    for row, own in ((rows[0], 2), (rows[2], 1), (rows[3], 3)):
        assert row["mean over noises"].value == pytest.approx(u[:, own].mean())
        assert row["mean difference"].value == pytest.approx((u[:, own] - u[:, 0]).mean())
        assert row["p (Holm)"] == pytest.approx(3 * 2 / 2**8)


@pytest.mark.parametrize("template", ["a {b|c}", "{a|b} {c|d}", "{a|b|c} {d|e|f}", "{a|b|c|d|e|f|g|h}"])
def test_the_fewest_seeds_are_enough_and_one_less_is_not(template):
    rows = sum(len(choices) - 1 for choices in slots(template))
    fewest = fewest_seeds(template)
    for seeds, sure in ((fewest, True), (fewest - 1, False)):
        p = signed_ranks(1 + numpy.arange(seeds))
        assert (holm([p] * rows)[0] < 0.05) is sure


def test_what_cannot_be_tested_is_a_gap():
    assert math.isnan(signed_ranks(numpy.zeros(5)))
    assert math.isnan(signed_ranks(numpy.ones(1)))
    assert signed_ranks(numpy.ones(2)) == 0.5
    row = differences("{a|b}", numpy.ones((1, 2)))[0]
    assert math.isnan(row["p (Holm)"])
    assert row["pairs above 0"] == 0


def test_holm_by_hand():
    found = holm([0.04, 0.01, float("nan"), 0.03])
    assert found[:2] == pytest.approx([0.06, 0.03])  # 0.01 x 3, then 0.03 x 2, and 0.04 no less than that
    assert found[3] == pytest.approx(0.06)
    assert math.isnan(found[2])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([1e-6]) == [1e-6]
