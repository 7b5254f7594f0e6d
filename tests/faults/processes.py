"""Real `emoe` processes, to be killed; what they are asked to do, and what they leave."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from emoe.__main__ import main

ROOT = Path(__file__).parents[2]
PROMPTS = [f"a {size} {colour} {shape}" for size in ("small", "large") for colour in ("red", "blue", "schwarzer ☃")
           for shape in ("circle", "bus", "tähti")]  # fmt: skip
LIMIT = 120  # seconds that no process here needs

# What each command is to do; {out} is a folder of its own.
SMALL = ["--weights", "miniature", "--size", "64"]
SCORED = [*SMALL, "--seeds", "2", "--negative", "blurry, lowres, watermark, text"]  # records of more than a page
WORK: dict[str, list[str]] = {
    "score": ["score", *PROMPTS, *SCORED, "--out", "{out}/scores.jsonl"],
    "calibrate": ["calibrate", *PROMPTS, *SCORED, "--out", "{out}/reference.json"],
    "generate": ["generate", *PROMPTS[:5], *SMALL, "--steps", "2", "--maps", "--out", "{out}/drawn"],
    "study": ["study", *PROMPTS[:4], *SMALL, "--images", "--steps", "2", "--out", "{out}/studied"],
}


def work(command: str, out: Path) -> list[str]:
    """Its arguments, with results in a folder."""
    return [argument.replace("{out}", str(out)) for argument in WORK[command]]


def start(*arguments: str, **more) -> subprocess.Popen:
    """`emoe` as a user starts it, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more.pop("env", {})
    command = [sys.executable, "-m", "emoe", *arguments]
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen(command, env=environment, text=True, encoding="utf-8", **more)


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


def emoe(*arguments: str, **more) -> tuple[int, str, str]:
    """A process from its start to its end."""
    return ended(start(*arguments, **more))


def one_line(found: tuple[int, str, str], *sentences: str, code: int = 2) -> None:
    """The process ended as for anything that the user can mend."""
    assert found[0] == code, found
    assert found[2].startswith("emoe: "), found
    assert found[2].count("\n") == 1, found
    assert all(sentence in found[2] for sentence in sentences), found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, but for what a killed process was writing beside its place."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not re.fullmatch(r"\..+\.part", path.name)}


@cache
def undisturbed(command: str) -> dict[str, bytes]:
    """What a command leaves when nothing happens to it: in this very process, where torch is loaded already."""
    with tempfile.TemporaryDirectory() as folder:
        assert main(work(command, Path(folder))) == 0
        return contents(Path(folder))


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    """Until it holds, or the process has ended."""
    end = time.monotonic() + LIMIT
    while process.poll() is None and not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.01)


def lines(folder: Path) -> int:
    """Records of all files, whatever they are of."""
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl"))


def locked(folder: Path) -> bool:
    """Whether a process has begun to work there."""
    return any(folder.rglob(".*.lock"))
