"""Template audits: pairs worked by hand, p-values beside statsmodels' definitions, templates that are none."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import stats

from emoe.errors import EmoeError
from emoe.study.templates import differences, fill, holm, signed_ranks, slots

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
    by_seed = [[{"uncertainty": value} for value in row] for row in u.tolist()]
    black, woman, child = differences(TEMPLATE, by_seed, 200)
    for row, effect in ((black, 1), (woman, 0.5), (child, -2)):
        assert row["mean difference"].value == pytest.approx(effect, abs=0.02)
        assert row["mean difference"].low <= effect + 0.02
        assert row["pairs above 0"] == (1 if effect > 0 else 0)
        assert row["p"] == pytest.approx(2 / 2**8)  # all eight seeds agree
        assert row["p (Holm)"] == pytest.approx(3 * 2 / 2**8)
    assert (black["instead of"], black["word"], child["word"]) == ("white", "black", "child")
    per_seed = (u[:, 3:] - u[:, :3]).mean(axis=1)
    assert black["p"] == pytest.approx(stats.wilcoxon(per_seed).pvalue)
    assert black["in percent"] == pytest.approx(100 * per_seed.mean() / u[:, :3].mean())
    assert black["seeds"] == 8


def test_what_cannot_be_tested_is_a_gap():
    assert math.isnan(signed_ranks(numpy.zeros(5)))
    assert math.isnan(signed_ranks(numpy.ones(1)))
    assert signed_ranks(numpy.ones(2)) == 0.5
    row = differences("{a|b}", [[{"uncertainty": 1.0}, {"uncertainty": 1.0}]], 10)[0]
    assert math.isnan(row["p (Holm)"])
    assert row["pairs above 0"] == 0


def test_holm_by_hand():
    found = holm([0.04, 0.01, float("nan"), 0.03])
    assert found[:2] == pytest.approx([0.06, 0.03])  # 0.01 x 3, then 0.03 x 2, and 0.04 no less than that
    assert found[3] == pytest.approx(0.06)
    assert math.isnan(found[2])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([1e-6]) == [1e-6]
