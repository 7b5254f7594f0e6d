"""A node without the weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from processes import PROMPTS, lines, one_line

from emoe.shipped import SHIPPED

pytestmark = pytest.mark.faults


@pytest.fixture
def toml(tmp_path) -> Path:
    """The miniature's weights, where they can be taken away."""
    shipped = SHIPPED["miniature"]
    folder = tmp_path / "weights"
    for name in ("base", "style"):
        shutil.copytree(shipped.parent / name, folder / name)
    return Path(shutil.copy(shipped, folder))


GONE = {
    "style.toml": "there is no",
    "style/flat.safetensors": "expert 1 (flat): there is no file or folder",
    "base/text_encoder": "text encoder",
}


@pytest.mark.parametrize("what", GONE)
def test_weights_that_vanish_between_two_runs(toml, run, tmp_path, what):
    """One line that names them; what was scored stays, and the run goes on when they are back."""
    work = ["score", *PROMPTS[:4], "--weights", str(toml), "--size", "64", "--out", str(tmp_path / "scores.jsonl")]
    half = [*work[:3], *work[5:]]
    assert run(*half)[0] == 0
    before = (tmp_path / "scores.jsonl").read_bytes()
    place = toml.parent / what
    place.rename(tmp_path / "away")
    one_line(run(*work), toml.name, GONE[what])
    assert (tmp_path / "scores.jsonl").read_bytes() == before
    (tmp_path / "away").rename(place)
    assert run(*work)[0] == 0
    assert lines(tmp_path) == 4
    assert (tmp_path / "scores.jsonl").read_bytes().startswith(before)
