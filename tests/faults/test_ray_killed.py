"""Lists beyond one machine, with Ray really running: kills, and inputs that it stops for with one line."""

from __future__ import annotations

import pytest
from processes import emoe, ended, locked, one_line, start, wait_for

pytest.importorskip("ray", reason="pip install -e '.[ray]'")
import pyarrow
import ray_killed
from pyarrow import parquet

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("driver", [False, True], ids=["worker", "driver"])
def test_killed(driver, tmp_path):
    print(ray_killed.killed(tmp_path, 1, driver))
    assert ray_killed.records(tmp_path / "scores") == ray_killed.undisturbed()

    if driver:
        return
    before = sorted(path.name for path in (tmp_path / "scores").iterdir())
    code, _, err = emoe(*ray_killed.command(tmp_path))  # once more: there is nothing to do
    assert (code, sorted(path.name for path in (tmp_path / "scores").iterdir())) == (0, before), err
    one_line(emoe(*ray_killed.command(tmp_path), "--seed", "5"), "--out holds records whose seed is 0, this run's is 5")


def test_sigterm(tmp_path):
    """Which Ray would take for itself, and end with a dump of the stack."""
    process = start(*ray_killed.command(tmp_path))
    wait_for(lambda: ray_killed.written(tmp_path) > 0, process)
    process.terminate()
    assert ended(process)[::2] == (143, "emoe: stopped\n")


def test_two_at_once(tmp_path):
    first = start(*ray_killed.command(tmp_path))
    wait_for(lambda: locked(tmp_path), first)
    one_line(emoe(*ray_killed.command(tmp_path)), "another emoe is writing")
    assert ended(first)[0] == 0
    assert ray_killed.records(tmp_path / "scores") == ray_killed.undisturbed()


def test_what_stops_it(tmp_path):
    path, out = tmp_path / "list.parquet", tmp_path / "scores"
    command = ["score", "--weights", "miniature", "--prompts", str(path), "--out", str(out), "--ray"]
    one_line(emoe(*command), f"there is no {path}")
    path.write_bytes(b"PAR1")
    one_line(emoe(*command), str(path))
    parquet.write_table(pyarrow.table({"prompt": ["a", "b"]}), path)
    one_line(emoe(*command), "has no column 'id'")
    parquet.write_table(pyarrow.table({"id": [1, 2], "prompt": ["a", None]}), path)
    one_line(emoe(*command), "prompt 2: its prompt is None; it must be text")
    parquet.write_table(pyarrow.table({"id": [1, 2], "prompt": ["a", "b"]}), path)
    toml = tmp_path / "gone.toml"  # as on a machine without the weights
    toml.write_text('base = "a.ckpt"\ngate = "uniform"\n' + '[[expert]]\nsource = "b.ckpt"\n' * 2)
    one_line(emoe(*command[:2], str(toml), *command[3:]), "gone.toml: base: there is no file or folder")
