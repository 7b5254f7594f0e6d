"""The fuzzing harness can fail: what it watches for is planted, and found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import watch

from emoe.errors import EmoeError

HERE = Path(__file__).parent / "fuzz"


def write_outside(_: bytes) -> None:
    Path("/dev/shm/emoe-was-here" if Path("/dev/shm").exists() else "/tmp/emoe-was-here").write_bytes(b"")


def two_lines(_: bytes) -> None:
    error = EmoeError("x")
    error.args = ("one\ntwo",)
    raise error


def long(_: bytes) -> None:
    error = EmoeError("x")
    error.args = ("x" * 10**5,)
    raise error


PLANTED = {
    "error": (lambda data: data.index(b"x"), ValueError),
    "two-lines": (two_lines, watch.Find),
    "long": (long, watch.Find),
    "program": (lambda _: os.system("true"), watch.Find),
    "process": (lambda _: subprocess.run(["true"], check=True), watch.Find),
    "code": (lambda _: exec("1"), watch.Find),
    "connection": (lambda _: __import__("socket").socket(), watch.Find),
    "unpickler": (lambda _: __import__("pickle").loads(b"cos\nsystem\n."), watch.Find),
    "write": (write_outside, watch.Find),
    "remove": (lambda _: os.remove("/nothing/here"), watch.Find),
    "hidden": (lambda _: hidden(lambda: os.system("true")), watch.Find),
}


def hidden(attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except Exception as error:
        raise EmoeError("a damaged file") from error


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_bug_is_found(tmp_path, case):
    run, kind = PLANTED[case]
    with pytest.raises(kind):
        watch.judge(run, b"", tmp_path)
    assert watch._scratch is None


def test_planted_reads_outside_are_found(tmp_path):
    inside, secret = tmp_path / "in" / "a", watch.outside(tmp_path) / "b"
    for path in (inside, secret):
        path.parent.mkdir()
        path.write_bytes(b"")
    (tmp_path / "link").symlink_to(secret)
    watch.judge(lambda _: inside.read_bytes(), b"", tmp_path)
    watch.judge(lambda _: (tmp_path / "link").read_bytes(), b"", tmp_path)
    for path in (secret, tmp_path / "in" / ".." / "outside" / "b"):
        with pytest.raises(watch.Find, match="read"):
            watch.judge(lambda _, path=path: path.read_bytes(), b"", tmp_path)


def test_planted_waste_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS", 0.001)
    with pytest.raises(watch.Find, match=r"took .* s"):
        watch.judge(lambda _: sum(range(10**6)), b"", tmp_path)
    monkeypatch.setattr(watch, "SECONDS", 10)
    peaks = iter((100.0, 1200.0))
    monkeypatch.setattr(watch, "_peak", lambda: next(peaks))
    with pytest.raises(watch.Find, match="took 1100 MB"):
        watch.judge(lambda _: None, b"", tmp_path)


def test_the_driver(tmp_path):
    arguments = ["source", "--runs", "300", "--seed", "1", "--finds", str(tmp_path)]
    done = subprocess.run([sys.executable, HERE / "run.py", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert (summary["target"], summary["runs"], summary["seed"]) == ("source", 300, 1)
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
if not {guided}:
    sys.modules["atheris"] = None
import run, target, targets
def planted(data):
    if data[:1] == b"b":
        if data[1:2] == b"u":
            if data[2:3] == b"g":
                raise ValueError("planted")
planted = run.atheris.instrument_func(planted) if run.atheris else planted
targets.TARGETS["planted"] = target.Target(lambda folder: planted, lambda: iter([b"xxx"]), ("bug",))
run.main()
"""


@pytest.mark.parametrize("guided", [False, True])
def test_the_driver_finds_a_planted_bug(tmp_path, guided):
    if guided:
        pytest.importorskip("atheris")
    script, finds = tmp_path / "script.py", tmp_path / "finds"
    script.write_text(SCRIPT.format(folder=str(HERE), guided=guided))
    arguments = ["planted", "--runs", "100000", "--seed", "1", "--finds", str(finds)]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    assert done.returncode != 0
    assert "ValueError: planted" in done.stdout + done.stderr
    assert ("atheris is not installed" in done.stderr) == (not guided)
    assert [path.read_bytes()[:3] for path in finds.iterdir()] == [b"bug"]
