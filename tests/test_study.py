"""emoe study: from a list of prompts to a report."""

from __future__ import annotations

import csv
import json
import math
from html.parser import HTMLParser

import numpy
import pytest
from conftest import score

from emoe.records import RecordFile
from emoe.study.questions import extremes, groups, length, quarters, word_shares
from emoe.study.report import Report
from emoe.study.statistics import Interval, auroc, spearman

PROMPTS = [("en", "a red bus"), ("en", "a cat and a dog at night"), ("en", "a house"),
           ("fi", "punainen bussi"), ("fi", "kissa"), ("fi", "<b>talo</b> | yö")]  # fmt: skip


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


# The questions --------------------------------------------------------------------------------------------------------


def test_quarters():
    found = records()
    rows = quarters(found, 50)
    ranked = sorted(found, key=lambda record: record["uncertainty"])
    for i, row in enumerate(rows[:4]):
        part = ranked[10 * i : 10 * i + 10]
        assert row["prompts"] == 10
        assert row["uncertainty"] == pytest.approx(numpy.mean([record["uncertainty"] for record in part]))
        assert row["words"] == pytest.approx(numpy.mean([len(record["prompt"].split()) for record in part]))
    rank = length(found, 50)[0]["Spearman of uncertainty and words"]
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


def test_equal_scores():
    same = [record | {"uncertainty": 1.0} for record in records()]
    assert all(row["uncertainty"] == 1 for row in quarters(same, 10)[:4])
    assert math.isnan(length(same, 10)[0]["Spearman of uncertainty and words"].value)


def test_words():
    found = records()
    for row in word_shares(found, "Pizza"):
        some = [record for record in found if record["group"] == row["group"]]
        lowest = sorted(some, key=lambda record: record["uncertainty"])[:5]
        held = [record for record in some if "pizza" in record["prompt"]]
        assert row["in the lowest quarter"] == pytest.approx(sum(r in lowest for r in held) / len(held))
    assert math.isnan(word_shares(found, "sushi")[0]["in the lowest quarter"])
    without = [{key: value for key, value in record.items() if key != "group"} for record in found]
    assert [row["group"] for row in word_shares(without, "pizza")] == ["all"]


def test_extremes():
    most, least = extremes(records(), 3)
    ranked = sorted(record["uncertainty"] for record in records())
    assert [row["uncertainty"] for row in most] == ranked[::-1][:3]
    assert [row["uncertainty"] for row in least] == ranked[:3]


# The report -----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The cells and the open elements of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.cells, self.open, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for key, value in attributes if key in ("src", "href")]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_a_page_is_whole_and_alone(tmp_path):
    report = Report("<Title>")
    report.section("A & b", "said <i>so</i>")
    report.table([{"name": "<b>|</b>", "n": Interval(0.5, 0.25, 0.75)}, {"name": "x", "other": 1}], "caption")
    report.write_page(tmp_path / "page.html")
    report.write(tmp_path, "page")
    report.write_tables(tmp_path / "tables")
    page = Page((tmp_path / "page.html").read_text())
    assert page.open == []
    assert page.cells == ["name", "n", "other", "<b>|</b>", "0.500 (0.250 to 0.750)", "", "x", "", "1"]
    assert all(link.startswith("data:") for link in page.links)
    assert "| <b>\\|</b> | 0.500 (0.250 to 0.750) |  |" in (tmp_path / "page.md").read_text()
    with (tmp_path / "tables" / "01-a-b.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", "n", "n, low", "n, high", "other"], ["<b>|</b>", "0.5", "0.25", "0.75", ""],
                    ["x", "", "", "", "1"]]  # fmt: skip


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "list.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("group", "prompt"), *PROMPTS])
    return path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_study_cut_short_ends_with_the_same_report(run, weights, listed, monkeypatch, tmp_path):
    arguments = ("study", "--prompts", str(listed), "--word", "bus", *score(weights=weights)[1:])
    assert run(*arguments, "--out", str(tmp_path / "whole"))[0] == 0
    write = RecordFile.write

    def cut_short(file, found):
        write(file, found)
        if len(file.path.read_text().splitlines()) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "write", cut_short)
        assert run(*arguments, "--out", str(tmp_path / "cut"))[0] == 130
    assert not (tmp_path / "cut" / "report.html").exists()
    assert run(*arguments, "--out", str(tmp_path / "cut"))[0] == 0
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")

    records = [json.loads(line) for line in (tmp_path / "cut" / "scores.jsonl").read_text().splitlines()]
    assert [(record["group"], record["prompt"]) for record in records] == PROMPTS
    page = Page((tmp_path / "cut" / "report.html").read_text())
    assert page.open == []
    assert "<b>talo</b> | yö" in page.cells
    assert {"AUROC against en", "with 'bus'"} <= set(page.cells)


def test_one_prompt(run, weights, tmp_path):
    code, _, err = run("study", "a red bus", *score(weights=weights)[1:], "--out", str(tmp_path / "one"))
    assert code == 0, err
    assert "Groups" not in (tmp_path / "one" / "report.md").read_text()


@pytest.mark.parametrize("others", [("--seed", "1"), ("--read-out", "pre")])
def test_another_study_is_refused(run, weights, tmp_path, others):
    arguments = ("study", "a red bus", *score(weights=weights)[1:], "--out", str(tmp_path / "one"))
    assert run(*arguments)[0] == 0
    before = contents(tmp_path / "one")
    code, _, err = run(*arguments, *others)
    assert (code, len(err.splitlines())) == (2, 1)
    assert contents(tmp_path / "one") == before


@pytest.mark.parametrize("out", ["/proc/study", "file"])
def test_mistakes_are_found_before_scoring(run, weights, monkeypatch, tmp_path, out):
    monkeypatch.setattr("emoe.pipeline.EMoE.from_toml", lambda *a, **k: pytest.fail("loaded"))
    (tmp_path / "file").write_text("")
    arguments = ("study", "a", *score(weights=weights)[1:])
    for wrong in (("--out", str(tmp_path / out)), ("--out", str(tmp_path / "new"), "--word", " ")):
        code, _, err = run(*arguments, *wrong)
        assert (code, len(err.splitlines())) == (2, 1)
    assert not (tmp_path / "new").exists()
