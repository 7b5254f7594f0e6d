"""Scores on disk: a run cut short goes on, and nobody else's file is touched."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import score

from emoe import EMoE, EmoeError
from emoe.atomic import atomic
from emoe.exclusive import exclusive
from emoe.records import USUAL, RecordFile
from emoe.scores import Reading

pytestmark = pytest.mark.usefixtures("loaded_once")

PROMPTS = ["a red bus", "punainen bussi", "a cat"]


def test_out(run, weights, tmp_path):
    path = tmp_path / "scores.jsonl"
    code, out, err = run(*score(*PROMPTS, "--out", str(path), weights=weights))
    assert (code, out, err) == (0, "", f"emoe: 3 scores in {path}\n")
    expected = path.read_text()
    assert [json.loads(line)["prompt"] for line in expected.splitlines()] == PROMPTS

    lines = expected.splitlines(keepends=True)
    for kept in (
        "",
        lines[0],
        lines[0] + lines[1][:40],
        lines[0] + lines[1][:-1],
        "".join(lines),
    ):  # killed here, and started again
        path.write_text(kept)
        assert run(*score(*PROMPTS, "--out", str(path), weights=weights))[0] == 0
        assert path.read_text() == expected
    assert "is complete already: 3 scores" in run(*score(*PROMPTS, "--out", str(path), weights=weights))[2]


def test_json_beside_a_file_is_what_is_new(run, weights, tmp_path):
    path = tmp_path / "scores.jsonl"
    arguments = score(*PROMPTS, "--json", "--out", str(path), weights=weights)
    printed = run(*arguments)[1].splitlines()
    kept = path.read_text().splitlines(keepends=True)
    assert [json.loads(line)["uncertainty"] for line in printed] == [json.loads(line)["uncertainty"] for line in kept]
    path.write_text(kept[0])
    assert run(*arguments)[1].splitlines() == printed[1:]
    assert path.read_text() == "".join(kept)


def test_a_column_that_the_list_has_no_longer(run, weights, tmp_path):
    """Nor does it go on where the list has got one: a study would speak of groups that nobody named."""
    path, (grouped, bare) = tmp_path / "scores.jsonl", (tmp_path / "grouped.csv", tmp_path / "bare.csv")
    grouped.write_text("group,prompt\nx,a\n")
    bare.write_text("prompt\na\n")
    for first, then in ((grouped, bare), (bare, grouped)):
        path.unlink(missing_ok=True)
        assert run(*score("--prompts", str(first), "--out", str(path), weights=weights))[0] == 0
        code, _, err = run(*score("--prompts", str(then), "--out", str(path), weights=weights))
        assert (code, "line 1 is not about prompt 1" in err) == (2, True)


def test_out_of_another_run(run, weights, tmp_path):
    path = tmp_path / "scores.jsonl"
    run(*score(*PROMPTS[:2], "--out", str(path), weights=weights))
    before = path.read_bytes()
    for arguments, sentence in (
        (["other", "a cat", "--out", str(path)], "line 1 is not about prompt 1"),
        ([PROMPTS[0], "--out", str(path)], "it holds 2 records, this run has 1 prompt"),
        ([*PROMPTS, "--seed", "5", "--out", str(path)], "its seed is 0, this run's 5"),
        ([*PROMPTS, "--read-out", "pre", "--out", str(path)], "its read_out is 'post', this run's 'pre'"),
        ([*PROMPTS, "--dtype", "bfloat16", "--out", str(path)], "its mixture is"),
    ):
        code, _, err = run(*score(*arguments, weights=weights))
        assert code == 2
        assert sentence in err
        assert path.read_bytes() == before


FOREIGN = {
    "text": "hello\n",
    "text without a line end": "hello",
    "an empty line": "\n",
    "zeros": "\0\0",
    "a list": "[1]\n",
    "too deep": "[" * 9999 + "\n",
    "half an object": '{"prompt": "x"\n',
    "another prompt": '{"prompt": "a catfish", "negative_prompt": "", "eu": 1}',
    "another prompt, as we write it": '{"prompt":"a catfish","eu":1}',
    "this prompt, with other things": '{"prompt":"a cat","width":512}',
    "another object": '{"title": "a cat"}',
}


@pytest.mark.parametrize("case", FOREIGN)
def test_out_that_is_no_score_file_is_kept(run, weights, tmp_path, case):
    path = tmp_path / "notes.txt"
    path.write_text(FOREIGN[case])
    assert run(*score("a cat", "--out", str(path), weights=weights))[0] == 2
    assert path.read_text() == FOREIGN[case]


def test_out_where_nothing_can_be_written(run, weights, tmp_path):
    code, _, err = run(*score("a cat", "--out", str(tmp_path / "no" / "x.jsonl"), weights=weights))
    assert (code, "there is no folder" in err) == (2, True)
    code, _, err = run(*score("a cat", "--out", str(tmp_path), weights=weights))
    assert (code, "is not a file that can be written to" in err) == (2, True)


def test_out_that_is_read_only(tmp_path, monkeypatch):
    """Said when it is opened, before hours of scoring. Permissions do not stop root, under which tests may run."""
    old, rows = tmp_path / "old.jsonl", [{"prompt": "a"}]
    RecordFile(old, rows).write([])
    for path, closed in ((old, old), (tmp_path / "new.jsonl", tmp_path)):
        monkeypatch.setattr("os.access", lambda at, mode, closed=closed: at != closed or mode != os.W_OK)
        with pytest.raises(EmoeError, match=f"cannot write {path}: Permission denied"):
            RecordFile(path, rows)


@pytest.mark.parametrize("name", [".", "/"])
def test_out_that_is_no_name(run, weights, name):
    code, _, err = run(*score("a cat", "--out", name, weights=weights))
    assert (code, "is not a file that can be written to" in err) == (2, True)


def test_a_link_and_its_file_are_one_place(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with exclusive(tmp_path / "link"):
        other = exclusive(tmp_path / "real")
        with pytest.raises(EmoeError, match="another emoe is writing"), other:
            pass
    with atomic(tmp_path / "link") as new:
        new.write_text("x")
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "real").read_text()) == (True, "x")


def test_a_full_disk(tmp_path):
    """Linux's /dev/full takes nothing."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    file = RecordFile(tmp_path / "x.jsonl", [{"prompt": "a"}])
    file.path = Path("/dev/full")
    with pytest.raises(EmoeError, match="No space left on device"):
        file.write([{"prompt": "a"}])


