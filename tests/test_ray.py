"""What Ray's workers do, in this process; that Ray runs them, and survives kills, is in tests/faults/."""

from __future__ import annotations

import itertools
import pickle
from contextlib import nullcontext

import pytest

from emoe import EMoE, EmoeError, Reading
from emoe.config import read_weights
from emoe.exclusive import exclusive

pytest.importorskip("ray", reason="pip install -e '.[ray]'")
import pyarrow
import pyarrow.dataset
from pyarrow import parquet

from emoe.ray import Job, Worker, _told
from emoe.ray_records import check_list, count, one_of, schema

PROMPTS = ["a red circle", "un círculo azul", "a red circle"]


def job(**changes) -> Job:
    told = {"weights": read_weights("miniature"), "reading": Reading(), "negative": "", "batch_size": None}
    return Job(**told | {"device": "cpu", "dtype": "auto"} | changes)


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker(pickle.loads(pickle.dumps(job())))  # as it reaches another machine


def table(**columns) -> pyarrow.Table:
    return pyarrow.table({"id": ["a", "b", "c"], "prompt": PROMPTS} | columns)


def test_records_are_those_of_one_machine(worker):
    found = worker(table(group=["x", None, "y"], negative_prompt=["blurry", None, ""])).to_pylist()
    expected = EMoE.from_toml("miniature", device="cpu").score(PROMPTS, ["blurry", "", ""]).records()
    for row, record, id, group in zip(found, expected, "abc", ("x", None, "y"), strict=True):
        assert {key: row[key] for key in record} == record
        assert (row["id"], row["group"]) == (id, group)


def test_every_file_has_the_same_columns(worker):
    for columns in ({}, {"group": ["x", "y", None]}, {"group": pyarrow.nulls(3)}):
        assert worker(table(**columns)).schema == schema(pyarrow.string(), worker.reading)
    assert "aleatoric" in schema(pyarrow.int64(), Reading(seeds=2)).names


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"prompt": ["a", None, "c"]}, "prompt 'b': its prompt is None; it must be text"),
        ({"id": ["a", None, "c"]}, "has no id; with --ray, every prompt has one of its own"),
        ({"id": [1.5, 2.5, 3.5]}, "its id is 1.5; it must be text or a whole number"),
    ],
)
def test_prompts_that_are_none(worker, columns, told):
    with pytest.raises(EmoeError, match=told):
        worker(table(**columns))


@pytest.mark.slow
def test_records_of_another_run(worker, tmp_path):
    assert one_of(str(tmp_path / "nothing")) is None
    (tmp_path / "0.parquet").write_bytes(b"PAR1")  # cut short by a kill
    assert one_of(str(tmp_path)) is None
    parquet.write_table(worker(table()), tmp_path / "1.parquet")
    earlier = one_of(str(tmp_path))
    assert Worker(job(earlier=earlier))(table()).num_rows == 3
    for other in (job(earlier=earlier, reading=Reading(seed=5)), job(earlier=earlier, dtype="bfloat16")):
        with pytest.raises(EmoeError, match=r"--out holds records whose .* this run's is .*; name another"):
            Worker(other)(table())


@pytest.mark.parametrize("most", [3, 2])
def test_records_of_other_prompts(worker, tmp_path, monkeypatch, most):
    """Other ids, or the same ones and another text or negative prompt; of longer lists, some are looked at."""
    monkeypatch.setattr("emoe.ray_records.MOST_IDS", most)
    out = tmp_path / "out"
    out.mkdir()
    parquet.write_table(worker(table()), out / "1.parquet")
    (out / "2.parquet").write_bytes(b"PAR1")

    def check(negative="", **columns):
        parquet.write_table(table(**columns), tmp_path / "list.parquet")
        return check_list(pyarrow.dataset.dataset(tmp_path / "list.parquet"), str(out), negative)

    assert check() is (most == 3)  # else Ray knows what is left
    with pytest.raises(EmoeError, match="holds ids of another type than the list's, int64"):
        check(id=[1, 2, 3])
    with pytest.raises(EmoeError, match="holds a record of prompt 'c', which is not in this list; name another --out"):
        check(id=["a", "b", "x"], prompt=[*PROMPTS[:2], "a record that nobody asks for"])
    with pytest.raises(EmoeError, match="holds a record of prompt 'b' with another prompt; name another --out"):
        check(prompt=[PROMPTS[0], "something else", PROMPTS[2]])
    with pytest.raises(EmoeError, match="with another negative_prompt"):
        check("blurry")


def test_every_id_is_looked_at_before_anything_is_written(worker, tmp_path, monkeypatch):
    """Also those behind the records whose prompts are: as many records as prompts do not make a list whole."""
    monkeypatch.setattr("emoe.ray_records.LOOKED_AT", 1)
    (tmp_path / "out").mkdir()
    parquet.write_table(worker(table()), tmp_path / "out" / "1.parquet")
    parquet.write_table(table(id=["a", "b", "x"]), tmp_path / "list.parquet")
    with pytest.raises(EmoeError, match="holds a record of prompt 'c', which is not in this list"):
        check_list(pyarrow.dataset.dataset(tmp_path / "list.parquet"), str(tmp_path / "out"), "")


