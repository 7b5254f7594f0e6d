"""emoe generate, as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import hear_sigint, needs_proc
from PIL import Image

from emoe import EMoE
from emoe.gallery import RECORDS, slug
from emoe.png import is_whole, save_png

pytestmark = pytest.mark.usefixtures("loaded_once")

PROMPTS = ["a red bus", "punainen bussi"]
FEW = ["--steps", "2", "--size", "64"]


@pytest.fixture
def draw(run, weights, tmp_path):
    """(exit code, stdout, stderr) of `emoe generate` into tmp_path/out."""

    def call(*arguments: str, out: str = "out") -> tuple[int, str, str]:
        return run("generate", "--weights", weights, "--out", str(tmp_path / out), *FEW, *arguments)

    return call


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_of_images(draw, weights, tmp_path):
    code, out, err = draw(*PROMPTS, "--maps", "--negative", "blurry")
    assert (code, err) == (0, f"emoe: 2 prompts drawn and 0 halted, in {tmp_path / 'out'}\n")
    head, *rows = out.splitlines()
    assert head.split() == ["uncertainty", "images", "prompt"]
    assert [row.split(maxsplit=2)[1:] for row in rows] == [["4", prompt] for prompt in PROMPTS]

    folder, found = tmp_path / "out", records(tmp_path / "out")
    stems = [f"0000{i}-{slug(prompt)}-{j}" for i, prompt in enumerate(PROMPTS, 1) for j in range(1, 5)]
    assert names(folder) == sorted(
        ["generations.jsonl", "sheet.png", *(f"{s}.png" for s in stems), *(f"{s}-map.png" for s in stems)]
    )
    assert [r["images"] for r in found] == [[f"{s}.png" for s in stems[:4]], [f"{s}.png" for s in stems[4:]]]
    scores = EMoE.from_toml(weights).score(PROMPTS, "blurry", steps=2, size=64)
    assert [r["eu"] for r in found] == [r["eu"] for r in scores.records()]
    assert list(found[0]) == [
        *("prompt", "negative_prompt", "eu", "uncertainty", "relative", "weights", "truncated", "halted"),
        *(
            "mode",
            "scheduler",
            "steps",
            "guidance",
            "seed",
            "seeds",
            "size",
            "max_uncertainty",
            "read_out",
            "estimator",
            "timestep",
            "mixture",
            "vae",
            "images",
            "maps",
        ),
    ]
    with Image.open(folder / found[0]["images"][0]) as image:
        assert image.size == (64, 64)
        told = json.loads(image.text["emoe"])
    assert told == found[0] | {"path": 1}


@pytest.mark.parametrize("mode", ["fast", "mixture"])
def test_one_image_a_prompt(draw, tmp_path, mode):
    code, out, _ = draw(*PROMPTS, "--mode", mode, "--json")
    assert code == 0
    assert names(tmp_path / "out") == ["00001-a-red-bus.png", "00002-punainen-bussi.png", "generations.jsonl"]
    found = [json.loads(line) for line in out.splitlines()]
    assert found == records(tmp_path / "out")
    assert all(("eu" in record) == (mode == "fast") for record in found)


def test_halted(draw, tmp_path):
    code, out, _ = draw(*PROMPTS, "--max-uncertainty", "0")
    assert code == 3
    assert out.count("halted") == 2
    assert [(r["halted"], r["images"], r["max_uncertainty"]) for r in records(tmp_path / "out")] == [(True, [], 0)] * 2
    assert names(tmp_path / "out") == ["generations.jsonl"]
    assert draw(*PROMPTS, "--max-uncertainty", "0")[0] == 3  # nothing is left to do, and it says the same

    code, out, _ = draw(*PROMPTS, "--max-uncertainty", "0", "--json", out="json")
    assert code == 3
    assert [json.loads(line)["halted"] for line in out.splitlines()] == [True, True]


def test_some_halt(draw, tmp_path):
    draw(*PROMPTS, "--mode", "fast", out="all")
    low, high = sorted(record["uncertainty"] for record in records(tmp_path / "all"))
    code, out, err = draw(*PROMPTS, "--mode", "fast", "--json", "--max-uncertainty", str((low + high) / 2))
    assert (code, "1 prompt drawn and 1 halted" in err) == (3, True)
    for line in out.splitlines():
        record = json.loads(line)
        assert record["halted"] == (record["uncertainty"] == high)
        assert len(record["images"]) == (not record["halted"])


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_stopped(draw, tmp_path):
    draw(*PROMPTS)
    folder = tmp_path / "out"
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    lines = (folder / "generations.jsonl").read_text().splitlines(keepends=True)
    (folder / "generations.jsonl").write_text(lines[0] + lines[1][:50])
    (folder / "00002-punainen-bussi-3.png").unlink()
    (folder / "sheet.png").unlink()
    kept = (folder / "00001-a-red-bus-1.png").stat().st_mtime_ns
    assert draw(*PROMPTS)[0] == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert (folder / "00001-a-red-bus-1.png").stat().st_mtime_ns == kept

    for left in (None, 0, -9):  # deleted; what a power cut leaves
        path = folder / "00001-a-red-bus-4.png"
        path.unlink() if left is None else path.write_bytes(path.read_bytes()[:left])
        assert draw(*PROMPTS)[0] == 0
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seed", "1"], "its seed is 0, this run's 1"),
        (["--guidance", "3"], "its guidance is 7.5, this run's 3.0"),
        (["--mode", "fast"], "its mode is 'emoe', this run's 'fast'"),
        (["--maps"], "its maps is False, this run's True"),
        (["--dtype", "bfloat16"], "its mixture is"),
        (["--max-uncertainty", "9"], "its max_uncertainty is None, this run's 9.0"),
    ],
)
def test_a_folder_of_another_run(draw, tmp_path, arguments, sentence):
    draw("a")
    before = names(tmp_path / "out")
    code, _, err = draw("a", *arguments)
    assert (code, sentence in err, err.count("\n")) == (2, True, 1)
    assert names(tmp_path / "out") == before


MISTAKES = {
    "no prompt": ([], "there is no prompt"),
    "mode": (["a", "--mode", "slow"], "invalid choice: 'slow'"),
    "guidance": (["a", "--guidance", "0"], "guidance is 0.0"),
    "limit": (["a", "--max-uncertainty", "nan"], "max_uncertainty is nan"),
    "a limit without a measure": (["a", "--mode", "mixture", "--max-uncertainty", "1"], "has no uncertainty"),
    "a map without a measure": (["a", "--mode", "mixture", "--maps"], "has no map to draw"),
    "batch size": (["a", "--batch-size", "0"], "batch_size is 0"),
    "no limit": (["a", "--max-uncertainty", "inf"], "max_uncertainty is inf"),
    "device": (["a", "--device", "tpu"], "device is 'tpu'"),
    "weights": (["a", "--weights", "gone.toml"], "gone.toml; name another"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(draw, tmp_path, case):
    arguments, sentence = MISTAKES[case]
    code, out, err = draw(*arguments)
    assert (code, out, err.count("\n"), sentence in err) == (2, "", 1, True)
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be(draw, run, weights, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sheet.png").write_text("mine")
    assert "holds other things (sheet.png)" in draw("a", out="mine")[2]
    assert (tmp_path / "mine" / "sheet.png").read_text() == "mine"
    assert "--out is empty" in run("generate", "a", "--weights", weights, "--out", "")[2]
    (tmp_path / "file").write_text("")
    for out, sentence in (
        ("file", "is not a folder"),
        ("file/x", "cannot make the folder"),
        ("x" * 300, "cannot make"),
    ):
        code, _, err = draw("a", out=out)
        assert (code, sentence in err, err.count("\n")) == (2, True, 1)


@needs_proc
@pytest.mark.parametrize(
    ("out", "sentence"), [("/proc/x", "cannot make the folder /proc/x"), ("/proc", "other things")]
)
def test_a_folder_that_takes_no_other(draw, monkeypatch, out, sentence):
    monkeypatch.setattr(EMoE, "from_weights", None)  # said before anything is loaded
    code, _, err = draw("a", out=out)
    assert (code, sentence in err, err.count("\n")) == (2, True, 1)


def test_a_folder_that_is_read_only(draw, tmp_path, monkeypatch):
    """Said before anything is loaded. Permissions do not stop root, under which tests may run."""
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "out")
    monkeypatch.setattr(EMoE, "from_weights", None)
    code, _, err = draw("a")
    assert (code, "Permission denied" in err, err.count("\n")) == (2, True, 1)


def foreign_png(path: Path) -> bytes:
    Image.new("RGB", (8, 8), "blue").save(path)
    return path.read_bytes()


def foreign_text(path: Path) -> bytes:
    path.write_text("not even a PNG")
    return path.read_bytes()


@pytest.mark.parametrize("name", ["sheet.png", "sheet-002.png"])
@pytest.mark.parametrize("write", [foreign_png, foreign_text])
def test_a_sheet_of_somebody_elses_is_not_replaced(draw, tmp_path, monkeypatch, name, write):
    """Though the folder is of this very run; said before anything is loaded."""
    draw("a")
    kept = write(tmp_path / "out" / name)
    monkeypatch.setattr(EMoE, "from_weights", None)
    code, _, err = draw("a")
    assert (code, f"{name} is not of emoe's making" in err, err.count("\n")) == (2, True, 1)
    assert (tmp_path / "out" / name).read_bytes() == kept


@pytest.mark.slow
def test_sheets_of_a_shorter_list_go(draw, tmp_path, monkeypatch):
    """Of a longer one each has its number."""
    monkeypatch.setattr("emoe.gallery.ROWS", 1)
    assert [draw("a", *prompts)[0] for prompts in ((), ("b",))] == [0, 0]
    assert [name for name in names(tmp_path / "out") if "sheet" in name] == ["sheet-001.png", "sheet-002.png"]


@pytest.mark.slow
def test_a_sheet_of_ours_is_replaced(draw, tmp_path):
    draw("a")
    sheet = tmp_path / "out" / "sheet.png"
    expected = sheet.read_bytes()
    save_png(Image.new("RGB", (8, 8)), sheet, {})
    (tmp_path / "out" / "sheet-of-mine.png").write_text("is in nobody's way")
    assert draw("a")[0] == 0
    assert sheet.read_bytes() == expected


def test_where_no_sheet_is_drawn_none_is_in_the_way(draw, tmp_path):
    draw("a", "--mode", "fast")
    kept = foreign_png(tmp_path / "out" / "sheet.png")
    assert draw("a", "--mode", "fast")[0] == 0
    assert (tmp_path / "out" / "sheet.png").read_bytes() == kept


def test_an_image_of_somebody_elses_is_not_replaced(draw, tmp_path):
    (tmp_path / "out").mkdir()
    kept = foreign_png(tmp_path / "out" / "00001-a.png")
    code, _, err = draw("a", "--mode", "mixture")
    assert (code, "00001-a.png is not of emoe's making" in err, err.count("\n")) == (2, True, 1)
    assert (tmp_path / "out" / "00001-a.png").read_bytes() == kept
    assert names(tmp_path / "out") == ["00001-a.png"]


def test_what_is_forgotten_is_forgotten_after_a_look_at_what_lies_there(draw, tmp_path):
    """A foreign picture in the place of a lost one: the records stay, too. Zeros, as a power cut leaves, are none."""
    draw("a", "b", "--mode", "fast")
    picture, kept = tmp_path / "out" / "00001-a.png", (tmp_path / "out" / RECORDS).read_bytes()
    mine = foreign_png(picture)
    assert is_whole(picture)
    picture.write_bytes(mine[:-1])
    code, _, err = draw("a", "b", "--mode", "fast")
    assert (code, "00001-a.png is not of emoe's making" in err) == (2, True)
    assert (tmp_path / "out" / RECORDS).read_bytes() == kept
    picture.write_bytes(bytes(len(mine)))
    assert draw("a", "b", "--mode", "fast")[0] == 0
    assert is_whole(picture)
    assert (tmp_path / "out" / RECORDS).read_bytes() == kept


def test_a_refused_run_leaves_no_folder_of_its_own(draw, tmp_path):
    for there in (False, True):
        code, _, err = draw("a", "--size", "80")
        assert (code, "must be a multiple" in err, (tmp_path / "out").exists()) == (2, True, there)
        (tmp_path / "out").mkdir(exist_ok=True)  # a folder of the user's stays


def test_latents_that_are_not_finite(draw, tmp_path, monkeypatch):
    """The second prompt's: the first one's images stay, and of the second there is nothing."""
    from emoe import generating

    runs = []

    def denoise(*told, **more):
        runs.append(1)
        for step in run(*told, **more):
            yield step._replace(latents=step.latents * float("nan")) if len(runs) == 2 else step

    run = generating.denoise
    monkeypatch.setattr(generating, "denoise", denoise)
    code, _, err = draw(*PROMPTS)
    assert (code, "'punainen bussi': activations are not finite" in err, err.count("\n")) == (2, True, 1)
    assert [record["prompt"] for record in records(tmp_path / "out")] == PROMPTS[:1]
    assert names(tmp_path / "out") == [*(f"00001-a-red-bus-{i}.png" for i in range(1, 5)), "generations.jsonl"]


@pytest.mark.slow
def test_prompts_that_are_no_file_names(draw, tmp_path):
    prompts = ["../../etc/passwd", 'CON <>:"/\\|?*\n', "...", "é" * 300, "赤いバス", "a", "A"]
    assert draw(*prompts, "--mode", "mixture")[0] == 0
    expected = ["etc-passwd", "con", "prompt", "é" * 40, "赤いバス", "a", "a"]
    stems = [f"{i:05d}-{stem}.png" for i, stem in enumerate(expected, 1)]
    assert names(tmp_path / "out") == [*stems, "generations.jsonl"]
    assert [record["prompt"] for record in records(tmp_path / "out")] == prompts
    assert names(tmp_path) == ["out"]


def test_a_disk_that_fills(draw, tmp_path, monkeypatch):
    """The second prompt's third image does not fit: what was finished stays, and nothing is left in halves."""
    saved = []

    def save(self, path, *_, **__):
        saved.append(path)
        if len(saved) == 7:
            raise OSError(28, "No space left on device")
        Path(path).write_bytes(b"png")

    monkeypatch.setattr(Image.Image, "save", save)
    code, _, err = draw(*PROMPTS)
    assert (code, "No space left on device" in err, err.count("\n")) == (2, True, 1)
    assert len(records(tmp_path / "out")) == 1
    assert [name for name in names(tmp_path / "out") if name.endswith("part")] == []


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(weights, tmp_path):
    arguments = ["generate", "--weights", weights, "--out", str(tmp_path / "out"), *FEW, *map(str, range(200))]
    command = [sys.executable, "-m", "emoe", *arguments]
    found = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_sigint)
    path = tmp_path / "out" / "generations.jsonl"
    for _ in range(600):
        if path.exists() and path.stat().st_size:
            break
        time.sleep(0.1)
    os.kill(found.pid, signal.SIGINT)
    assert found.wait(60) == 130
    assert found.stderr.read() == "emoe: stopped\n"
    for record in records(tmp_path / "out"):
        for name in record["images"]:
            Image.open(tmp_path / "out" / name).verify()
    assert [name for name in names(tmp_path / "out") if name.endswith("part")] == []


# Pictures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red bus", "a-red-bus"),
        ("../../etc/passwd", "etc-passwd"),
        ('CON <>:"/\\|?*\n\0', "con"),
        ("赤いバス", "赤いバス"),
        ("...", "prompt"),
        ("", "prompt"),
        ("é" * 100, "é" * 40),
    ],
)
def test_names_are_legal_everywhere(prompt, expected):
    assert slug(prompt) == expected
