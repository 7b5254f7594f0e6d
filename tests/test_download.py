"""Downloads that break off, lie or do not fit."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from civitai_world import DATA, SOURCE, cached, fails, version
from server import Answer, Request

from emoe.checkpoint import civitai, download


def test_a_second_time_from_the_cache(world):
    civitai.fetch(SOURCE)
    asked = len(world.storage.requests)
    civitai.fetch(SOURCE)
    assert len(world.storage.requests) == asked


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


def test_server_errors_are_tried_again(world):
    times = iter([503, 502])
    store = world.store
    world.storage.answer = lambda r: Answer(status) if (status := next(times, None)) else store(r)
    assert civitai.fetch(SOURCE).read_bytes() == DATA


def test_a_full_disk(world, monkeypatch, tmp_path):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    assert "GB free, the download needs" in fails()
    assert cached(tmp_path) == []


def test_an_unwritable_cache(world, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMOE_CACHE", str(tmp_path / "file"))
    assert "cannot store" in fails()


@pytest.mark.parametrize("part", [DATA + b"more", b"x" * len(DATA), b"x" * 1000], ids=["longer", "other", "shorter"])
def test_a_part_of_something_else_is_thrown_away(world, tmp_path, part):
    path = tmp_path / "cache" / "civitai" / "128713" / f"{hashlib.sha256(DATA).hexdigest()}.safetensors.part"
    path.parent.mkdir(parents=True)
    path.write_bytes(part)
    assert "nothing was kept, try again" in fails()
    assert cached(tmp_path) == []
    assert civitai.fetch(SOURCE).read_bytes() == DATA


@pytest.mark.parametrize("stored", [b"", DATA[:-1], DATA + b"!"], ids=["empty", "shorter", "longer"])
def test_a_stored_file_of_the_wrong_size_is_downloaded_again(world, tmp_path, stored):
    path = civitai.fetch(SOURCE)
    path.write_bytes(stored)
    assert civitai.fetch(SOURCE).read_bytes() == DATA
    assert cached(tmp_path) == [path.name]
