"""What a list's scores say: every table by hand, and beside scipy, scikit-learn and pandas."""

from __future__ import annotations

import math

import numpy
import pandas
import pytest
from scipy import stats
from sklearn.metrics import auc, roc_auc_score

from emoe.errors import EmoeError
from emoe.study.columns import check_sizes
from emoe.study.groups import group_correlations, group_means, groups
from emoe.study.questions import (
    _within,
    ablations,
    compared,
    every_prompt,
    experts,
    extremes,
    quarters,
    ranks,
    thresholds,
    word_shares,
)
from emoe.study.statistics import auroc, fisher, pearson, spearman


def records(count: int = 40, seed: int = 0) -> list[dict]:
    rng = numpy.random.default_rng(seed)
    return [
        {
            "prompt": " ".join(["word"] * (1 + i % 7)) + (" pizza" if i % 3 == 0 else ""),
            "group": "en" if i % 2 else "fi",
            "uncertainty": float(rng.normal() + (i % 2 == 0)),
        }
        for i in range(count)
    ]


def test_quarters():
    found = records()
    rows = quarters(found, 50)
    ranked = sorted(found, key=lambda record: record["uncertainty"])
    for i, row in enumerate(rows[:4]):
        part = ranked[10 * i : 10 * i + 10]
        assert row["prompts"] == 10
        assert row["uncertainty"] == pytest.approx(numpy.mean([record["uncertainty"] for record in part]))
        assert row["words"] == pytest.approx(numpy.mean([len(record["prompt"].split()) for record in part]))
    rank = ranks(found, 50)[0]["Spearman"]
    u, words = [r["uncertainty"] for r in found], [len(r["prompt"].split()) for r in found]
    assert rank.value == pytest.approx(spearman(u, words))
    assert rank.low <= rank.value <= rank.high


def test_groups():
    found = records()
    first, second = groups(found, 50)
    assert (first["group"], second["group"]) == ("fi", "en")
    assert "AUROC against fi" not in first
    u, is_en = [r["uncertainty"] for r in found], [r["group"] == "en" for r in found]
    assert second["AUROC against fi"].value == pytest.approx(auroc(u, is_en))
    mean = numpy.mean([x for x, en in zip(u, is_en, strict=True) if en])
    assert second["mean"].value == pytest.approx(mean)


def test_groups_of_one_leave_gaps():
    alone, other = groups([{"prompt": "a", "group": g, "uncertainty": 1.0} for g in "ab"], 10)
    assert math.isnan(alone["standard deviation"])
    assert other["AUROC against a"].value == 0.5
    assert math.isnan(other["AUROC against a"].low)  # one prompt a group says nothing of how sure that is


def test_equal_scores():
    same = [record | {"uncertainty": 1.0} for record in records()]
    assert [row["prompts"] for row in quarters(same, 10)[:-2]] == [40]  # all in one quarter
    assert math.isnan(ranks(same, 10)[0]["Spearman"].value)
    assert [row["prompt"] for row in extremes(same, 40)[1]] == [record["prompt"] for record in same]


def test_words():
    found = records()
    for row in word_shares(found, "Pizza"):
        some = [record for record in found if record["group"] == row["group"]]
        lowest = sorted(some, key=lambda record: record["uncertainty"])[:5]
        held = [record for record in some if "pizza" in record["prompt"]]
        assert row["in the lowest quarter"] == pytest.approx(sum(r in lowest for r in held) / len(held))
    covered = [{"prompt": prompt, "uncertainty": 1.0} for prompt in ("Red wine", "a covered wagon", "red, or not?")]
    assert word_shares(covered, "red ")[0]["with 'red '"] == 2
    finnish = [{"prompt": prompt, "uncertainty": 1.0} for prompt in ("pala pizzaa", "pizza", "Pizzapala", "minipizza")]
    assert [word_shares(finnish, word)[0][f"with {word!r}"] for word in ("pizza", "pizza*")] == [1, 3]
    few = [{"prompt": "pizza" if i in (0, 1, 9) else "a dog", "uncertainty": float(i)} for i in range(12)]
    (row,) = word_shares(few, "pizza")
    assert row["in the lowest quarter"] == pytest.approx(2 / 3)
    assert row["p"] == pytest.approx((3 * 9 + 1) / 220)  # of the 220 ways to lie, those with two or three of the three
    assert math.isnan(word_shares(found, "sushi")[0]["in the lowest quarter"])
    (alike,) = word_shares([row | {"reference_text": f"scene {i % 6}"} for i, row in enumerate(few)], "pizza")
    assert math.isnan(alike["p"])  # which takes prompts for independent
    without = [{key: value for key, value in record.items() if key != "group"} for record in found]
    (everything,) = word_shares(without, "pizza")
    assert (everything["group"], everything["of all prompts"]) == ("all", 0.25)
    assert [row["group"] for row in word_shares([{**without[0], "group": ""}], "pizza")] == [""]


