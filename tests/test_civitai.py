"""Civitai and its storage, played by two local servers: one that is asked, one that it redirects to."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forms
import pytest
from server import Answer, Request, Site, ranged, serve

from emoe.__main__ import main
from emoe.checkpoint import civitai, download
from emoe.checkpoint.open import open_checkpoint, reach
from emoe.checkpoint.source import Civitai, parse
from emoe.errors import EmoeError

DATA = bytes(range(256)) * 4000  # a megabyte
SOURCE = Civitai(128713)


def version(data: bytes = DATA, **changes: Any) -> dict[str, Any]:
    """A version's metadata, as the site gives it."""
    file = {
        "id": 7,
        "name": "../../red bus; rm -rf.safetensors",
        "type": "Model",
        "sizeKB": len(data) / 1024,
        "metadata": {"format": "SafeTensor", "size": "pruned", "fp": "fp16"},
        "hashes": {"SHA256": hashlib.sha256(data).hexdigest().upper()},
    }
    return {
        "id": 128713,
        "baseModel": "SD 1.5",
        "baseModelType": "Standard",
        "model": {"name": "Red Bus", "type": "Checkpoint"},
        "files": [file | changes.pop("file", {})],
    } | changes


@dataclass
class World:
    """What the two servers do."""

    metadata: dict[str, Any] = field(default_factory=version)
    data: bytes = DATA
    drops: list[int] = field(default_factory=list)  # bytes after which the storage hangs up, request by request
    resumes: bool = True
    site: Site | None = None
    storage: Site | None = None

    def ask(self, request: Request) -> Answer:
        if request.path == "/api/v1/models/4384":
            return Answer.json({"modelVersions": [{"id": 128713}, {"id": 1}]})
        if request.path == "/api/v1/model-versions/128713":
            return Answer.json(self.metadata)
        if request.path == "/api/download/models/128713":
            return Answer(307, headers={"Location": f"{self.storage.url}/file?signature=SECRET"})
        return Answer.json({"error": "not found"}, 404)

    def store(self, request: Request) -> Answer:
        if "authorization" in request.headers:
            return Answer(400, b"only one auth mechanism allowed")
        if not self.resumes:
            request.headers.pop("range", None)
        answer = ranged(self.data, request)
        answer.cut = self.drops.pop(0) if self.drops else None
        return answer


@pytest.fixture
def world(tmp_path, monkeypatch) -> Iterator[World]:
    world = World()
    monkeypatch.setenv("EMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CIVITAI_TOKEN", "TOKEN")
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    civitai.look_up.cache_clear()
    with serve(world.ask) as site, serve(world.store) as storage:
        world.site, world.storage = site, storage
        monkeypatch.setenv("CIVITAI_ENDPOINT", site.url)
        yield world


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "civitai" / "128713"
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") if folder.exists() else []


def fails(source: Civitai = SOURCE) -> str:
    with pytest.raises(EmoeError) as caught:
        civitai.fetch(source)
    message = str(caught.value)
    assert "\n" not in message
    assert "SECRET" not in message
    assert "TOKEN" not in message.replace("CIVITAI_TOKEN", "")
    return message


def test_a_download(world, tmp_path):
    path = civitai.fetch(SOURCE)
    assert path.read_bytes() == DATA
    assert path.name == hashlib.sha256(DATA).hexdigest() + ".safetensors"
    assert path.parent.name == "128713"
    assert cached(tmp_path) == [path.name]
    assert all(r.headers["authorization"] == "Bearer TOKEN" for r in world.site.requests)
    assert all(r.headers["user-agent"] == "emoe" for r in world.site.requests)
    assert world.site.requests[-1].query == {"fileId": "7"}
    assert all("authorization" not in r.headers for r in world.storage.requests)  # it would answer 400


def test_a_second_time_from_the_cache(world):
    civitai.fetch(SOURCE)
    asked = len(world.storage.requests)
    civitai.fetch(SOURCE)
    assert len(world.storage.requests) == asked


def test_the_newest_version_of_a_model(world):
    assert civitai.fetch(parse("https://civitai.com/models/4384")).read_bytes() == DATA


def test_a_connection_that_drops_is_resumed(world):
    world.drops = [300_000, 200_000, 0, 0, 100_000]
    assert civitai.fetch(SOURCE).read_bytes() == DATA
    ranges = [r.headers.get("range", "bytes=0-") for r in world.storage.requests]
    starts = [int(r.removeprefix("bytes=").removesuffix("-")) for r in ranges]
    chunk = download.CHUNK
    assert starts == [
        0,
        4 * chunk,
        7 * chunk,
        7 * chunk,
        7 * chunk,
        8 * chunk,
    ]  # whole chunks of 300,000, 200,000, 100,000 bytes


def test_a_run_that_was_stopped_goes_on(world, tmp_path):
    world.drops = [300_000] + [0] * download.ATTEMPTS
    assert "keeps failing" in fails()
    assert cached(tmp_path)[0].endswith(".part")
    world.storage.requests.clear()
    assert civitai.fetch(SOURCE).read_bytes() == DATA
    assert world.storage.requests[0].headers["range"] == f"bytes={4 * download.CHUNK}-"


