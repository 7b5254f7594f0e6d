"""Prompts that tell the same scenes: the scenes are the sample, in pairs, means, intervals and tests."""

from __future__ import annotations

import math

import numpy
import pandas
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from emoe.study.columns import scenes
from emoe.study.groups import groups, pairs, separation
from emoe.study.questions import compared, quarters, ranks
from emoe.study.statistics import auroc, bootstrap


def told(scenes: int = 12, seed: int = 0) -> list[dict]:
    """Scenes in three languages: "hard" is twice as uncertain as "plain", "same" is not, but each scene by itself."""
    rng = numpy.random.default_rng(seed)
    rows = []
    for scene in range(scenes):
        level = rng.lognormal(sigma=2)
        for group, factor in (("plain", 1), ("hard", 2), ("same", 1)):
            noises = (level * factor * rng.lognormal(sigma=0.1, size=3)).tolist()
            row = {
                "prompt": f"{group} {'and ' * (scene % 4)}{scene}",
                "group": group,
                "reference_text": f"scene {scene}",
            }
            rows.append(row | {"uncertainty": float(numpy.mean(noises)), "relative": 1.0, "by_seed": noises})
    return rows


def test_pairs_beside_scipy_and_pandas():
    rows = told()
    frame = pandas.DataFrame(rows).pivot(index="reference_text", columns="group", values="uncertainty")
    hard, same = pairs(rows, 200)
    assert (hard["group"], hard["pairs"]) == ("hard", 12)
    for row in (hard, same):
        logs = numpy.log(frame[row["group"]] / frame["plain"])
        assert row["times the first"].value == pytest.approx(stats.gmean(frame[row["group"]] / frame["plain"]))
        assert row["pairs above"] == (logs > 0).mean()
        assert row["p"] == pytest.approx(stats.wilcoxon(logs).pvalue)
    assert 1.8 < hard["times the first"].low < 2 < hard["times the first"].high < 2.2
    assert hard["p (Holm)"] == 2 * hard["p"] < 0.05 < same["p (Holm)"]
    noises = numpy.array([row["by_seed"] for row in rows]).reshape(12, 3, 3)  # scene, language, noise
    ratios = stats.gmean(noises[:, 1] / noises[:, 0])
    assert hard["noise by noise"] == f"{ratios.min():.3f} to {ratios.max():.3f}"
    drawn = pairs([row | {"clip": 30.0 - (row["group"] == "hard")} for row in rows], 20)
    assert drawn[0]["CLIP score, difference"].value == -1


def test_pairs_see_what_independent_prompts_would_not():
    """Scenes differ far more than languages."""
    alone = [{key: value for key, value in row.items() if key != "reference_text"} for row in told()]
    beside = groups(alone, 200)[1]["AUROC against plain"]
    assert beside.low < 0.5 < beside.high
    assert groups(told(), 200)[1]["AUROC against plain"].low > 0.5  # the same scenes on both sides
    assert pairs(told(), 200)[0]["times the first"].low > 1


def test_lists_without_pairs():
    rows = told()
    assert pairs([{key: v for key, v in row.items() if key != "reference_text"} for row in rows], 10) == []
    assert pairs([row for row in rows if row["group"] == "hard"], 10) == []
    assert pairs([], 10) == []
    assert pairs([row | {"uncertainty": 0.0} for row in rows], 10) == []  # no ratio


def test_what_tells_one_scene_in_one_group_is_one():
    """Its geometric mean is what is compared: three prompts of a scene are one pair, as one is."""
    rows = [row | {"clip": 30.0 - (row["group"] == "hard")} for row in told()]

    def at(row, factor):
        return row | {key: numpy.multiply(row[key], factor).tolist() for key in ("uncertainty", "by_seed")}

    often = [at(row, factor) for row in rows for factor in ((1, 4, 0.25) if row["group"] == "hard" else (1,))]
    for once, thrice in zip(pairs(rows, 50), pairs(often, 50), strict=True):
        assert once.keys() == thrice.keys()
        for key, value in once.items():
            assert thrice[key] == value if isinstance(value, str) else thrice[key] == pytest.approx(value), key


