"""Downloads that are killed, meet a full disk, or are wanted by two processes at once."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from civitai_world import World, version
from disks import disk  # noqa: F401 (a fixture)
from processes import emoe, ended, one_line, start, wait_for
from server import Answer, Request, hub, serve
from test_full_disk import limited

pytestmark = pytest.mark.faults

REPO = "some-one/a_model.v1"
NAME = "model.safetensors"


@pytest.fixture(scope="module")
def data(weights) -> bytes:
    """An expert."""
    return (Path(weights).parent / "expert_2.safetensors").read_bytes()


class Held:
    """A source whose transfers wait for `go` before their end."""

    def __init__(self, source: str, environment: dict[str, str]):
        self.source, self.environment, self.go = source, environment, threading.Event()
        self.asked: list[Request] = []  # by a process that looks the source up
        self.transfers: list[Request] = []

    def inspect(self) -> subprocess.Popen:
        return start("inspect", self.source, env=self.environment)

    def holding(self, plain: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
        """A site's answers, of which those are held that are the file, and others are noted."""

        def answer(request: Request) -> Answer:
            found = plain(request)
            if len(found.body) > 100_000 and request.method == "GET":
                self.transfers.append(request)
                found.hold = self.go
            elif "/model-versions/" in request.path or "/api/models/" in request.path:
                self.asked.append(request)
            return found

        return answer


@pytest.fixture(params=["civitai", "hub"])
def held(request, world: World, data) -> Iterator[Held]:
    if request.param == "civitai":
        world.data, world.metadata = data, version(data)
        made = Held("civitai:128713", {})
        world.site.answer, world.storage.answer = made.holding(world.ask), made.holding(world.store)
        yield made
    else:
        made = Held(REPO, {"HF_TOKEN": "", "HF_HUB_DOWNLOAD_TIMEOUT": "60"})
        with serve(made.holding(hub({REPO: {NAME: data}}))) as site:
            made.environment["HF_ENDPOINT"] = site.url
            yield made
    made.go.set()


def stored(folder: Path, data: bytes) -> list[Path]:
    """Files of a cache that hold something of the download, whole or not."""
    found = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # processes give files their names meanwhile
            if path.is_file() and not path.is_symlink() and path.stat().st_size:
                found += [path] if data.startswith(path.read_bytes()[:9999]) else []
    return found


def test_two_at_once(held, data, tmp_path):
    """One transfer, which both wait for."""
    processes = [held.inspect(), held.inspect()]
    wait_for(lambda: len(held.asked) >= 2 and held.transfers, processes[0])
    held.go.set()
    for code, out, err in map(ended, processes):
        assert (code, err) == (0, "")
        assert "usable" in out
    assert len(held.transfers) == 1
    assert [path.read_bytes() for path in stored(tmp_path, data)] == [data]


def test_a_killed_download_goes_on(held, data, tmp_path):
    process = held.inspect()
    wait_for(lambda: sum(p.stat().st_size for p in stored(tmp_path, data)) >= len(data) // 4, process)
    process.kill()
    ended(process)
    halves = stored(tmp_path, data)
    assert all(path.suffix in (".part", ".incomplete") for path in halves)  # nothing by the name of a whole file
    held.go.set()
    code, _, err = ended(held.inspect())
    assert (code, err) == (0, "")
    whole = [path for path in stored(tmp_path, data) if path not in halves]
    assert [path.read_bytes() for path in whole] == [data]
    if held.source == REPO:  # whose library begins anew, under another name
        return
    assert not any(path.exists() for path in halves)
    first, second = (request.headers.get("range") for request in held.transfers)
    assert first is None
    assert int(second.removeprefix("bytes=").removesuffix("-")) >= len(data) // 4


def test_a_download_that_does_not_fit(run, world, data, disk, monkeypatch):  # noqa: F811
    """Said before it begins."""
    world.data, world.metadata = data, version(data)
    monkeypatch.setenv("EMOE_CACHE", str(disk.folder / "cache"))
    disk.leave(len(data) // 2)
    one_line(run("inspect", "civitai:128713"), "GB free, the download needs")
    assert not world.storage.requests
    disk.make_room()
    assert run("inspect", "civitai:128713")[0] == 0


def test_a_disk_that_fills_meanwhile(run, world, data, tmp_path):
    """What has arrived stays, and the next run fetches the rest."""
    world.data, world.metadata = data, version(data)
    one_line(emoe("inspect", "civitai:128713", **limited(len(data) // 2)), "cannot store", "File too large")
    assert [path.suffix for path in stored(tmp_path, data)] == [".part"]
    assert run("inspect", "civitai:128713")[0] == 0
    assert "range" in world.storage.requests[-1].headers
    assert [path.read_bytes() for path in stored(tmp_path, data)] == [data]


def test_the_hubs_cache_on_a_disk_that_fills(at, run, data, disk, monkeypatch):  # noqa: F811
    disk.leave(len(data) // 2)
    with serve(hub({REPO: {NAME: data}})) as site:
        at(site.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(disk.folder))
        code, _, err = run("inspect", REPO)
        assert code == 2, err
        assert "No space left on device" in err.splitlines()[-1]
        assert all(path.suffix == ".incomplete" for path in stored(disk.folder, data))
        disk.make_room()
        assert run("inspect", REPO)[0] == 0


def test_a_read_only_cache(run, world, data, disk, monkeypatch):  # noqa: F811
    """What it holds is used; what it lacks is one line."""
    world.data, world.metadata = data, version(data)
    monkeypatch.setenv("EMOE_CACHE", str(disk.folder / "cache"))
    disk.protect()
    one_line(run("inspect", "civitai:128713"), "cannot store", "Read-only file system")
    disk.make_room()
    assert run("inspect", "civitai:128713")[0] == 0
    disk.protect()
    assert run("inspect", "civitai:128713")[0] == 0
    assert len(world.storage.requests) == 1