def test_a_write_that_fails_leaves_whole_lines(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            super().write(data[:5])
            raise OSError(28, "No space left on device")

    rows = [{"prompt": "a"}, {"prompt": "b"}]
    file = RecordFile(tmp_path / "x.jsonl", rows)
    file.write(rows[:1])
    before = file.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: Full(self, mode))
        with pytest.raises(EmoeError, match="No space left on device"):
            file.write(rows[1:])
    assert file.path.read_bytes() == before


def test_a_bad_weights_file_leaves_no_output(run, tmp_path):
    (tmp_path / "weights.toml").write_text("base = 3")
    out = tmp_path / "scores.jsonl"
    assert run("score", "a", "--weights", str(tmp_path / "weights.toml"), "--out", str(out))[0] == 2
    assert not out.exists()


@pytest.fixture(scope="module")
def begun(weights) -> str:
    """The file of a run that was killed after two prompts."""
    records = EMoE.from_toml(weights).score(PROMPTS[:2], size=64).records()
    return "".join(json.dumps(record) + "\n" for record in records)


CHANGES = {
    "nothing": ("top = 2", "top = 2\n"),
    "temperature": ("top = 2", "top = 2\ntemperature = 0.5"),
    "descriptor": ("anime", "manga"),
    "expert": ("expert_2.safetensors", "expert_1.safetensors"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_out_of_another_mixture(run, weights, begun, tmp_path, case):
    toml, path = tmp_path / "weights.toml", tmp_path / "scores.jsonl"
    text = Path(weights).read_text().replace("expert_", f"{Path(weights).parent}/expert_")
    toml.write_text(text.replace(*CHANGES[case]))
    assert toml.read_text() != text
    path.write_text(begun)
    code, _, err = run(*score(*PROMPTS, "--out", str(path), weights=str(toml)))
    assert code == (0 if case == "nothing" else 2)
    assert ("its mixture is" in err) == (case != "nothing")
    assert (path.read_text() == begun) == (case != "nothing")


PROMPT_FILES = {
    "p.txt": "a\nb\n",
    "q.txt": "a",
    "p.csv": "prompt,negative_prompt\na,x\n",
    "p.json": '["a"]',
    "p.jsonl": '{"prompt": "a"}\n{"prompt": "b"}\n',
    "with negatives.jsonl": '{"prompt": "a", "negative_prompt": ""}\n{"prompt": "b", "negative_prompt": ""}\n',
    "with ids.jsonl": '{"id": 1, "prompt": "a", "negative_prompt": ""}\n',
    "with more.jsonl": '{"prompt": "a", "negative_prompt": "", "width": 512}\n',
    "without a last line end.jsonl": '{"prompt": "a", "negative_prompt": ""}',
    "with more, without a last line end.jsonl": '{"prompt": "a", "negative_prompt": "", "width": 512}',
    "spaced as ours, without a last line end.jsonl": '{"prompt":"a","width":512}',  # it begins as a record does
}


@pytest.mark.parametrize("name", PROMPT_FILES)
def test_out_that_holds_the_prompts_is_kept(run, weights, tmp_path, name):
    path = tmp_path / name
    path.write_text(PROMPT_FILES[name])
    code, _, err = run(*score("--prompts", str(path), "--out", str(path), weights=weights))
    assert code == 2
    assert "name another place with --out" in err
    assert path.read_text() == PROMPT_FILES[name]


@pytest.mark.parametrize("with_reference", [False, True])
def test_a_list_with_every_column_goes_on(run, weights, tmp_path, with_reference):
    """What a file says of a prompt has other names than what a record says of its score."""
    path, out = tmp_path / "list.csv", tmp_path / "scores.jsonl"
    path.write_text("prompt,id,group,size,reference,image\na,1,x,2,b,c.png\nd,2,y,3,e,f.png\n")
    arguments = ["--prompts", str(path), *score(weights=weights)[1:]]
    if with_reference:
        assert run("calibrate", *arguments, "--out", str(tmp_path / "made.json"))[0] == 0
        arguments += ["--reference", str(tmp_path / "made.json")]
    assert run("score", *arguments, "--out", str(out))[0] == 0
    whole = out.read_bytes()
    assert json.loads(whole.splitlines()[0])["reference_text"] == "b"
    out.write_bytes(whole[: len(whole) * 2 // 3])
    assert run("score", *arguments, "--out", str(out))[0] == 0
    assert out.read_bytes() == whole


def test_a_run_goes_on_after_whole_batches(tmp_path):
    rows = [{"prompt": prompt} for prompt in "abcde"]
    path, records = tmp_path / "x.jsonl", [row | {"mixture": "x"} for row in rows]
    RecordFile(path, rows).write(records[:3])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + b'{"pro' + bytes(9))  # a kill, and a power cut
    file = RecordFile(path, rows)
    assert (file.go_on(2), file.records, path.read_bytes()) == (2, records[:2], b"".join(lines[:2]))
    file.write(records[2:])
    assert (RecordFile(path, rows).go_on(2), RecordFile(path, rows).records) == (5, records)


def test_what_is_usual_is_left_out_of_lines_and_read_again(tmp_path):
    rows = [{"prompt": "a", "negative_prompt": ""}, {"prompt": "b", "negative_prompt": "blurry"}]
    numbers = {"eu": 1.0, "uncertainty": 2.0, "relative": 3}
    records = [row | numbers | {"seeds": 1 + i, "estimator": "eu", "mixture": "x"} for i, row in enumerate(rows)]
    RecordFile(tmp_path / "x.jsonl", rows, USUAL).write(records)
    short, long = (json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines())
    assert short == {"prompt": "a", "mixture": "x"} | numbers
    assert long.keys() >= {"negative_prompt", "seeds"}
    again = RecordFile(tmp_path / "x.jsonl", rows, USUAL).records
    assert again == [USUAL | record for record in records]
    assert asdict(Reading()).items() >= {key: USUAL[key] for key in ("seeds", "read_out", "estimator")}.items()


@pytest.mark.parametrize(
    ("score", "sentence"),
    [(f'"eu":{eu},', "for its eu, no number") for eu in ("NaN", "Infinity", '"1"', "true")]
    + [("", "line 1 has no eu")],
)
def test_a_score_is_a_number(tmp_path, score, sentence):
    line = f'{{"prompt":"a","mixture":"m",{score}"uncertainty":1,"relative":1}}\n'
    (tmp_path / "s.jsonl").write_text(line)
    with pytest.raises(EmoeError, match=sentence):
        RecordFile(tmp_path / "s.jsonl", [{"prompt": "a"}], USUAL)
