"""Prompt files."""

import json

import pytest

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
    found = read(tmp_path, "p.csv", 'id,prompt,negative_prompt\n7,"a, ""red""\nbus",blurry\nx,b,\n')
    assert found == [Prompt('a, "red"\nbus', "blurry", "7"), Prompt("b", None, "x")]
    assert read(tmp_path, "p.csv", "prompt\na\n") == [Prompt("a")]


def test_jsonl(tmp_path):
    found = read(
        tmp_path, "p.jsonl", '{"prompt": "a", "id": 3, "other": [1]}\n\n{"prompt": "b", "negative_prompt": "c"}\n'
    )
    assert found == [Prompt("a", None, 3), Prompt("b", "c")]
    assert read(tmp_path, "p.jsonl", '{"prompt": "a\\u2028b"}\n') == [Prompt("a\u2028b")]


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
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    assert read_prompts("-") == [Prompt("a"), Prompt("b")]


MISTAKES = {
    "empty": ("p.txt", "\n \n", "holds no prompts"),
    "empty list": ("p.json", "[]", "holds no prompts"),
    "not utf-8": ("p.txt", b"caf\xe9", "is not UTF-8 text (unexpected end of data at byte 3)"),
    "extension": ("p.xlsx", "x", "is not .txt, .csv, .jsonl"),
    "csv without the column": ("p.csv", "text\na\n", "entry 2 has no text under 'prompt' (it has text)"),
    "csv with a short row": ("p.csv", "id,prompt\n1\n", "entry 2 has no text under 'prompt'"),
    "csv with an open quote": ("p.csv", 'prompt\n"a\n', "is not valid CSV"),
    "jsonl, broken": ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2 is not JSON"),
    "jsonl, no object": ("p.jsonl", "[1]\n", "line 1 has no text under 'prompt'"),
    "jsonl, wrong type": ("p.jsonl", '{"prompt": 3}\n', "has no text under 'prompt'"),
    "jsonl, negative": ("p.jsonl", '{"prompt": "a", "negative_prompt": 3}', "negative_prompt is 3; it must be text"),
    "jsonl, id": ("p.jsonl", '{"prompt": "a", "id": [3]}', "id is [3]"),
    "json, broken": ("p.json", "{", "is not JSON"),
    "json, another": ("p.json", '{"images": []}', "is neither COCO captions"),
    "coco without captions": (
        "p.json",
        '{"annotations": [{"id": 3}]}',
        "entry 1 has no text under 'prompt' (it has id)",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(tmp_path, case):
    name, content, sentence = MISTAKES[case]
    with pytest.raises(EmoeError) as caught:
        read(tmp_path, name, content)
    assert sentence in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(EmoeError, match="No such file"):
        read_prompts(tmp_path / "gone.txt")
