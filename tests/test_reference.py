"""A score beside a reference list's: percentiles, limits, and what does not compare."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy
import pytest
from conftest import score
from scipy.stats import percentileofscore

from emoe import EmoeError
from emoe.records import RecordFile
from emoe.reference import Reference, load_reference, quantiles, save_reference
from emoe.scores import Reading

pytestmark = pytest.mark.usefixtures("loaded_once")

READING = Reading(size=64)
PROMPTS = ["a red bus", "a cat", "two dogs", "an old house", "a green bird"]


def reference(values) -> Reference:
    return Reference(sorted(values), "0123abcd", READING)


def test_percentiles_are_scipys():
    values = numpy.random.default_rng(0).normal(size=300).round(1).tolist()  # with ties
    for value in (-9.0, *values[:20], 0.05, 9.0):
        assert reference(values).percentile(value) == pytest.approx(percentileofscore(values, value, "mean"), abs=0.01)


def test_a_limit_lets_its_share_through():
    values = numpy.random.default_rng(1).exponential(size=200).tolist()
    for percent in (0, 10, 50, 90, 100):
        limit = reference(values).limit(percent)
        assert sum(limit is None or value <= limit for value in values) == 2 * percent
    with pytest.raises(EmoeError, match="between 0 and 100"):
        reference(values).limit(101)
    with pytest.raises(EmoeError, match="no limit is so low: of the reference, 2 scores at 0"):
        reference([0.0, 0.0, 1.0]).limit(10)
    assert reference([0.0, 0.0, 1.0]).limit(50) == 0
    assert quantiles([3.0, 1.0, 2.0], (50, 100)) == {50: 2.0, 100: 3.0}
    assert quantiles([3.0, 1.0, 2.0, 4.0], (50,)) == {50: 2.0}  # a value of the list: half of it is at most that


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 2.0, 2.0, 9.0], [1.0, 3.0, 4.0], [5.0]])
@pytest.mark.parametrize("percent", [0, 12.5, 20, 25, 33.33, 37.5, 50, 62.5, 66.67, 80, 87.5, 99, 100])
def test_a_limit_and_what_is_shown_agree(values, percent):
    """What is drawn is what has no percentile above it."""
    limit = reference(values).limit(percent)
    for u in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 8.0, 9.0, 9.5):
        assert (limit is None or u <= limit) == (reference(values).percentile(u) <= percent), u


def test_there_and_back(tmp_path):
    path = tmp_path / "reference.json"
    before = reference([1.5, 2.5, 2.5])
    save_reference(before, path)
    assert load_reference(path) == before
    assert load_reference(path).mark == before.mark != reference([1.5, 2.5]).mark


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"seeds": 2}, {"timestep": 1}, {"size": 128}, {"read_out": "pre"}, {"estimator": "eu-over-answer"}],
)
def test_every_part_of_the_reading_counts(other):
    reference([1.0]).check(READING, "0123abcd")
    with pytest.raises(EmoeError, match=f"made with {next(iter(other))} "):
        reference([1.0]).check(replace(READING, **other))
    with pytest.raises(EmoeError, match="made with mixture 0123abcd, this run has 89abcdef"):
        reference([1.0]).check(READING, "89abcdef")
    reference([1.0]).check(replace(READING, size=None))  # before anything is loaded, which may yet be the same


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"emoe": "reference"}',
        '{"emoe": "scores", "mixture": "a", "uncertainty": [1.0]}',
        '{"emoe": "reference", "mixture": "a", "uncertainty": []}',
        '{"emoe": "reference", "mixture": "a", "uncertainty": [2.0, 1.0]}',
        '{"emoe": "reference", "mixture": "a", "uncertainty": [1.0, NaN]}',
        '{"emoe": "reference", "mixture": "a", "uncertainty": ["1"]}',
        '{"emoe": "reference", "mixture": "a", "uncertainty": [1.0], "colour": "red"}',
        '{"emoe": "reference", "mixture": 5, "uncertainty": [1.0]}',
        "[" * 100_000,
    ],
)
def test_other_files_are_refused(text, tmp_path):
    path = tmp_path / "reference.json"
    path.write_text(text)
    with pytest.raises(EmoeError, match=r"reference\.json") as error:
        load_reference(path)
    assert "\n" not in str(error.value)


@pytest.fixture
def made(run, weights, tmp_path):
    path = tmp_path / "reference.json"
    code, out, err = run("calibrate", *PROMPTS, "--weights", str(weights), "--size", "64", "--out", str(path))
    assert code == 0
    assert "rough" in err
    assert "50 % of 5 prompts" in out
    return path


def test_scores_compare_with_it(run, weights, made):
    code, out, _ = run(*score(*PROMPTS, "--json", "--reference", str(made), weights=weights))
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert sorted(record["percentile"] for record in records) == [10, 30, 50, 70, 90]
    assert len({record["reference"] for record in records}) == 1
    ranked = sorted(records, key=lambda record: record["uncertainty"])
    assert [record["percentile"] for record in ranked] == [10, 30, 50, 70, 90]

    _, out, _ = run(*score("a cat", "--reference", str(made), weights=weights))
    assert "more uncertain than" in out.splitlines()[0]
    assert "% of reference" in out.splitlines()[1]


@pytest.mark.parametrize(
    ("others", "what"),
    [
        (("--seed", "1"), "seed"),
        (("--timestep", "500"), "timestep"),
        (("--read-out", "pre"), "read_out"),
        (("--estimator", "eu-over-answer"), "estimator"),
    ],
)
def test_scores_of_another_reading_do_not(run, weights, made, monkeypatch, others, what):
    monkeypatch.setattr("emoe.pipeline.EMoE.from_toml", lambda *a, **k: pytest.fail("loaded"))
    code, out, err = run(*score("a cat", *others, "--reference", str(made), weights=weights))
    assert code == 2
    assert out == ""
    assert what in err
    assert "emoe calibrate" in err


@pytest.mark.slow
def test_a_file_of_scores_belongs_to_one_reference(run, weights, made, tmp_path):
    out = tmp_path / "scores.jsonl"
    arguments = score(*PROMPTS, "--out", str(out), weights=weights)
    assert run(*arguments)[0] == 0
    assert run(*arguments, "--reference", str(made))[0] == 2  # its records say nothing of a reference
    out.unlink()
    assert run(*arguments, "--reference", str(made))[0] == 0
    assert run(*arguments, "--reference", str(made))[0] == 0
    assert run(*arguments)[0] == 2


@pytest.mark.parametrize("last", [2, 4])
def test_a_calibration_cut_short_goes_on(run, weights, made, monkeypatch, tmp_path, last):
    out, kept = tmp_path / "list.json", tmp_path / ".list.json.scores.jsonl"
    arguments = ("calibrate", *PROMPTS[:4], *score(weights=weights)[1:], "--batch-size", "2", "--out", str(out))
    write = RecordFile.write

    def cut_short(file, records):
        write(file, records)
        if len(kept.read_text().splitlines()) == last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RecordFile, "write", cut_short)
        assert run(*arguments)[0] == 130
    assert not out.exists()
    assert len(kept.read_text().splitlines()) == last
    code, _, err = run("calibrate", "a cat", *score(weights=weights)[1:], "--out", str(out))
    assert (code, len(err.splitlines())) == (2, 1)  # what is there belongs to another list
    assert run(*arguments)[0] == 0
    assert not kept.exists()
    whole = tmp_path / "whole.json"
    assert run(*arguments[:-1], str(whole))[0] == 0
    assert out.read_text() == whole.read_text()


def test_nothing_else_is_replaced(run, weights, made, tmp_path):
    other = tmp_path / "diary.json"
    other.write_text("{}")
    code, _, err = run("calibrate", "a cat", "--weights", str(weights), "--out", str(other))
    assert code == 2
    assert "diary.json is there already" in err
    assert other.read_text() == "{}"


@pytest.mark.parametrize("name", ["", "list.txt", "nowhere/list.json", "/proc/list.json"])
def test_a_place_that_cannot_be_written_is_found_before_scoring(run, weights, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emoe.pipeline.EMoE.from_toml", lambda *a, **k: pytest.fail("loaded"))
    for command in (("calibrate", "a cat", "--weights", str(weights)), ("demo",)):
        code, out, err = run(*command, "--out", name)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_generate_halts_by_it(run, weights, made, tmp_path):
    size = ("--weights", str(weights), "--size", "64", "--steps", "25", "--mode", "fast", "--guidance", "1")
    folder = tmp_path / "drawn"
    code, _, err = run(
        "generate", *PROMPTS, *size, "--reference", str(made), "--max-percentile", "40", "--out", str(folder)
    )
    records = [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]
    assert code == 3
    assert sum(record["halted"] for record in records) == 3
    assert all(record["halted"] == (record["percentile"] > 40) for record in records)
    for wrong in (
        ("--max-percentile", "40"),
        ("--max-percentile", "40", "--max-uncertainty", "1", "--reference", str(made)),
        ("--mode", "mixture", "--reference", str(made)),
        ("--max-percentile", "400", "--reference", str(made)),
        ("--steps", "24", "--reference", str(made)),
    ):
        code, _, err = run("generate", "a cat", *size, *wrong, "--out", str(tmp_path / "other"))
        assert code == 2
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "other").exists()


def test_whatever_a_reference_is_of_marks_it():
    one = Reference([5.0], "0123abcd", Reading(size=64))
    others = replace(one, mixture="x"), replace(one, reading=Reading(size=128)), replace(one, uncertainty=[6.0])
    assert len({one.mark, *(other.mark for other in others)}) == 4


def test_a_limit_has_six_digits_as_records_do():
    assert Reference([5.0], "0123abcd", Reading(size=64)).limit(20) == 4.99999