def test_a_server_that_cannot_resume_starts_again(world):
    world.resumes, world.drops = False, [300_000]
    assert civitai.fetch(SOURCE).read_bytes() == DATA


@pytest.mark.parametrize("size", [len(DATA) - 1000, len(DATA) + 1000])
def test_a_lie_about_the_size(world, tmp_path, size):
    world.metadata = version(file={"sizeKB": size / 1024})
    assert f"has {len(DATA)} bytes, but was said to have {size}" in fails()
    assert cached(tmp_path) == []


def test_a_lie_without_a_length(world, tmp_path):
    """Chunked: no length is announced, and more comes than was said."""
    world.metadata = version(file={"sizeKB": 1_023_000 / 1024})
    whole = world.store

    def chunked(request: Request) -> Answer:
        answer = whole(request)
        body = b"%x\r\n" % len(answer.body) + answer.body + b"\r\n0\r\n\r\n"
        return Answer(200, body, {"Transfer-Encoding": "chunked"})

    world.storage.answer = chunked
    assert "sends more than the 1023000 bytes" in fails()
    assert cached(tmp_path) == []


def test_another_content(world, tmp_path):
    world.data = DATA[:-1] + b"!"
    assert "is not what was announced" in fails()
    assert cached(tmp_path) == []


def test_no_hash_yet(world, caplog):
    world.metadata = version(file={"hashes": {}})
    assert civitai.fetch(SOURCE).name == "unverified-7.safetensors"
    assert "only its size can be verified" in caplog.text


def test_a_login_page_instead_of_the_file(world):
    world.storage.answer = lambda _: Answer(200, b"<html>log in</html>", {"Content-Type": "text/html; charset=utf-8"})
    assert "web page" in fails()


def test_two_at_once(world):
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(civitai.fetch(SOURCE))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == DATA
    assert len(world.storage.requests) == 1


REFUSED = {
    "lora": ({"model": {"name": "x", "type": "LORA"}}, "is of type LORA"),
    "sdxl": ({"baseModel": "SDXL 1.0"}, "is made from SDXL 1.0"),
    "inpainting": ({"baseModelType": "Inpainting"}, "of the kind Inpainting"),
    "gguf": ({"file": {"metadata": {"format": "GGUF"}}}, "has no checkpoint file"),
    "no-files": ({"files": []}, "has no checkpoint file"),
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


def test_a_distilled_model_is_a_warning(world, caplog):
    world.metadata = version(baseModel="SD 1.5 LCM")
    reach("civitai:128713")
    assert "few steps" in caplog.text


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


def test_server_errors_are_tried_again(world):
    times = iter([503, 502])
    store = world.store
    world.storage.answer = lambda r: Answer(status) if (status := next(times, None)) else store(r)
    assert civitai.fetch(SOURCE).read_bytes() == DATA


def test_no_network(world, monkeypatch):
    monkeypatch.setenv("CIVITAI_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in fails()


def test_not_json(world):
    world.site.answer = lambda _: Answer(200, b"<html>")
    assert "something else than JSON" in fails()


def test_a_full_disk(world, monkeypatch, tmp_path):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    assert "GB free, the download needs" in fails()
    assert cached(tmp_path) == []


def test_an_unwritable_cache(world, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMOE_CACHE", str(tmp_path / "file"))
    assert "cannot store" in fails()


def test_the_best_file_is_chosen_and_a_link_may_ask_for_another(world):
    def file(number: int, fp: str, size: str, format: str) -> dict[str, Any]:
        meta = {"fp": fp, "size": size, "format": format}
        return version()["files"][0] | {"id": number, "metadata": meta}

    files = [
        file(1, "fp16", "pruned", "PickleTensor"),
        file(2, "fp32", "full", "SafeTensor"),
        file(3, "fp16", "pruned", "SafeTensor"),
        file(4, "fp32", "pruned", "SafeTensor"),
        file(5, "fp16", "pruned", "SafeTensor") | {"type": "VAE"},
    ]
    world.metadata = version(files=files)
    assert civitai.look_up(SOURCE)[1].id == 3
    asked = parse("https://civitai.com/api/download/models/128713?type=Model&format=SafeTensor&size=full&fp=fp32")
    assert civitai.look_up(asked)[1].id == 2
    with pytest.raises(EmoeError, match="with fp=bf16; it offers: format=PickleTensor size=pruned fp=fp16"):
        civitai.look_up(parse("https://civitai.com/api/download/models/128713?fp=bf16"))


def test_a_checkpoint_from_civitai(world, tmp_path):
    path = forms.COMPLETE["ldm-fp16"](tmp_path, forms.state(1))
    world.data = path.read_bytes()
    world.metadata = version(world.data)
    assert open_checkpoint("civitai:128713").naming == "LDM"
