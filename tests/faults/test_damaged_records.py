"""What kills, power cuts and bad disks leave at the end of a file of scores: repaired, or one clear line."""

from __future__ import annotations

import json

import pytest
from conftest import score
from processes import one_line

pytestmark = pytest.mark.faults

PROMPTS = ["a red bus", "yöllä ☃ 夜の赤いバス", "a cat", "a house"]


@pytest.fixture(scope="module")
def scored(weights, tmp_path_factory) -> bytes:
    """A whole file, of which each test damages a copy."""
    from emoe.__main__ import main

    path = tmp_path_factory.mktemp("scores") / "scores.jsonl"
    assert main(score(*PROMPTS, "--out", str(path), weights=weights)) == 0
    return path.read_bytes()


def rows(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


ZEROS = b"\0" * 3000
REPAIRED = {
    "cut in a character": lambda d: d[: d.index("夜".encode()) + 1],
    "cut in an escape": lambda d: d[: d.index(b'"prompt":"a cat') + 9],
    "cut in a number": lambda d: d[: d.rindex(b'"eu":') + 8],
    "cut after a brace": lambda d: d[:-1],
    "cut to one byte of a line": lambda d: b"".join(rows(d)[:2]) + b"{",
    "zeros after whole lines": lambda d: b"".join(rows(d)[:3]) + ZEROS,
    "zeros after half a line": lambda d: d[: d.rindex(b'"eu":') + 8] + ZEROS,
    "zeros after half a character": lambda d: d[: d.index("夜".encode()) + 1] + ZEROS,
    "zeros after everything": lambda d: d + ZEROS,
    "one zero": lambda d: d + b"\0",
    "empty": lambda d: b"",
}


@pytest.mark.parametrize("case", REPAIRED)
def test_repaired(run, weights, scored, tmp_path, case):
    path = tmp_path / "scores.jsonl"
    path.write_bytes(REPAIRED[case](scored))
    code, _, err = run(*score(*PROMPTS, "--out", str(path), weights=weights))
    assert (code, err.count("\n")) == (0, 1), err
    assert path.read_bytes() == scored


def swapped(data: bytes, number: int, old: bytes, new: bytes) -> bytes:
    """With something else in a line, by its number from 1 on."""
    lines = rows(data)
    assert old in lines[number - 1]
    lines[number - 1] = lines[number - 1].replace(old, new)
    return b"".join(lines)


SAID = {
    "zeros in a line": (lambda d: swapped(d, 4, b'"eu":', b"\0\0\0\0\0"), "line 4 is not JSON; if the disk"),
    "zeros for a line": (lambda d: b"".join([*rows(d)[:2], b"\0" * 99 + b"\n", *rows(d)[3:]]), "line 3 is not JSON"),
    "zeros alone": (lambda d: ZEROS, "nothing but zero bytes"),
    "a byte that is no text": (lambda d: swapped(d, 2, b'"seed"', b'"se\xffd"'), "line 2 is not JSON"),
    "a number without its end": (lambda d: swapped(d, 4, b',"seed":0', b""), "its seed is None"),
    "a letter of a key": (lambda d: swapped(d, 2, b'"uncertainty"', b'"uncertaintx"'), "line 2 has no uncertainty"),
    "text for a number": (lambda d: swapped(d, 2, b'"eu":', b'"eu":"3","x":'), "line 2 has '3' for its eu, no number"),
    "no number at all": (lambda d: swapped(d, 3, b'"relative":', b'"relative":NaN,"x":'), "line 3 has nan for its rel"),
    "a line twice": (lambda d: b"".join([*rows(d)[:2], rows(d)[1]]), "line 3 is not about prompt 3"),
    "a line that is missing": (lambda d: b"".join([rows(d)[0], *rows(d)[2:]]), "line 2 is not about prompt 2"),
    "two lines in one": (lambda d: d.replace(b"}\n{", b"}{", 1), "line 1 is not JSON"),
    "a last line of another's": (lambda d: b"".join(rows(d)[:2]) + b'{"prompt":"a dog', "its last line is not one"),
}


@pytest.mark.parametrize("case", SAID)
def test_said(run, weights, scored, tmp_path, case):
    """What is damaged within is left as it is, with a line that says where."""
    damage, sentence = SAID[case]
    path = tmp_path / "scores.jsonl"
    path.write_bytes(damage(scored))
    before = path.read_bytes()
    one_line(run(*score(*PROMPTS, "--out", str(path), weights=weights)), sentence, "name another place with --out")
    assert path.read_bytes() == before


def test_what_the_line_says_helps(run, weights, scored, tmp_path):
    """Deleted from the damaged line on, the file is gone on with."""
    path = tmp_path / "scores.jsonl"
    path.write_bytes(swapped(scored, 3, b'"eu":', b"\0\0\0\0\0"))
    arguments = score(*PROMPTS, "--out", str(path), weights=weights)
    assert "line 3 is not JSON; if the disk has damaged it, delete it and what follows" in run(*arguments)[2]
    path.write_bytes(b"".join(rows(path.read_bytes())[:2]))
    assert run(*arguments)[0] == 0
    assert path.read_bytes() == scored


@pytest.mark.parametrize("command", ["calibrate", "generate", "study"])
def test_zeros_after_a_power_cut(run, weights, tmp_path, command):
    """Whatever is being written."""
    out = {"calibrate": "reference.json", "generate": "drawn", "study": "studied"}[command]
    kept = {"calibrate": ".reference.json.scores.jsonl", "generate": "drawn/generations.jsonl"}
    path = tmp_path / kept.get(command, "studied/scores.jsonl")
    arguments = [command, *PROMPTS, "--weights", weights, "--size", "64", "--steps", "2", "--out", str(tmp_path / out)]
    arguments += ["--mode", "fast"] if command == "generate" else []
    if command == "calibrate":
        assert run("score", *arguments[1:-1], str(path))[0] == 0
    else:
        assert run(*arguments)[0] == 0
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3] + ZEROS)
    code, _, err = run(*arguments)
    assert code == 0, err
    assert not path.exists() if command == "calibrate" else path.read_bytes() == whole


def test_a_batch_that_was_cut_in_two(run, weights, scored, tmp_path):
    """Its prompts are scored together again: the last digits depend on that."""
    path, whole = tmp_path / "cut.jsonl", tmp_path / "whole.jsonl"
    batch = ("--batch-size", "3")
    assert run(*score(*PROMPTS, *batch, "--out", str(whole), weights=weights))[0] == 0
    path.write_bytes(b"".join(rows(whole.read_bytes())[:2]))
    assert run(*score(*PROMPTS, *batch, "--out", str(path), weights=weights))[0] == 0
    assert path.read_bytes() == whole.read_bytes()


def test_the_test(scored):
    """Every damage is one."""
    for change in (*REPAIRED.values(), *(damage for damage, _ in SAID.values())):
        assert change(scored) != scored
    assert [json.loads(line)["prompt"] for line in rows(scored)] == PROMPTS
