"""What Civitai may answer: refusals, and metadata that is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from civitai_world import DATA, SOURCE, World, cached, fails, version
from server import Answer, serve

from emoe.__main__ import main
from emoe.checkpoint import civitai
from emoe.checkpoint.open import reach
from emoe.checkpoint.source import Civitai
from emoe.errors import EmoeError

REFUSED = {
    "lora": ({"model": {"name": "x", "type": "LORA"}}, "is of type LORA"),
    "sdxl": ({"baseModel": "SDXL 1.0"}, "is made from SDXL 1.0"),
    "inpainting": ({"baseModelType": "Inpainting"}, "of the kind Inpainting"),
    "gguf": ({"file": {"metadata": {"format": "GGUF"}}}, "has no weights file"),
    "no-files": ({"files": []}, "has no weights file"),
    "odd-hash": ({"file": {"hashes": {"SHA256": "../../x"}}}, "is none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_downloaded(world, case):
    changes, sentence = REFUSED[case]
    world.metadata = version(**changes)
    with pytest.raises(EmoeError, match=sentence):
        reach("civitai:128713")
    assert not any("download" in r.path for r in world.site.requests)
    assert not world.storage.requests


def file(**changes: Any) -> dict[str, Any]:
    return version(file=changes)


@contextmanager
def answering(world: World, status: int) -> Iterator[None]:
    world.site.answer = lambda _: Answer.json({"error": "no"}, status)
    yield


@pytest.mark.parametrize("status", civitai.ANSWERS)
def test_statuses(world, status):
    with answering(world, status):
        assert civitai.ANSWERS[status] in fails()


@pytest.mark.parametrize("status", [401, 404])
def test_the_command_line_says_so_in_one_line(world, capsys, status):
    with answering(world, status):
        assert main(["inspect", "civitai:128713"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("emoe: Civitai ")
    assert civitai.ANSWERS[status] in err


def test_statuses_of_the_download(world):
    ask = world.ask
    world.site.answer = lambda r: Answer.json({}, 401) if "download" in r.path else ask(r)
    assert "set CIVITAI_TOKEN" in fails()


def test_not_json(world):
    world.site.answer = lambda _: Answer(200, b"<html>")
    assert "something else than JSON" in fails()


NOT_UNDERSTOOD = {
    "a list": [version()],
    "null": None,
    "text": "no",
    "empty": {},
    "no id": {key: value for key, value in version().items() if key != "id"},
    "an id that is text": version(id="../../x"),
    "an id that is a list": version(id=[1]),
    "no model": version(model=None),
    "a list for the model": version(model=[]),
    "text for the model": version(model="Red Bus"),
    "a list for the kind": version(model={"type": ["Checkpoint"]}),
    "null for the base": version(baseModel=None),
    "a list for the base": version(baseModel=["SD 1.5"]),
    "null files": version(files=None),
    "an object for the files": version(files={"id": 7}),
    "a null file": version(files=[None]),
    "a list for a file": version(files=[[]]),
    "text for the metadata": file(metadata="fp16"),
    "null metadata": file(metadata=None),
    "a list for the format": file(metadata={"format": ["SafeTensor"]}),
    "a file without an id": file(id=None),
    "a file's id that is text": file(id="x"),
    "no size": file(sizeKB=None),
    "a size that is text": file(sizeKB="x"),
    "a negative size": file(sizeKB=-1),
    "size zero": file(sizeKB=0),
    "a size without end": file(sizeKB=float("inf")),
    "no number for a size": file(sizeKB=float("nan")),
    "a list for the size": file(sizeKB=[1]),
    "a size that no disk has": file(sizeKB=1e300),
    "a list for the hashes": file(hashes=["x"]),
    "a number for a hash": file(hashes={"SHA256": 3}),
    "a hash that is too short": file(hashes={"SHA256": "ab" * 31}),
    "a hash that is not hexadecimal": file(hashes={"SHA256": "xy" * 32}),
}


@pytest.mark.parametrize("case", NOT_UNDERSTOOD)
def test_metadata_that_is_not_understood(world, tmp_path, case):
    world.metadata = NOT_UNDERSTOOD[case]
    fails()
    assert cached(tmp_path) == []
    assert not world.storage.requests


NOT_METADATA = {
    "a web page": b"<!DOCTYPE html><html>",
    "nothing": b"",
    "half": b'{"id": 12',
    "not text": b"\xff\xfe\x00",
    "too deep": b"[" * 100_000,
    "too many digits": b'{"id": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("case", NOT_METADATA)
def test_what_is_no_metadata(world, case):
    world.site.answer = lambda _: Answer(200, NOT_METADATA[case])
    assert "something else than JSON" in fails()


def test_metadata_without_end(world, monkeypatch):
    monkeypatch.setattr(civitai, "LIMIT", 100_000)
    world.site.answer = lambda _: Answer(200, b" " * 200_000)
    assert "is too long for what it is" in fails()


@pytest.mark.parametrize(
    "told", [{}, {"modelVersions": []}, {"modelVersions": [None]}, {"modelVersions": [{"id": "x"}]}]
)
def test_a_model_without_versions(world, told):
    world.site.answer = lambda _: Answer.json(told)
    assert "has no version of model 4384" in fails(Civitai(None, 4384))


@pytest.mark.parametrize("source", [SOURCE, Civitai(None, 4384)], ids=str)
def test_what_the_first_host_does_not_know_the_second_may(world, monkeypatch, source):
    monkeypatch.delenv("CIVITAI_ENDPOINT")
    with serve(lambda _: Answer.json({"error": "not found"}, 404)) as first:
        monkeypatch.setattr(civitai, "HOSTS", [first.url, world.site.url])
        assert civitai.fetch(source).read_bytes() == DATA
    assert len(first.requests) == 1


def test_what_no_host_knows(world, monkeypatch):
    monkeypatch.delenv("CIVITAI_ENDPOINT")
    monkeypatch.setattr(civitai, "HOSTS", [world.site.url, f"{world.site.url}/"])
    assert "does not know it: check the number" in fails(Civitai(5))
    assert len(world.site.requests) == 2
