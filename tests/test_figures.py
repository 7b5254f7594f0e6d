"""Figures: names at their points, and labels that can be read."""

from __future__ import annotations

from itertools import combinations

import numpy
import pytest

pytest.importorskip("matplotlib", reason="needs emoe[study]")

from emoe.commands.demo import DRAWN, _is_clear, _told
from emoe.miniature.world import World
from emoe.study.figures import by_quarter, group_points, risk


def records(groups: int, seed: int = 0) -> list[dict]:
    """Three prompts of each group."""
    rng = numpy.random.default_rng(seed)
    return [
        {"prompt": f"{group} {i}", "group": f"language {group}", "uncertainty": float(rng.lognormal()), "relative": 1.0,
         "clip": float(rng.normal(30, 3)), "by_seed": [1.0, 2.0]}
        for group in range(groups) for i in range(3)
    ]  # fmt: skip


@pytest.mark.parametrize("groups", [2, 7, 25])
def test_every_group_has_its_name_and_none_covers_another(groups):
    figure = group_points(records(groups))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    boxes = {text.get_text(): text.get_window_extent() for text in ax.texts if text.get_text()}
    assert set(boxes) == {f"language {i}" for i in range(groups)}
    assert not any(a.overlaps(b) for a, b in combinations(boxes.values(), 2))
    assert all(ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 for box in boxes.values())


def test_what_a_figure_says_of_its_numbers():
    rows = records(4)
    (ax,) = by_quarter(rows, "CLIP score").axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [f"Q{q}\nn = 3" for q in (1, 2, 3, 4)]
    rows = [row | {"baselines": {"silence": -row["clip"], "tokens": 3.0}} for row in rows]
    (ax,) = risk(rows, ["relative", "silence", "tokens"]).axes
    *told, best = (text.get_text() for text in ax.get_legend().texts)
    assert told[:2] == ["uncertainty (2 noises)", "relative (2 noises)"]
    assert told[2].endswith("(one noise)")
    assert told[3] == "tokens: how few the prompt has"
    assert "best possible" in best


def test_the_demo_draws_scenes_that_are_told_to_be_clear():
    told = [scene for scene, _ in _told(World()) if _is_clear(scene)]
    assert len(told) == DRAWN
    for scene in told:
        (thing,) = scene.things
        assert (thing.size, thing.shape == "pizza", scene.style == "outline") == ("large", False, False)
