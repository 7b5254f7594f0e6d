"""The statistics, against scipy and scikit-learn on random data, and against small examples worked by hand."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from emoe.study.statistics import (
    Interval,
    aurc,
    auroc,
    ause,
    bootstrap,
    fisher,
    gain,
    partial_spearman,
    pearson,
    quartile,
    quartile_table,
    rank_sum,
    risk_coverage,
    signed_ranks,
    spearman,
    student,
    trend,
)


@pytest.fixture(params=range(5))
def rng(request) -> numpy.random.Generator:
    return numpy.random.default_rng(request.param)


def with_ties(rng: numpy.random.Generator, n: int = 200) -> numpy.ndarray:
    return rng.normal(size=n).round(1)


def test_against_scipy(rng):
    x, y = with_ties(rng), with_ties(rng)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_against_scikit_learn(rng):
    scores, positive = with_ties(rng), rng.random(200) < 0.3
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_partial_correlation_is_that_of_the_residuals(rng):
    given = rng.normal(size=300)
    x, y = given + rng.normal(size=300), given + rng.normal(size=300)
    a, b, c = (stats.rankdata(v) for v in (x, y, given))
    rest = [v - numpy.polyval(numpy.polyfit(c, v, 1), c) for v in (a, b)]
    assert partial_spearman(x, y, given) == pytest.approx(numpy.corrcoef(*rest)[0, 1], abs=1e-9)
    assert partial_spearman(x, y, numpy.ones(300)) == spearman(x, y)
    assert math.isnan(partial_spearman(x, y, x))


def test_auroc_by_hand():
    assert auroc([1, 2, 3, 4], [False, False, True, True]) == 1
    assert auroc([4, 3, 2, 1], [False, False, True, True]) == 0
    assert auroc([1, 2, 2, 3], [False, False, True, True]) == 3.5 / 4  # one of four pairs is a tie
    assert auroc([1, 1, 1], [True, False, True]) == 0.5


def test_risk_coverage_by_hand():
    coverage, risk = risk_coverage([0.3, 0.1, 0.2], [1.0, 0.0, 0.5])
    assert coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert risk.tolist() == pytest.approx([0, 0.25, 0.5])
    assert aurc([0.3, 0.1, 0.2], [1.0, 0.0, 0.5]) == pytest.approx(0.25)
    assert ause([0.3, 0.1, 0.2], [1.0, 0.0, 0.5]) == 0  # sorted as the errors are
    # the wrong way round: risks 1, 1/2 instead of 0, 1/2
    assert aurc([1, 2], [1, 0]) == 0.75
    assert ause([1, 2], [1, 0]) == pytest.approx((0.75 - 0.25) / 0.5)


def test_what_has_no_order_is_a_mean_over_all_orders():
    error = [1.0, 0.0, 0.5, 0.1]
    assert risk_coverage([7, 7, 7, 7], error)[1].tolist() == pytest.approx([0.4] * 4)
    orders = [aurc([1, 2, 3, 3.5], error), aurc([1, 2, 3.5, 3], error)]
    assert aurc([1, 2, 3, 3], error) == pytest.approx(numpy.mean(orders))


def test_a_useless_number_gives_the_mean_risk():
    rng = numpy.random.default_rng(0)
    error = rng.random(20_000)
    assert aurc(rng.random(20_000), error) == pytest.approx(0.5, abs=0.01)
    assert ause(error, error) == 0


def test_jonckheere_terpstra_by_hand():
    """J counts the pairs from two groups that rise; tau is (J - the falling ones) over all pairs, but for ties."""
    groups, values = [1, 1, 2, 2, 3, 3], [1, 3, 2, 5, 4, 6]
    j, pairs = 10, 12  # falling: 3 > 2, 5 > 4
    within = math.comb(6, 2) - pairs  # pairs of one group
    expected = (j - (pairs - j)) / math.sqrt((pairs + within) * pairs)
    assert trend(groups, values).tau == pytest.approx(expected)
    assert trend([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]).tau == pytest.approx(1)


def test_quartiles():
    assert quartile([5, 1, 3, 7, 2, 6, 8, 4]).tolist() == [3, 1, 2, 4, 1, 3, 4, 2]
    assert quartile(numpy.zeros(10)).tolist() == [2] * 10  # equal ones lie together, whatever their order
    assert quartile([1, 2, 2, 2, 2, 3, 4, 5]).tolist() == [1, 2, 2, 2, 2, 3, 4, 4]
    assert quartile([]).tolist() == []
    rows = quartile_table([4, 3, 2, 1], clip=[10, 20, 30, 40])
    assert rows[0] == {"quartile": 1, "prompts": 1, "uncertainty": 1, "clip": 40}
    assert rows[-1] == {"quartile": 4, "prompts": 1, "uncertainty": 4, "clip": 10}


def test_what_cannot_be_answered_is_nan():
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(auroc([1, 2], [True, True]))
    assert math.isnan(auroc([1, 2], [False, False]))
    assert math.isnan(ause([1, 2], [0, 0]))
    assert math.isnan(trend([1, 1], [1, 2]).tau)
    assert all(math.isnan(x) for x in bootstrap(auroc, [1, 2], [True, True], resamples=5))
    assert all(math.isnan(x) for x in bootstrap(auroc, [], []))
    assert math.isnan(signed_ranks(numpy.zeros(6)))
    value, low, high = bootstrap(mean, [3.0])
    assert (value, math.isnan(low), math.isnan(high)) == (3, True, True)


# The bootstrap -------------------------------------------------------------------------------------------------------


def mean(x: numpy.ndarray) -> float:
    return float(numpy.mean(x))


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    x = numpy.random.default_rng(0).normal(size=400)
    found = bootstrap(mean, x, resamples=4000)
    width = 1.96 * x.std() / 20
    assert found.value == pytest.approx(x.mean())
    assert found.low == pytest.approx(x.mean() - width, abs=0.1 * width)
    assert found.high == pytest.approx(x.mean() + width, abs=0.1 * width)
    theirs = stats.bootstrap((x,), numpy.mean, method="percentile", rng=1).confidence_interval
    assert found[1:] == pytest.approx([*theirs], abs=0.1 * width)


@pytest.mark.slow
def test_its_coverage_is_what_it_says():
    hits = 0
    for seed in range(200):
        rng = numpy.random.default_rng(seed)
        positive = numpy.arange(80) < 40
        scores = rng.normal(size=80) + positive  # the true AUROC is Phi(1/sqrt 2) = 0.760
        found = bootstrap(auroc, scores, positive, strata=positive, resamples=200)
        hits += found.low <= stats.norm.cdf(0.5**0.5) <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_clusters_are_drawn_whole():
    """Seven copies of a prompt are no better than one."""
    x = numpy.random.default_rng(0).normal(size=60)
    alone = bootstrap(mean, x, resamples=2000)
    copies = bootstrap(mean, x.repeat(7), clusters=numpy.arange(60).repeat(7), resamples=2000)
    assert copies == pytest.approx(alone)
    naive = bootstrap(mean, x.repeat(7), resamples=2000)
    assert naive.high - naive.low < 0.5 * (alone.high - alone.low)


def test_clusters_may_lie_anywhere_and_differ_in_size():
    def whole(labels: numpy.ndarray) -> float:
        sizes = {"a": 1, "b": 2, "c": 3}
        return float(all((labels == name).sum() % size == 0 for name, size in sizes.items()))

    labels = [*"cabcbcdddee"]
    assert bootstrap(whole, labels, clusters=labels, resamples=100) == (1, 1, 1)


def test_strata_of_clusters_that_lie_anywhere():
    clusters, strata = [*"kjihgfedcbakjihgfedcba"], [*"xxxxxyyyyyyxxxxxyyyyyy"]
    assert bootstrap(lambda s: float((s == "x").sum()), strata, clusters=clusters, strata=strata) == (10, 10, 10)


def test_strata_keep_their_sizes():
    labels = [*"aaaaabbbbbbb"]
    assert bootstrap(lambda s: float((s == "b").sum()), labels, strata=labels, resamples=50) == (7, 7, 7)


def test_too_few_say_nothing_of_how_sure():
    few = dict.fromkeys(("low", "high"), float("nan"))
    for told in ({}, {"clusters": [*"aabbccdd"]}, {"strata": [*"aaaabbbb"]}):
        count = 8 if told else 4
        found = bootstrap(mean, numpy.arange(count), resamples=20, **told)
        assert found.value == (count - 1) / 2
        assert str(found._asdict() | {"value": 0}) == str({"value": 0} | few)
    assert bootstrap(mean, numpy.arange(5), resamples=20).low < 2


def test_resamples_that_have_no_answer_are_left_out():
    """One prompt of twelve is positive, so a third of the resamples have none."""
    found = bootstrap(auroc, numpy.arange(12), numpy.arange(12) == 8, resamples=200)
    assert 0 <= found.low < found.value < found.high <= 1
    # the lowest answer there can be is 1; a gap for 0 would be lower
    answers = bootstrap(lambda x: float("nan") if (x == 5).sum() == 0 else 1.0 + (x == 5).sum(), numpy.arange(8))
    assert answers.low == 2


def test_student_beside_scipy(rng):
    x = rng.normal(size=6)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert student(x) == pytest.approx((x.mean(), *expected))
    assert math.isnan(student([3.0]).low)


def test_fisher_beside_scipy(rng):
    x, y = rng.normal(size=(2, 9))
    found = stats.pearsonr(x, y)
    expected = found.confidence_interval(0.95)
    assert fisher(found.statistic, 9) == pytest.approx((found.statistic, *expected))
    assert math.isnan(fisher(0.5, 3).low)


def test_intervals_of_rank_correlations_hold_what_they_should(rng):
    """Of strongly correlated normal pairs, whose Spearman's is 6/π·asin(ρ/2); as if it were Pearson's, they do not."""
    rho, n = 0.95, 40
    true = 6 / numpy.pi * numpy.arcsin(rho / 2)
    held = dict.fromkeys((True, False), 0)
    for _ in range(2000):
        x, noise = rng.normal(size=(2, n))
        r = spearman(x, rho * x + (1 - rho**2) ** 0.5 * noise)
        for ranks in held:
            found = fisher(r, n, ranks=ranks)
            held[ranks] += found.low < true < found.high
    assert held[True] / 2000 > 0.93 > 0.92 > held[False] / 2000


def test_a_perfect_correlation_has_no_interval():
    assert math.isnan(fisher(1.0, 9).low)


def test_rank_sum_beside_scipy(rng):
    x, y = with_ties(rng, 30), with_ties(rng, 20) + 0.5
    assert rank_sum(x, y) == pytest.approx(stats.mannwhitneyu(x, y).pvalue)
    assert rank_sum([1, 2, 3], [4, 5, 6]) == pytest.approx(0.1)  # 2 of 20 orders are as far apart
    assert math.isnan(rank_sum([], [1.0]))
    assert math.isnan(rank_sum([1.0, 1.0], [1.0]))


def test_gain_by_hand():
    error = [1, 2, 3, 4]
    assert gain(error, error) == 1
    assert gain([0, 0, 0, 0], error) == pytest.approx(0)
    assert gain([4, 3, 2, 1], error) == pytest.approx(-1)
    assert gain([1, 3, 2, 4], error) == gain([1, 3, 2, 4], numpy.add(error, 70))  # wherever errors begin
    assert math.isnan(gain([1, 2], [3, 3]))


def test_a_paired_difference_is_surer_than_two_intervals():
    rng = numpy.random.default_rng(0)
    positive = numpy.arange(200) < 100
    one = rng.normal(size=200) + positive
    other = one + 0.1 * rng.normal(size=200)
    gap = bootstrap(lambda a, b, p: auroc(a, p) - auroc(b, p), one, other, positive, strata=positive)
    single = bootstrap(auroc, one, positive, strata=positive)
    assert gap.high - gap.low < 0.5 * (single.high - single.low)


def test_the_same_seed_gives_the_same_interval():
    x = numpy.random.default_rng(0).normal(size=50)
    assert bootstrap(mean, x, seed=3) == bootstrap(mean, x, seed=3) != bootstrap(mean, x, seed=4)


def test_an_interval_reads_well():
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 (0.250 to 0.750)"


def test_what_is_not_known_is_a_gap():
    values = numpy.array([0.5, numpy.nan, 0.1, 0.2])
    error = numpy.array([1.0, 2.0, 3.0, 4.0])
    assert all(math.isnan(of(values, error)) for of in (aurc, ause, spearman, pearson))
    assert math.isnan(auroc(values, error > 2))
    assert math.isnan(pearson([0.1] * 3, [1, 2, 4]))
