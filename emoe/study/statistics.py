"""Does a number rank what it should? Association, detection, selective use, trends, and how sure that is.

One-dimensional arrays of n prompts in, floats out. What the data cannot answer (an empty group, values that are all
equal) is nan, never an error: a report then has a gap where it would have had a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[Any]


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


# Association ---------------------------------------------------------------------------------------------------------


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Linear correlation."""
    x, y = numpy.asarray(x, float), numpy.asarray(y, float)
    if not len(x) or not numpy.ptp(x) or not numpy.ptp(y):
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / ((x @ x) * (y @ y)) ** 0.5)


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation, ties sharing their mean rank."""
    return pearson(stats.rankdata(x), stats.rankdata(y))


def partial_spearman(x: ArrayLike, y: ArrayLike, given: ArrayLike) -> float:
    """What is left of the rank correlation once `given` (a prompt's length, say) has explained its part of both."""
    x, y, given = numpy.asarray(x), numpy.asarray(y), numpy.asarray(given)
    xy, xz, yz = spearman(x, y), spearman(x, given), spearman(y, given)
    if numpy.isnan([xz, yz]).any():  # a constant explains nothing
        return xy
    rest = (1 - xz**2) * (1 - yz**2)
    return float((xy - xz * yz) / rest**0.5) if rest > 1e-12 else float("nan")


class Trend(NamedTuple):
    tau: float  # Kendall's tau-b of group against value: 1 rises, -1 falls
    p: float  # two-sided


def trend(groups: ArrayLike, values: ArrayLike) -> Trend:
    """Do values rise over ordered groups? The Jonckheere-Terpstra test, which is Kendall's tau of group and value."""
    if len(numpy.asarray(groups)) < 2:
        return Trend(float("nan"), float("nan"))
    found = stats.kendalltau(groups, values)
    return Trend(float(found.statistic), float(found.pvalue))


# Detection -----------------------------------------------------------------------------------------------------------


def rank_sum(x: ArrayLike, y: ArrayLike) -> float:
    """p of the Mann-Whitney test, two-sided: are x and y drawn alike? nan where either is empty, or all are equal."""
    x, y = numpy.asarray(x, float), numpy.asarray(y, float)
    if not len(x) or not len(y) or not numpy.ptp([*x, *y]):
        return float("nan")
    return float(stats.mannwhitneyu(x, y).pvalue)


def signed_ranks(differences: Array) -> float:
    """p of Wilcoxon's test that differences lie about 0, two-sided. nan where there is nothing to rank."""
    if len(differences) < 2 or not differences.any():
        return float("nan")
    return float(stats.wilcoxon(differences).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Corrected for how many there are; what is nan is not counted."""
    order = sorted((value, i) for i, value in enumerate(p) if value == value)
    corrected, largest = [float("nan")] * len(p), 0.0
    for rank, (value, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * value))
        corrected[i] = largest
    return corrected


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """The chance that a positive prompt (one to be rejected) scores above another; equal scores count half.

    scores: (n,), higher is more uncertain.  positive: (n,) bool.
    """
    positive = numpy.asarray(positive, bool)
    n, p = len(positive), int(positive.sum())
    if p in (0, n):
        return float("nan")
    ranks = stats.rankdata(scores)
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * (n - p)))


# Selective use: prompts are accepted from the least uncertain on -----------------------------------------------------


def risk_coverage(uncertainty: ArrayLike, error: ArrayLike) -> tuple[Array, Array]:
    """(coverage, risk): the mean error of the k least uncertain prompts, k = 1 to n, and k/n.

    Prompts of one uncertainty have no order, so each of them counts with their mean error.
    """
    uncertainty, error = numpy.asarray(uncertainty), numpy.asarray(error, float)
    _, group = numpy.unique(uncertainty, return_inverse=True)
    shared = numpy.bincount(group, error) / numpy.bincount(group)
    k = numpy.arange(1, len(error) + 1)
    return k / len(error), shared[numpy.sort(group)].cumsum() / k


def aurc(uncertainty: ArrayLike, error: ArrayLike) -> float:
    """The area under the risk-coverage curve: the mean of its n risks. Lower is better."""
    if numpy.isnan(numpy.asarray(uncertainty, float)).any():
        return float("nan")
    return float(risk_coverage(uncertainty, error)[1].mean())


def ause(uncertainty: ArrayLike, error: ArrayLike) -> float:
    """The area between the sparsification curve and the one that errors themselves would give, over the mean error.

    0: uncertainty sorts as the errors do.  It is the excess of `aurc`, in units of the mean error.
    """
    mean = float(numpy.mean(error))
    return (aurc(uncertainty, error) - aurc(error, error)) / mean if mean > 0 else float("nan")


def gain(uncertainty: ArrayLike, error: ArrayLike) -> float:
    """The part of what the best order gains over chance that this order gains: 1 the best, 0 chance, below it worse.

    As `aurc`, but free of where errors begin to count.
    """
    mean = float(numpy.mean(error))
    most = mean - aurc(error, error)
    return (mean - aurc(uncertainty, error)) / most if most > 0 else float("nan")


# Groups by uncertainty -----------------------------------------------------------------------------------------------


def quartile(uncertainty: ArrayLike) -> Array:
    """(n,) 1 to 4: which quarter of the prompts each belongs to, 1 the least uncertain; equal ones to the same."""
    before = stats.rankdata(uncertainty) - 1  # of equal ones, the mean
    return (before * 4 // max(1, len(before))).astype(int) + 1


def quartile_table(uncertainty: ArrayLike, **columns: ArrayLike) -> list[dict[str, float]]:
    """A row a quartile: how many prompts, and the mean of the uncertainty and of every column."""
    at = quartile(uncertainty)
    told = {"uncertainty": uncertainty} | columns
    return [
        {"quartile": q, "prompts": int((at == q).sum())}
        | {name: float(numpy.mean(numpy.asarray(values)[at == q])) for name, values in told.items()}
        for q in sorted(set(at.tolist()))
    ]


# How sure ------------------------------------------------------------------------------------------------------------


FEWEST = 5  # prompts, scenes or noises, of which resamples say how sure a number is


def student(values: ArrayLike, level: float = 0.95) -> Interval:
    """The mean of a few values, and Student's interval."""
    values = numpy.asarray(values, float)
    if len(values) < 2:
        return Interval(float(values.mean()), float("nan"), float("nan"))
    margin = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return Interval(float(values.mean()), float(values.mean() - margin), float(values.mean() + margin))


def fisher(r: float, n: int, level: float = 0.95, ranks: bool = False) -> Interval:
    """A correlation of n pairs, and its interval by Fisher's z, which holds for as few as four.

    ranks: it is Spearman's, whose z varies more (Bonett and Wright 2000: 1 + r²/2 times as much).
    """
    if n < 4 or not abs(r) < 1:
        return Interval(r, float("nan"), float("nan"))
    variance = (1 + r**2 / 2 if ranks else 1) / (n - 3)
    margin = stats.norm.ppf((1 + level) / 2) * variance**0.5
    return Interval(r, *(float(numpy.tanh(numpy.arctanh(r) + sign * margin)) for sign in (-1, 1)))


def bootstrap(
    statistic: Callable[..., float],
    *columns: ArrayLike,
    clusters: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """`statistic(*columns)` and its percentile interval over resamples of the prompts.

    clusters: (n,) labels of prompts that belong together (one scene told in seven languages, a pair) and are drawn
    together: the scenes are the sample, not the prompts.  strata: (n,) labels, one a cluster, whose sizes are kept.
    """
    arrays = [numpy.asarray(column) for column in columns]
    drawn = numpy.arange(len(arrays[0])) if clusters is None else numpy.asarray(clusters)
    of = numpy.zeros(len(drawn)) if strata is None else numpy.asarray(strata)
    if min((len(numpy.unique(drawn[of == one])) for one in numpy.unique(of)), default=0) < FEWEST:
        return Interval(float(statistic(*arrays)), float("nan"), float("nan"))
    rng = numpy.random.default_rng(seed)
    draws = _resamples(len(arrays[0]), clusters, strata, rng)
    found = [statistic(*(array[rows] for array in arrays)) for rows, _ in zip(draws, range(resamples), strict=False)]
    known = numpy.array(found)[~numpy.isnan(found)]
    low, high = numpy.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if len(known) else [float("nan")] * 2
    return Interval(float(statistic(*arrays)), float(low), float(high))


def _resamples(
    n: int, clusters: ArrayLike | None, strata: ArrayLike | None, rng: numpy.random.Generator
) -> Iterator[Array]:
    """Row numbers, without end."""
    labels = numpy.arange(n) if clusters is None else numpy.unique(clusters, return_inverse=True)[1]
    of = numpy.zeros(n, int) if strata is None else numpy.unique(strata, return_inverse=True)[1]
    order = numpy.argsort(labels, kind="stable")  # a cluster's rows side by side
    first, size = numpy.unique(labels[order], return_index=True, return_counts=True)[1:]
    strata_of = of[order[first]]
    groups = [numpy.flatnonzero(strata_of == stratum) for stratum in range(of.max() + 1)]
    while True:
        chosen = numpy.concatenate([group[rng.integers(len(group), size=len(group))] for group in groups])
        ends = numpy.cumsum(size[chosen])
        within = numpy.arange(ends[-1]) - numpy.repeat(ends - size[chosen], size[chosen])
        yield order[numpy.repeat(first[chosen], size[chosen]) + within]
