"""Prompt files."""

import io
import json

import pyarrow
import pytest
from pyarrow import parquet

from emoe.errors import EmoeError
from emoe.prompts import Prompt, read_prompts


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_prompts(path)


def test_txt(tmp_path):
    assert read(tmp_path, "p.txt", "a red bus\r\n\n  two \nä日本") == [
        Prompt("a red bus"),
        Prompt("two"),
        Prompt("ä日本"),
    ]
    assert read(tmp_path, "p.txt", b"\xef\xbb\xbfa red bus\n") == [Prompt("a red bus")]


def test_csv(tmp_path):
    found = read(tmp_path, "p.csv", 'id,prompt,negative_prompt\n7,"a, ""red""\nbus",blurry\n\nx,b,\n')
    assert found == [Prompt('a, "red"\nbus', "blurry", "7"), Prompt("b", None, "x")]
    assert read(tmp_path, "p.csv", "prompt\na\n") == [Prompt("a")]
    assert read(tmp_path, "p.csv", "prompt, negative_prompt\na,b\n") == [Prompt("a", "b")]
    assert read(tmp_path, "P.CSV", "prompt\ra\rb\r") == [Prompt("a"), Prompt("b")]


def test_tsv(tmp_path, caplog):
    assert read(tmp_path, "p.tsv", 'id\tprompt\r\n7\ta "red, bus\r\n') == [Prompt('a "red, bus', None, "7")]
    assert not caplog.records
    assert read(tmp_path, "p.tsv", "prompt\thttp\na\tb\n") == [Prompt("a")]
    assert "not used: 'http'" in caplog.text


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_conceptual_captions(tmp_path, caplog, end):
    """Whose lines have no names above them."""
    lines = 'a "very" typical bus station\thttp://a.example/1.jpg?x=1', "a red bus\thttps://b.example/2"
    found = read(tmp_path, "Validation.tsv", f"{end or chr(10)}".join(lines) + end)
    assert found == [Prompt('a "very" typical bus station'), Prompt("a red bus")]
    assert read(tmp_path, "p.tsv", lines[0] + end) == found[:1]
    assert not caplog.records


def test_jsonl(tmp_path):
    found = read(
        tmp_path, "p.jsonl", '{"prompt": "a", "id": 3, "other": [1]}\n\n{"prompt": "b", "negative_prompt": "c"}\n'
    )
    assert found == [Prompt("a", None, 3), Prompt("b", "c")]
    assert read(tmp_path, "p.jsonl", '{"prompt": "a", "group": 3}') == [Prompt("a", group="3")]
    assert read(tmp_path, "p.jsonl", '{"prompt": "a\\u2028b"}\n') == [Prompt("a\u2028b")]
    assert read(tmp_path, "p.jsonl", '{"prompt": "a", "negative_prompt": ""}\n') == [
        Prompt("a", "")
    ]  # none, not unsaid


def test_a_prompts_own_negative_comes_before_the_lists():
    for own, expected in ((None, "blurry"), ("", ""), ("photo", "photo")):
        assert Prompt("a", own, 7).row("blurry") == {"id": 7, "prompt": "a", "negative_prompt": expected}


def test_coco(tmp_path):
    annotations = [
        {"id": 48, "image_id": 318556, "caption": "A very clean bathroom. \n"},
        {"id": 67, "caption": "A car"},
    ]
    found = read(tmp_path, "captions_val2014.json", json.dumps({"info": {}, "images": [], "annotations": annotations}))
    assert found == [Prompt("A very clean bathroom.", None, 48), Prompt("A car", None, 67)]


def test_a_list(tmp_path):
    assert read(tmp_path, "p.json", '["a", {"prompt": "b", "id": 1}]') == [Prompt("a"), Prompt("b", None, 1)]


def test_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("a\nä\n".encode()), encoding="ascii"))
    assert read_prompts("-") == [Prompt("a"), Prompt("ä")]
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(EmoeError, match="standard input is closed"):
        read_prompts("-")


