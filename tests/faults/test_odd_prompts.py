"""Prompts that break tokenizers, file formats and terminals: scored as they are given, or one line."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pyarrow
import pytest
from processes import SMALL, emoe, ended, lines, one_line, start, wait_for
from pyarrow import parquet

pytestmark = pytest.mark.faults

ODD = {
    "100,000 characters": "x" * 100_000,
    "40,000 words": "ab " * 40_000 + "c",
    "a null byte": "a\0b",
    "null bytes alone": "\0" * 10,
    "combining marks alone": "\u0301\u0302\u0323" * 20,
    "a mountain of marks": "a" + "\u0301" * 5000,
    "right to left": "\u202ea red bus\u202c\u200f\u2067",
    "joined emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 500,
    "another plane's unassigned": "\U000e0fff\U0010ffff\ufffe\uffff",
    "the tokenizer's own marks": "<|startoftext|> a <|endoftext|> bus </w>",
    "byte order marks": "a\ufeffb\ufeff",
    "a terminal's escapes": "\x1b[2J\x1b]0;title\x07",
    "separators": "a\x1c\x1d\x85\u2028\u2029b",
    "quotes": "\"a\" 'b' `c` \\n ${d} %s {e} </script>",
    "nothing to see": "\u200b\u2060\u00ad",
}


def write_txt(path: Path, prompts: list[str]) -> None:
    path.write_bytes("\n".join(prompts).encode())


def write_csv(path: Path, prompts: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["prompt"], *([prompt] for prompt in prompts)])


def write_jsonl(path: Path, prompts: list[str]) -> None:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


def write_parquet(path: Path, prompts: list[str]) -> None:
    parquet.write_table(pyarrow.table({"prompt": prompts}), path)


FORMATS = {".txt": write_txt, ".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}


@pytest.mark.parametrize("suffix", FORMATS)
def test_scored_as_given(suffix, run, tmp_path):
    path, out = tmp_path / f"list{suffix}", tmp_path / "scores.jsonl"
    given = [prompt.strip() if suffix == ".txt" else prompt for prompt in ODD.values()]
    FORMATS[suffix](path, given)
    expected = [prompt for prompt in given if prompt]
    code, stdout, err = run("score", "--prompts", str(path), *SMALL, "--out", str(out))
    assert (code, stdout) == (0, ""), err
    records = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [record["prompt"] for record in records] == expected
    assert all(record["eu"] > 0 for record in records)
    warnings = [line for line in err.splitlines() if "is longer than 77 tokens" in line]
    assert len(err.splitlines()) == len(warnings) + 1
    assert not any(ord(c) < 32 and c != "\n" for c in err)


def test_in_a_table_and_in_file_names(run, tmp_path):
    """What a terminal would obey is spelled out; names of images are legal."""
    prompts = [prompt for prompt in ODD.values() if "\0" not in prompt and len(prompt.encode()) < 120_000]
    code, out, _ = run("score", *prompts, *SMALL)
    assert code == 0
    assert len(out.splitlines()) == 1 + len(prompts)
    assert all(c.isprintable() for c in out.replace("\n", ""))
    code, _, err = emoe(
        "generate", *prompts, *SMALL, "--steps", "1", "--mode", "fast", "--out", str(tmp_path / "drawn")
    )
    assert code == 0, err
    records = [json.loads(line) for line in (tmp_path / "drawn" / "generations.jsonl").read_bytes().splitlines()]
    assert [record["prompt"] for record in records] == prompts
    assert all((tmp_path / "drawn" / name).is_file() for record in records for name in record["images"])


def bad_parquet(path: Path) -> None:
    """Text by its type, and no UTF-8: what other programs write, Arrow does not look at."""
    offsets, data = pyarrow.array([0, 4], pyarrow.int32()), pyarrow.py_buffer(b"a\xed\xa0\x80")
    text = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets.buffers()[1], data])
    parquet.write_table(pyarrow.table({"prompt": text}), path)


def bytes_parquet(path: Path) -> None:
    parquet.write_table(pyarrow.table({"prompt": [b"a\xff"]}), path)


BAD = {
    "surrogates.txt": (b"a red bus\na\xed\xa0\x80b\n", "is not UTF-8"),
    "surrogates.csv": (b"prompt\na\xed\xa0\x80b\n", "is not UTF-8"),
    "surrogates.jsonl": (b'{"prompt": "a \\ud800 b"}\n', "is not valid Unicode"),
    "pairs the wrong way.jsonl": (b'{"prompt": "\\udc00\\ud800"}\n', "is not valid Unicode"),
    "a negative prompt's.jsonl": (b'{"prompt": "a", "negative_prompt": "\\ud800"}\n', "is not valid Unicode"),
    "surrogates.parquet": (bad_parquet, "is not UTF-8"),
    "bytes.parquet": (bytes_parquet, "it must be text"),
    "a cell that is too long.csv": (b"prompt\n" + b"x" * 200_000, "is not valid CSV"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_line(name, run, tmp_path):
    path, (content, sentence) = tmp_path / name, BAD[name]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    one_line(run("score", "--prompts", str(path), *SMALL, "--out", str(tmp_path / "scores.jsonl")), name, sentence)
    assert not (tmp_path / "scores.jsonl").exists()


@pytest.mark.parametrize("command", ["score", "explain", "generate"])
def test_bytes_on_the_command_line(command, tmp_path):
    """That are no UTF-8: Python makes lone surrogates of them."""
    out = [] if command == "explain" else ["--out", str(tmp_path / "x")]
    one_line(emoe(command, os.fsdecode(b"a\xed\xa0\x80\xffb"), *SMALL, *out), "is not valid Unicode")
    assert list(tmp_path.iterdir()) == []


def test_ten_thousand_lines_of_emoji(run, tmp_path):
    """As one prompt of so many lines; and as so many prompts, until the run is killed."""
    given = [chr(0x1F300 + i % 700) * (1 + i % 5) + str(i) for i in range(10_000)]
    one, many = tmp_path / "one-scored.jsonl", tmp_path / "many-scored.jsonl"
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": "\n".join(given)}))
    assert run("score", "--prompts", str(tmp_path / "one.jsonl"), *SMALL, "--out", str(one))[0] == 0
    assert json.loads(one.read_bytes())["prompt"] == "\n".join(given)
    (tmp_path / "many.txt").write_text("\n".join(given))
    process = start("score", "--prompts", str(tmp_path / "many.txt"), *SMALL, "--out", str(many))
    wait_for(lambda: lines(tmp_path) > 20, process)
    process.kill()
    assert ended(process)[0] < 0
    assert [json.loads(line)["prompt"] for line in many.read_bytes().splitlines()] == given[: lines(tmp_path) - 1]