def test_extremes():
    most, least = extremes(records(), 3)
    ranked = sorted(record["uncertainty"] for record in records())
    assert [row["uncertainty"] for row in most] == ranked[::-1][:3]
    assert [row["uncertainty"] for row in least] == ranked[:3]


def drawn(count: int = 40) -> list[dict]:
    """Records with images that fit the worse, the more uncertain, and a baseline that knows nothing."""
    rng = numpy.random.default_rng(1)
    return [
        record
        | {"relative": 1.0, "clip": 30 - record["uncertainty"] + 0.1 * rng.normal(), "group": "abcd"[i % 4]}
        | {"baselines": {"chance": float(rng.normal())}}
        for i, record in enumerate(records(count))
    ]


def test_images_by_quarter():
    found = drawn()
    *rows, tau, p = quarters(found, 50)
    assert [row["CLIP score"] for row in rows] == sorted((row["CLIP score"] for row in rows), reverse=True)
    assert tau["CLIP score"].value < -0.7
    assert p["CLIP score"] < 1e-6
    assert p["words"] > 1e-6
    u, clip = ([record[key] for record in found] for key in ("uncertainty", "clip"))
    assert ranks(found, 50)[1]["Spearman"].value == pytest.approx(spearman(u, clip))


def test_the_best_number_comes_first():
    rows = compared(drawn(), 50)
    assert rows[0]["number"] == "uncertainty"
    assert rows[0]["Spearman with CLIP score"].value < -0.9
    assert rows[0]["of the best gain"].value > 0.95
    assert rows[0]["better by"].value == 0
    assert rows[0]["AUROC of the worst quarter"].value > 0.95
    chance = next(row for row in rows if row["number"] == "chance")
    assert chance["AUROC of the worst quarter"].low < 0.5 < chance["AUROC of the worst quarter"].high


def test_the_order_of_numbers():
    """By the images' fit, without images by the groups; a number that says nothing (nan) lies between good and bad."""
    rng = numpy.random.default_rng(0)
    found = sorted(drawn(), key=lambda record: record["uncertainty"])
    for i, record in enumerate(found):
        u = record["uncertainty"]
        record |= {"group": "low" if i < 20 else "high", "baselines": {"opposite": -u, "half": u + rng.normal()}}
    order = ["uncertainty", "half", "relative", "opposite"]
    assert [row["number"] for row in compared(found, 5)] == order
    without = [{key: value for key, value in record.items() if key != "clip"} for record in found]
    assert [row["number"] for row in compared(without, 5)] == order
    alone = compared([record | {"group": "a"} for record in without], 5)
    assert [row["number"] for row in alone] == ["uncertainty", "relative", "opposite", "half"]  # nothing to judge by
    assert list(alone[0]) == ["number", "Spearman with uncertainty", "at its ceiling"]
    assert "CLIP score" not in quarters(found[:-1] + without[-1:], 5)[0]  # an image is missing


def test_groups_by_uncertainty_and_fit():
    found = drawn()
    u, clip = (
        [numpy.mean([record[key] for record in found if record["group"] == name]) for name in "abcd"]
        for key in ("uncertainty", "clip")
    )
    row, _, ranked = group_correlations(found)
    assert (row["groups"], row["r"].value) == (4, pytest.approx(pearson(u, clip)))
    assert ranked["r"][1:] == pytest.approx(fisher(ranked["r"].value, 4, ranks=True)[1:], nan_ok=True)
    many = [{**record, "group": f"{i % 8}"} for i, record in enumerate(drawn(64))]
    ranked = group_correlations(many)[2]["r"]
    assert ranked == pytest.approx(fisher(ranked.value, 8, ranks=True))
    assert ranked.high > fisher(ranked.value, 8).high


def test_a_limit_saves_and_costs():
    rows = thresholds(drawn(), [1.0, 0.5])
    assert [row["drawn"] for row in rows] == [1.0, 0.5]
    assert math.isnan(rows[0]["of the others"])
    assert rows[1]["CLIP score of the drawn"] > rows[0]["CLIP score of the drawn"] > rows[1]["of the others"]


# Beside other libraries ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=range(3))
def known(request) -> tuple[list[dict], pandas.DataFrame]:
    """A random list with ties, and the same as a data frame."""
    rng = numpy.random.default_rng(request.param)
    rows = []
    for i in range(60):
        row = {"prompt": " ".join(["word"] * rng.integers(1, 9)), "group": "abc"[i % 3], "group_size": 1.0 + i % 3}
        row |= {"uncertainty": round(float(rng.gamma(2)), 1), "relative": float(rng.random())}
        row |= {"clip": round(float(rng.normal(30, 5)), 1), "ssim": float(rng.random())}
        rows.append(row | {"baselines": {"chance": round(float(rng.random()), 1)}})
    return rows, pandas.DataFrame(rows)


