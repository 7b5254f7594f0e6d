"""A disk that fills: one line, nothing in halves, and the run goes on once there is room."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from disks import disk  # noqa: F401 (a fixture)
from PIL import Image
from processes import WORK, contents, emoe, locked, one_line, undisturbed, work

from emoe.shipped import SHIPPED

pytestmark = pytest.mark.faults

ROOM = {"score": 4096, "calibrate": 4096, "generate": 80_000}  # bytes; not enough by far


def whole(folder: Path) -> None:
    """Every file that is there can be read to its end."""
    assert not locked(folder)
    assert not list(folder.rglob("*.part"))
    for path in folder.rglob("*.jsonl"):
        assert path.read_bytes()[-1:] in (b"", b"\n"), path
        _ = [json.loads(line) for line in path.read_text().splitlines()]
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            image.load()


@pytest.mark.parametrize("command", ROOM)
def test_a_disk_that_fills(command, run, disk):  # noqa: F811
    disk.leave(ROOM[command])
    one_line(run(*work(command, disk.folder)), "No space left on device")
    assert contents(disk.folder)  # it had begun
    whole(disk.folder)
    disk.make_room()
    assert run(*work(command, disk.folder))[0] == 0
    assert contents(disk.folder) == undisturbed(command)


def test_a_report_that_does_not_fit(run, disk):  # noqa: F811
    """All that was computed is there, and what is written of it has no room."""
    for name, data in undisturbed("study").items():
        if "report" not in name and "tables" not in name:
            path = disk.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    disk.leave(8192)
    one_line(run(*work("study", disk.folder)), "cannot write", "report", "No space left on device")
    whole(disk.folder)
    disk.make_room()
    assert run(*work("study", disk.folder))[0] == 0
    assert contents(disk.folder) == undisturbed("study")


@pytest.fixture(scope="module")
def toml(tmp_path_factory) -> Path:
    """The miniature where files may be written beside it: the gate vectors that a build captures."""
    shipped = SHIPPED["miniature"]
    path = tmp_path_factory.mktemp("weights") / "weights.toml"
    text = shipped.read_text().replace('"style/', f'"{shipped.parent}/style/')
    path.write_text(text.replace('"base"', f'"{shipped.parent}/base"'))
    return path


def test_a_mixture_that_does_not_fit(toml, run, disk):  # noqa: F811
    build = ("build", "--weights", str(toml), "--out", str(disk.folder / "built"))
    for room in (1 << 20, 100_000, 4096):
        disk.leave(room)
        found = run(*build)
        assert found[0] == 2, found
        assert "No space left on device" in found[2].splitlines()[-1]
        assert list(disk.folder.iterdir()) == []
    disk.make_room()
    assert run(*build)[0] == 0
    code, _, err = run("inspect", str(disk.folder / "built"))
    assert code == 0, err


def limited(size: int) -> dict:
    """Of a process whose files may not grow beyond so many bytes: a full disk where no disk can be mounted."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}


def test_files_that_may_not_grow(run, tmp_path):
    one_line(emoe(*work("score", tmp_path), **limited(2000)), "File too large")
    assert contents(tmp_path)
    whole(tmp_path)
    assert run(*work("score", tmp_path))[0] == 0
    assert contents(tmp_path) == undisturbed("score")


@pytest.mark.parametrize("command", WORK)
def test_a_place_that_is_read_only(command, run, monkeypatch, disk):  # noqa: F811
    """Said before anything is loaded."""
    monkeypatch.setattr("emoe.assemble.assemble", None)
    disk.protect()
    one_line(run(*work(command, disk.folder)), "Read-only file system")