def test_a_column_eu_makes_no_record_of_a_list(tmp_path):
    found = read(tmp_path, "p.jsonl", '{"prompt": "a", "eu": 1, "group": "x", "size": 5}')
    assert (found[0].group, found[0].group_size) == ("x", 5.0)


def test_line_ends_of_every_system(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        assert read(tmp_path, "p.txt", f"a{end}b{end}{end}") == [Prompt("a"), Prompt("b")]
        assert read(tmp_path, "p.csv", f"prompt{end}a{end}b{end}") == [Prompt("a"), Prompt("b")]


def test_only_line_ends_end_lines(tmp_path):
    """Unicode knows more of them, and prompts hold them."""
    odd = "a\u2028b\x85c\x0bd\x0ce"
    assert read(tmp_path, "p.txt", f"{odd}\nf") == [Prompt(odd), Prompt("f")]
    assert read(tmp_path, "p.csv", f"prompt,id\n{odd},7\n") == [Prompt(odd, None, "7")]
    odd = "a\u2028b\x85c"  # control characters below 32 are no JSON
    assert read(tmp_path, "p.jsonl", f'{{"prompt": "{odd}"}}\n{{"prompt": "d"}}') == [Prompt(odd), Prompt("d")]


MISTAKES = {
    "empty": ("p.txt", "\n \n", "holds no prompts"),
    "empty list": ("p.json", "[]", "holds no prompts"),
    "not utf-8": ("p.txt", b"caf\xe9", "is not UTF-8 text (unexpected end of data at byte 3)"),
    "extension": ("p.xlsx", "x", "is not .txt, .csv, .tsv, .jsonl"),
    "csv without the column": (
        "p.csv",
        "text\na\n",
        "has no column 'prompt' (it has text); rename",
    ),
    "csv of another program": ("p.csv", "prompt;id\na;1\n", "(it has prompt;id); save it with commas"),
    "tabs in a csv": ("p.csv", "prompt\tid\na\t1\n", "name it .tsv"),
    "tsv without the column": ("p.tsv", "a red bus\n", "has no column 'prompt' (it has a red bus); rename"),
    "tsv with a tab too many": ("p.tsv", "prompt\na\tb\n", "line 2 has 2 cells, the first line 1; take tabs out"),
    "tsv, too long": ("p.tsv", "prompt\n" + "a" * 200_000, "line 2 is not valid TSV"),
    "a caption without an address": ("p.tsv", "a\thttp://x/1\n\thttp://x/2\n", "line 2: its prompt is empty"),
    "csv with a short row": ("p.csv", "id,prompt\n1\n", "line 2: its prompt is empty; write one"),
    "csv with a comma too many": ("p.csv", "prompt\na red bus, at night\n", "line 2 has 2 cells, the first line 1"),
    "csv with a column twice": ("p.csv", "prompt,prompt\na,b\n", "several columns 'prompt'"),
    "surrogates": ("p.jsonl", '{"prompt": "\\ud800"}', "is not valid Unicode"),
    "surrogates in an id": ("p.jsonl", '{"prompt": "a", "id": "\\ud800"}', "is not valid Unicode"),
    "too deep": ("p.jsonl", "[" * 99999, "is not JSON"),
    "csv with an open quote": ("p.csv", 'prompt\n"a\n', "is not valid CSV"),
    "jsonl, broken": ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2 is not JSON"),
    "jsonl, no object": ("p.jsonl", "[1]\n", "line 1 is [1]; it must be an object"),
    "jsonl, wrong type": ("p.jsonl", '{"prompt": 3}\n', "its prompt is 3; it must be text"),
    "jsonl, negative": (
        "p.jsonl",
        '{"prompt": "a", "negative_prompt": 3}',
        "its negative_prompt is 3; it must be text",
    ),
    "jsonl, id true": ("p.jsonl", '{"prompt": "a", "id": true}', "its id is True"),
    "jsonl, id": ("p.jsonl", '{"prompt": "a", "id": [3]}', "its id is [3]"),
    "json, broken": ("p.json", "{", "is not JSON"),
    "json, another": ("p.json", '{"images": []}', "is neither COCO captions"),
    "coco without captions": (
        "p.json",
        '{"annotations": [{"id": 3}]}',
        "entry 1 has no prompt (it has id)",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(tmp_path, case):
    name, content, sentence = MISTAKES[case]
    with pytest.raises(EmoeError) as caught:
        read(tmp_path, name, content)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", "prompt,negativ_prompt,id\na,blurry,1\n"),
        ("list.jsonl", '{"prompt": "a"}\n{"prompt": "b", "negativ_prompt": ""}'),
        ("list.json", '[{"prompt": "a", "negativ_prompt": "", "id": 1}, "b"]'),
    ],
)
def test_columns_that_are_not_used_are_a_warning(tmp_path, caplog, name, content):
    assert read(tmp_path, name, content)[0].negative is None
    (told,) = caplog.messages
    assert f"{name}: not used: 'negativ_prompt'; columns are prompt, negative_prompt" in told


def test_a_file_of_scores_is_a_list_too(tmp_path):
    """Its `size` is the pictures', and no group's."""
    record = {
        "prompt": "a",
        "group": "x",
        "group_size": 2.5,
        "reference_text": "b",
        "eu": 1.0,
        "size": 64,
        "mixture": "0",
    }
    assert read(tmp_path, "scores.jsonl", json.dumps(record)) == [Prompt("a", None, None, "x", 2.5, "b")]


def test_no_file(tmp_path):
    with pytest.raises(EmoeError, match="No such file"):
        read_prompts(tmp_path / "gone.txt")


def test_parquet(tmp_path):
    rows = {"prompt": ["a", "b"], "id": [1, 2], "group": ["x", None], "size": [2.5, None], "other": [None, 1],
            "negative_prompt": [None, ""], "image": ["a.png", None], "reference": [None, "B"]}  # fmt: skip
    path = tmp_path / "list.parquet"
    parquet.write_table(pyarrow.table(rows), path)
    assert read_prompts(path) == [
        Prompt("a", None, 1, "x", 2.5, None, "a.png"),  # as the list has it, wherever the list lies
        Prompt("b", "", 2, None, None, "B", None),
    ]


@pytest.mark.parametrize("broken", [b"", b"PAR1", b"not parquet at all" * 10])
def test_broken_parquet(tmp_path, broken):
    path = tmp_path / "list.parquet"
    path.write_bytes(broken)
    with pytest.raises(EmoeError, match="cannot read"):
        read_prompts(path)


def test_parquet_without_prompts(tmp_path):
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "list.parquet")
    with pytest.raises(EmoeError, match=r"has no column 'prompt' \(it has text\)"):
        read_prompts(tmp_path / "list.parquet")
    parquet.write_table(pyarrow.table({"prompt": ["a", None]}), tmp_path / "list.parquet")
    with pytest.raises(EmoeError, match="row 2: its prompt is None"):
        read_prompts(tmp_path / "list.parquet")


def test_parquet_of_many_rows_that_take_no_bytes(tmp_path, monkeypatch):
    parquet.write_table(pyarrow.table({"prompt": [""] * 100}), tmp_path / "list.parquet")
    assert len(read_prompts(tmp_path / "list.parquet")) == 100
    monkeypatch.setattr("emoe.prompts.LARGEST", 5000)
    with pytest.raises(EmoeError, match="unpacks to more than"):
        read_prompts(tmp_path / "list.parquet")


@pytest.mark.parametrize("size", ["0", "-1", "much", "nan", "inf"])
def test_sizes_that_are_none(tmp_path, size):
    (tmp_path / "list.csv").write_text(f"prompt,size\na,{size}\n")
    with pytest.raises(EmoeError, match="its size is"):
        read_prompts(tmp_path / "list.csv")


def test_quotes_are_letters_between_tabs(tmp_path):
    found = read(tmp_path, "p.tsv", 'prompt\tid\n"Hi" she said\t1\n"open\t2\n')
    assert [prompt.text for prompt in found] == ['"Hi" she said', '"open']


def test_true_is_no_size(tmp_path):
    with pytest.raises(EmoeError, match="its size is True"):
        read(tmp_path, "p.jsonl", '{"prompt": "a", "size": true}')