def test_quarters_beside_pandas(known):
    rows, frame = known
    frame = frame.assign(words=frame.prompt.str.split().str.len())
    frame["at"] = ((frame.uncertainty.rank() - 1) * 4 // len(frame)).astype(int)  # equal ones in one quarter
    *found, tau, p = quarters(rows, 10)
    columns = {"uncertainty": "uncertainty", "words": "words", "CLIP score": "clip", "SSIM": "ssim"}
    for ours, theirs in columns.items():
        assert [row[ours] for row in found] == pytest.approx(frame.groupby("at")[theirs].mean().tolist())
        if ours != "uncertainty":
            expected = stats.kendalltau(frame["at"], frame[theirs])
            assert (tau[ours].value, p[ours]) == pytest.approx((expected.statistic, expected.pvalue))
    for row, name in zip(ranks(rows, 10), ("words", "clip", "ssim"), strict=True):
        assert row["Spearman"].value == pytest.approx(stats.spearmanr(frame.uncertainty, frame[name]).statistic)


def test_groups_beside_pandas_and_scikit_learn(known):
    rows, frame = known
    found = groups(rows, 10)
    told = frame.groupby("group").uncertainty.agg(["mean", "std", "median"])
    for row in found:
        ours = row["mean"].value, row["standard deviation"], row["median"]
        assert ours == pytest.approx(tuple(told.loc[row["group"]]))
        assert row["mean CLIP score"] == pytest.approx(frame[frame.group == row["group"]]["clip"].mean())
    for row in found[1:]:
        two = frame[frame.group.isin(["a", row["group"]])]
        assert row["AUROC against a"].value == pytest.approx(roc_auc_score(two.group != "a", two.uncertainty))

    means = frame.groupby("group")[["uncertainty", "clip", "group_size"]].mean()
    medians = frame.groupby("group").uncertainty.median()
    for row, (name, mean) in zip(group_means(rows), means.iterrows(), strict=True):
        ours = [row[key] for key in ("uncertainty", "CLIP score", "size", "median")]
        assert ours == pytest.approx([*mean, medians[name]])
    r, of_medians, ranked = (row["r"].value for row in group_correlations(rows))
    assert r == pytest.approx(stats.pearsonr(means.uncertainty, means["clip"]).statistic)
    assert of_medians == pytest.approx(stats.pearsonr(medians, means["clip"]).statistic)
    assert ranked == pytest.approx(stats.spearmanr(medians, means["clip"]).statistic)


def test_numbers_beside_scipy_and_scikit_learn(known):
    rows, frame = known
    error = 100 - frame["clip"]
    for row in compared(rows, 10):
        values = frame.baselines.str["chance"] if row["number"] == "chance" else frame[row["number"]]
        expected = stats.spearmanr(values, frame["clip"]).statistic
        assert row["Spearman with CLIP score"].value == pytest.approx(expected)
        assert row["AUROC of the worst quarter"].value == pytest.approx(
            roc_auc_score(error > error.quantile(0.75), values)
        )
        assert row["AUROC of other groups than a"].value == pytest.approx(roc_auc_score(frame.group != "a", values))
        best, own = error.mean() - risks(error, error).mean(), error.mean() - risks(values, error).mean()
        assert row["of the best gain"].value == pytest.approx(own / best)
        expected = stats.spearmanr(frame.uncertainty, frame["clip"]).statistic - row["Spearman with CLIP score"].value
        assert row["better by"].value == pytest.approx(expected)
        within = [
            stats.spearmanr(values[of], frame["clip"][of]).statistic for of in frame.groupby("group").groups.values()
        ]
        assert row["within groups"] == pytest.approx(numpy.mean(within))


def risks(values: pandas.Series, error: pandas.Series) -> pandas.Series:
    """The mean error of the k least uncertain prompts; prompts of one value have their mean error."""
    shared = error.groupby(values).transform("mean")
    return shared[values.sort_values().index].expanding().mean()


def test_the_area_under_risks_is_the_curves(known):
    """The mean of the risks is the area under the curve's steps."""
    _, frame = known
    curve = risks(frame.relative, frame["clip"]).to_numpy()
    coverage = numpy.arange(len(curve) + 1) / len(curve)
    steps = numpy.repeat(coverage, 2)[1:-1], numpy.repeat(curve, 2)
    assert curve.mean() == pytest.approx(auc(*steps))


def test_limits_and_ablations_beside_pandas(known):
    rows, frame = known
    for row in thresholds(rows):
        drawn = frame.uncertainty <= row["limit"]
        assert row["limit"] in frame.uncertainty.to_numpy()
        assert row["drawn"] == pytest.approx(drawn.mean())
        assert row["CLIP score of the drawn"] == pytest.approx(frame["clip"][drawn].mean())
        assert row["of the others"] == pytest.approx(frame["clip"][~drawn].mean(), nan_ok=True)
    other = [row | {"uncertainty": row["relative"]} for row in rows]
    first, second = ablations({"own": rows, "other": other}, 10)
    assert first["Spearman with the first"] == pytest.approx(1)
    expected = stats.spearmanr(frame.relative, frame.uncertainty).statistic
    assert second["Spearman with the first"] == pytest.approx(expected)
    assert second["mean"] == pytest.approx(frame.relative.mean())
    expected = stats.spearmanr(frame.relative, frame["clip"]).statistic
    assert second["Spearman with CLIP score"].value == pytest.approx(expected)
    expected = roc_auc_score(frame.group != "a", frame.relative)
    assert second["AUROC of other groups than a"].value == pytest.approx(expected)
    order = frame["clip"].to_numpy()[numpy.argsort(frame.relative.to_numpy())]
    assert [second[f"Q{q}"] for q in (1, 2, 3, 4)] == pytest.approx(order.reshape(4, 15).mean(axis=1).tolist())


def test_a_group_of_two_sizes_is_refused():
    rows = [{"group": "a", "group_size": 1.0}, {"group": "b", "group_size": 2.0}, {"group": "a", "group_size": 3.0}]
    check_sizes(rows[:2])
    with pytest.raises(EmoeError, match=r"group 'a' has the sizes 1 and 3; give all of its prompts the same"):
        check_sizes(rows)


def test_a_ceiling():
    rows = [row | {"relative": 1.0, "baselines": {"flat": min(1.0, i / 20)}} for i, row in enumerate(records(36))]
    found = {row["number"]: row["at its ceiling"] for row in compared(rows, 5)}
    assert found["flat"] == pytest.approx(16 / 36)
    assert found["uncertainty"] == pytest.approx(1 / 36)
    below = [row | {"baselines": {"below": -1.0 - i}} for i, row in enumerate(rows)]
    assert {row["number"]: row for row in compared(below, 5)}["below"]["at its ceiling"] == pytest.approx(1 / 36)


def test_the_number_of_words_does_not_explain_itself():
    assert "given the number of words" not in ranks(records(), 5)[0]


def test_a_group_of_one_has_no_order_within_it():
    rows = [{"prompt": "x", "group": "a" if i < 6 else "b"} for i in range(7)]
    assert _within(rows, numpy.arange(7.0), numpy.arange(7.0)) == 1


def test_prompts_of_no_group_take_no_part():
    rows = [row | {"relative": 1.0} for row in records(40)]
    lost = [{**row, "group": "de"} if i % 5 == 0 else row for i, row in enumerate(rows)]
    none = [{key: row[key] for key in row if row[key] != "de"} for row in lost]
    some = [row for row in lost if row["group"] != "de"]
    name = "AUROC of other groups than en"
    found, expected = (compared(told, 5)[0][name].value for told in (none[1:], some))
    assert found == pytest.approx(expected)


# The whole list, and its experts --------------------------------------------------------------------------------------


def test_every_prompt_with_its_rank():
    rows = [
        {"prompt": name, "uncertainty": u, "id": i}
        for i, (name, u) in enumerate(zip("abcd", (2.0, 9.0, 2.0, 1.0), strict=True))
    ]
    found = every_prompt(rows)
    assert [(row["rank"], row["prompt"], row["percentile"]) for row in found] == [
        (1, "b", 87.5),
        (2, "a", 50.0),
        (3, "c", 50.0),
        (4, "d", 12.5),
    ]
    assert found[0]["id"] == 1


def test_what_the_gate_makes_of_experts():
    weights = [[0.6, 0.4, 0.0], [0.5, 0.0, 0.5], [0.7, 0.3, 0.0], [0.0, 0.9, 0.1]]
    rows = [{"weights": own, "uncertainty": float(u)} for own, u in zip(weights, (1, 2, 3, 4), strict=True)]
    first, second, third = experts(rows)
    assert (first["expert"], first["chosen for"], first["mean weight"]) == (1, 0.75, pytest.approx(0.45))
    assert (first["median uncertainty where chosen"], first["elsewhere"]) == (2, 4)
    assert second["chosen for"] == 0.75
    assert third["elsewhere"] == 2
    assert experts([row | {"weights": None} for row in rows]) == []
    everywhere = experts([{"weights": [0.5, 0.5], "uncertainty": 1.0}])
    assert math.isnan(everywhere[0]["elsewhere"])