def test_scenes_are_the_sample_of_a_groups_mean():
    """Three prompts a scene say no more of other scenes than one: the interval does not shrink."""
    rows = [row for row in told() if row["group"] == "plain"]
    thrice = [row | {"prompt": f"{row['prompt']} {i}"} for row in rows for i in range(3)]
    once, often = (groups(some, 2000)[0]["mean"] for some in (rows, thrice))
    assert often.value == pytest.approx(once.value)
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.1)


def test_groups_that_are_paired_are_tested_in_pairs_alone():
    assert "p" not in groups(told(), 10)[1]
    alone = [{key: v for key, v in row.items() if key != "reference_text"} for row in told()]
    first, hard, same = groups(alone, 10)
    u = {name: [row["uncertainty"] for row in alone if row["group"] == name] for name in ("plain", "hard", "same")}
    assert "p" not in first
    for row in (hard, same):
        assert row["p"] == pytest.approx(stats.mannwhitneyu(u[row["group"]], u["plain"]).pvalue)
    assert max(hard["p (Holm)"], same["p (Holm)"]) >= max(hard["p"], same["p"])


def test_a_group_of_another_list_is_corrected_with_those_that_are_not_paired():
    """Two groups tell the same; a third does not, and is tested as it is."""
    other = [row | {"group": "other", "reference_text": f"another {row['prompt']}"} for row in told(seed=1)[::3]]
    plain, hard, same, alone = groups([*told(), *other], 10)
    assert "p" not in plain | hard | same
    assert alone["p (Holm)"] == alone["p"]


def test_prompts_of_no_group_are_none_of_the_group_none():
    rows = [{"prompt": str(i), "uncertainty": 1.0 + i, "relative": 1.0} for i in range(6)]
    named = [row | {"group": "None" if i < 2 else "x"} for i, row in enumerate(rows[:4])]
    assert [row["prompts"] for row in groups([*named, *rows[4:]], 10)] == [2, 2]


def test_scenes_are_the_sample():
    """The same prompts over and over make nothing surer."""
    once = told()
    often = [row for row in once for _ in range(5)]
    sure, far = (ranks(rows, 300)[0]["Spearman"] for rows in (often, once))
    assert sure.high - sure.low == pytest.approx(far.high - far.low, rel=0.15)
    *_, p = quarters(often, 10)
    assert math.isnan(p["words"])
    assert scenes([{"reference_text": "a"}, {"reference_text": "b"}, {}]) is None
    assert scenes([{"reference_text": "a"}, {"reference_text": "a"}, {}, {}]).tolist() in ([2, 2, 0, 1], [0, 0, 1, 2])


def test_noise_by_noise():
    rows = told()
    noises = numpy.array([row["by_seed"] for row in rows]).T
    hard = groups(rows, 10)[1]
    mine = numpy.array([row["group"] in ("plain", "hard") for row in rows])
    other = numpy.array([row["group"] == "hard" for row in rows])[mine]
    found = [roc_auc_score(other, u[mine]) for u in noises]
    assert hard["noise by noise"] == f"{min(found):.3f} to {max(found):.3f}"
    assert "noise by noise" not in groups([{k: v for k, v in row.items() if k != "by_seed"} for row in rows], 10)[1]


def test_baselines_are_held_against_the_noise_they_had():
    """A baseline that is the first noise's own uncertainty is no better and no worse."""
    rows = [row | {"clip": -row["uncertainty"], "baselines": {"first": row["by_seed"][0]}} for row in told()]
    found = {row["number"]: row for row in compared(rows, 20)}
    assert found["first"]["better by"] == (0, 0, 0)
    assert found["uncertainty"]["better by"] == (0, 0, 0)


def test_scenes_that_are_alike_are_not_above():
    rows = [row | {"uncertainty": 1.0} if row["prompt"].endswith(" 0") else row for row in told()]
    rows = [{key: row[key] for key in row if key != "by_seed"} for row in rows]
    assert pairs(rows, 10)[0]["pairs above"] == 11 / 12


def test_without_scenes_the_groups_keep_their_sizes():
    values, other = numpy.random.default_rng(0).normal(size=40), numpy.arange(40) < 6
    found = separation([{"prompt": str(i)} for i in range(40)], values, other, 200)
    assert found == bootstrap(auroc, values, other, strata=other, resamples=200)