def test_ids_that_come_twice(tmp_path):
    for ids, twice in ((["a", "b", "c"], 0), (["a", "b", "a"], 1), ([1, 1, 1], 2)):
        parquet.write_table(table(id=ids), tmp_path / "list.parquet")
        with pytest.raises(EmoeError, match=f"{twice} prompts? of 3 have an id that") if twice else nullcontext():
            assert not check_list(pyarrow.dataset.dataset(tmp_path / "list.parquet"), str(tmp_path / "new"), "")


@pytest.fixture
def scored(worker, tmp_path, monkeypatch) -> list[str]:
    """A command whose work is done; Ray is not started for it."""
    monkeypatch.setattr("emoe.ray._connect", lambda address: pytest.fail("started Ray"))
    parquet.write_table(table(), tmp_path / "list.parquet")
    (tmp_path / "out").mkdir()
    parquet.write_table(worker(table()), tmp_path / "out" / "1.parquet")
    return ["score", "--prompts", str(tmp_path / "list.parquet"), "--out", str(tmp_path / "out"), "--ray", "--weights"]


def test_a_folder_that_is_complete(run, scored, tmp_path):
    before = (tmp_path / "out" / "1.parquet").read_bytes()
    assert run(*scored, "miniature") == (0, "", f"emoe: {tmp_path / 'out'} is complete already: 3 scores\n")
    code, _, err = run(*scored, "miniature-bootstrap")
    assert (code, "--out holds records whose mixture is" in err) == (2, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["1.parquet"]
    assert (tmp_path / "out" / "1.parquet").read_bytes() == before


def test_a_folder_that_is_none_of_its_own(run, scored, tmp_path):
    out = tmp_path / "out"
    with exclusive(out, folder=True):
        assert "another emoe is writing" in run(*scored, "miniature")[2]
    parquet.write_table(table(), out / "1.parquet")  # a list
    code, _, err = run(*scored, "miniature")
    assert (code, "holds Parquet without estimator, mixture" in err, err.count("\n")) == (2, True, 1)
    assert len(list(out.iterdir())) == 1
    code, _, err = run(*scored, "miniature", "--prompts", str(out / "nothing"))
    assert (code, err.count("\n")) == (2, 1)
    (tmp_path / "empty").mkdir()
    assert "holds no Parquet" in run(*scored, "miniature", "--prompts", str(tmp_path / "empty"))[2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a cat", "--ray"], "leave PROMPT, --json and --reference out"),
        (["--prompts", "x.parquet", "--ray", "--json", "--out", "y"], "leave PROMPT, --json and --reference out"),
        (["--prompts", "x.parquet", "--ray"], "add --prompts FILE.parquet (or a folder) and --out FOLDER"),
        (["--out", "y", "--ray"], "add --prompts FILE.parquet (or a folder) and --out FOLDER"),
    ],
)
def test_what_does_not_go_together(run, arguments, told):
    code, _, err = run("score", "--weights", "miniature", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert told in err


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "refused"),
        ("ray://[::1]:1", ""),
        ("no.invalid:10001", ""),
        ("127.0.0.1:99999", ""),
        ("a..b:1", ""),
    ],
)
def test_a_cluster_that_is_not_there(run, tmp_path, address, why):
    """Ray would wait for it for ever."""
    parquet.write_table(table(), tmp_path / "list.parquet")
    out = tmp_path / "out"
    arguments = ("--weights", "miniature", "--prompts", str(tmp_path / "list.parquet"), "--out", str(out))
    code, _, err = run("score", *arguments, "--ray", address)
    assert (code, err.count("\n"), out.exists()) == (2, 1, False)
    assert f"no Ray cluster answers at {address} (" in err
    assert why in err


def test_a_log_is_told_once_a_minute(worker, tmp_path, monkeypatch, capsys):
    """Of what is written: only new files are opened for it."""
    clock = itertools.count(step=61)
    monkeypatch.setattr("emoe.progress.monotonic", lambda: next(clock))
    monkeypatch.setattr("emoe.ray.EVERY", 0.01)
    parquet.write_table(worker(table()), tmp_path / "1.parquet")
    with _told(str(tmp_path), 9):
        parquet.write_table(worker(table()), tmp_path / "2.parquet")
        (tmp_path / "3.parquet").write_bytes(b"PAR1")  # being written
        said = ""
        while not said:
            said = capsys.readouterr().err
    assert said.startswith("emoe: prompt 6 of 9, ")

    known = {}
    assert (count(str(tmp_path), known), len(known)) == (6, 2)
    (tmp_path / "1.parquet").write_bytes(b"")
    assert count(str(tmp_path), known) == 6
