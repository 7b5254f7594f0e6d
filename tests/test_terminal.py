"""Where output goes: terminals, pipes, full disks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import hear_sigint, score

from emoe.__main__ import main
from emoe.pipeline import EMoE
from emoe.progress import progress
from emoe.terminal import as_json

PROMPTS = ["a red bus", "punainen bussi", "a cat"]


def shown(raw: bytes) -> list[str]:
    """The lines that a terminal shows: a carriage return goes back, and what comes next is written over."""
    lines = []
    for line in re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", raw.decode()).split("\n"):
        cells: list[str] = []
        for text in line.split("\r"):
            cells[: len(text)] = text
        lines.append("".join(cells).rstrip())
    return lines


def test_the_bar_leaves_the_table_whole(run, weights, monkeypatch):
    """Results and the bar's drawings go to one terminal."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    prompts = [f"{prompt} {i}" for i in range(4) for prompt in PROMPTS]
    expected = run(*score(*prompts, weights=weights))[1].splitlines()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    raw = bytearray()

    def read():
        with suppress(OSError):  # Linux ends a terminal with an error, others with nothing
            while data := os.read(ours, 1024):
                raw.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w") as out, open(os.dup(theirs), "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert main(score(*prompts, weights=weights)) == 0
    reader.join()
    os.close(ours)
    assert "12/12" in raw.decode()
    lines = shown(raw)
    assert [line for line in lines if line in expected] == expected
    assert all(line in expected or re.fullmatch(r"(\s*\d+%.*12/12.*)?", line) for line in lines)


def test_a_log_gets_a_line_a_minute(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("emoe.progress.monotonic", lambda: now)
    with progress(100, "prompt", done=40, name="baselines") as bar:
        for now in (10.0, 61.0, 70.0, 122.0):  # noqa: B007
            bar.update(5)
    assert capsys.readouterr().err.splitlines() == [
        "emoe: baselines: prompt 50 of 100, 05:05 to go",  # 10 in 61 seconds
        "emoe: baselines: prompt 60 of 100, 04:04 to go",
    ]


def test_json_that_a_terminal_would_act_on():
    """It is the same JSON, and what can be read stays as it is."""
    text = 'red\u009b31m \u202epunainen yöllä 夜 \x7f \U000e0001 🚌\n\\ "'
    told = as_json({"prompt": text})
    assert json.loads(told) == {"prompt": text}
    assert told.isprintable()
    assert "punainen yöllä 夜" in told
    assert "🚌" in told


def test_output_that_cannot_be_written(weights, monkeypatch, capfd):
    """Linux's /dev/full takes nothing."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(score("a cat", weights=weights)) == 2
    assert capfd.readouterr().err == "emoe: standard output: No space left on device\n"


@pytest.mark.slow
def test_all_languages_whatever_the_locale(weights):
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    prompts = ["punainen bussi yöllä", "夜の赤いバス"]
    found = process(*score(*prompts, weights=weights), env=environment, encoding="utf-8")
    out, err = found.communicate(timeout=60)
    assert (found.returncode, err) == (0, "")
    assert [line.split("  ")[-1] for line in out.splitlines()[1:]] == prompts


# As processes -------------------------------------------------------------------------------------------------------


def process(*arguments: str, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "emoe", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


@pytest.mark.slow
def test_a_reader_that_leaves(weights):
    """As other programs end then: whoever looks at the code knows that not all was done."""
    found = process(*score(*PROMPTS * 5, "--json", weights=weights))
    found.stdout.readline()
    found.stdout.close()
    assert found.stderr.read() == ""
    assert found.wait(60) == 141


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_where_python_loses_it(run, weights, monkeypatch):
    """What is raised in a __del__ goes no further; so it is raised again."""

    class Lost:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def stream(*_):
        lost = Lost()
        del lost
        while True:
            time.sleep(0.01)
            yield from ()

    monkeypatch.setattr(EMoE, "stream", stream)
    code, _, err = run(*score("a cat", weights=weights))
    assert (code, err) == (130, "emoe: stopped\n")


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(weights, tmp_path):

    path = tmp_path / "scores.jsonl"
    found = process(
        *score(*[f"prompt {i}" for i in range(500)], "--out", str(path), weights=weights), preexec_fn=hear_sigint
    )
    for _ in range(600):
        if path.exists() and path.stat().st_size:
            break
        time.sleep(0.1)
    os.kill(found.pid, signal.SIGINT)
    assert found.wait(60) == 130
    assert found.stderr.read() == "emoe: stopped\n"
    assert all(json.loads(line)["eu"] > 0 for line in path.read_text().splitlines())
