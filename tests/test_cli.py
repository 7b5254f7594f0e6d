"""The command line, as a user meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from random_experts import write_mixture

from emoe import EMoE, EmoeError
from emoe.__main__ import main
from emoe.records import RecordFile

PROMPTS = ["a red bus", "punainen bussi", "a cat"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """What the README's first command scores with."""
    return str(write_mixture(tmp_path_factory.mktemp("experts")))


@pytest.fixture
def run(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


def score(*arguments: str, weights: str) -> list[str]:
    return ["score", "--weights", weights, "--size", "64", *arguments]


def test_table(run, weights):
    code, out, err = run(*score(*PROMPTS, weights=weights))
    assert code == 0
    assert err == ""
    head, *rows = out.splitlines()
    assert head.split() == ["uncertainty", "eu", "relative", "route", "prompt"]
    assert rows[0].endswith("  a red bus")
    assert len({row.index(p) for row, p in zip(rows, PROMPTS, strict=True)} | {head.index("prompt")}) == 1  # aligned


def test_json_equals_python(run, weights):
    code, out, _ = run(*score(*PROMPTS, "--json", "--negative", "blurry", "--seed", "3", weights=weights))
    records = [json.loads(line) for line in out.splitlines()]
    scores = EMoE.from_toml(weights).score(PROMPTS, "blurry", seed=3, size=64)
    assert code == 0
    assert records == scores.records()
    assert list(records[0]) == [
        "prompt",
        "negative_prompt",
        "eu",
        "uncertainty",
        "relative",
        "weights",
        "seed",
        "seeds",
        "timestep",
        "size",
        "read_out",
        "mixture",
    ]
    assert records[0]["negative_prompt"] == "blurry"
    assert [r["eu"] for r in records] == pytest.approx(scores.eu.tolist())
    assert sum(records[0]["weights"]) == pytest.approx(1)


def test_several_seeds(run, weights):
    _, out, _ = run(*score("a cat", "--json", "--seeds", "3", weights=weights))
    record = json.loads(out)
    model = EMoE.from_toml(weights)
    single = [model.score(["a cat"], seed=seed, size=64) for seed in range(3)]
    assert record["seeds"] == 3
    assert record["eu"] == pytest.approx(torch.cat([s.eu for s in single]).mean().item())
    assert record["aleatoric"] > 0
    assert "aleatoric" in run(*score("a cat", "--seeds", "2", weights=weights))[1]


def test_settings_matter(run, weights):
    def eu(*arguments):
        return json.loads(run(*score("a cat", "--json", *arguments, weights=weights))[1])["eu"]

    plain = eu()
    assert eu("--seed", "1") != plain
    assert eu("--steps", "50") != plain
    assert eu("--read-out", "pre") != plain
    assert eu("--timestep", "961") == plain
    assert eu("--timestep", "500") != plain
    assert eu("--size", "128") != plain
    assert eu("--batch-size", "2") == pytest.approx(plain, rel=1e-5)


def test_prompt_files_with_ids_and_negatives(run, weights, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("id,prompt,negative_prompt\n7,a cat,blurry\n8,a dog,\n")
    _, out, _ = run(*score("--prompts", str(path), "--json", "--negative", "bad", weights=weights))
    records = [json.loads(line) for line in out.splitlines()]
    assert [(r["id"], r["prompt"], r["negative_prompt"]) for r in records] == [
        ("7", "a cat", "blurry"),
        ("8", "a dog", "bad"),
    ]


def test_a_long_prompt_is_a_warning(run, weights):
    code, _, err = run(*score("word " * 100, weights=weights))
    assert code == 0
    assert err.count("\n") == 1
    assert "longer than 77 tokens" in err


MISTAKES = {
    "no command": ([], "the following arguments are required: COMMAND"),
    "unknown command": (["paint"], "invalid choice: 'paint'"),
    "no prompt": (["score"], "there is no prompt; give one in quotes"),
    "no weights": (["score", "a", "--weights", "gone.toml"], "there is no gone.toml; see weights.toml in the project"),
    "unknown option": (["score", "a", "--sed", "3"], "--sed"),
    "not a number": (["score", "a", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
    "size": (["score", "a", "--size", "100"], "size is 100 pixels; it must be a multiple of 64"),
    "size zero": (["score", "a", "--size", "0"], "size is 0 pixels"),
    "steps": (["score", "a", "--steps", "0"], "steps is 0; it must lie between 1 and 999"),
    "timestep": (["score", "a", "--timestep", "1000"], "timestep is 1000; it must lie between 0 and 999"),
    "seeds": (["score", "a", "--seeds", "0"], "seeds is 0"),
    "batch size": (["score", "a", "--batch-size", "0"], "batch_size is 0; it must be a whole number of at least 1"),
    "device": (["score", "a", "--device", "tpu9"], "device is 'tpu9'; choose one of auto, cpu, cuda, mps"),
    "no such device": (
        ["score", "a", "--device", "cuda:7"],
        "device 'cuda:7' is not there, or this torch was built without it; use cpu",
    ),
    "read-out": (["score", "a", "--read-out", "end"], "invalid choice: 'end'"),
    "surrogate": (["score", "\udc80"], "is not valid Unicode"),
    "inspect nothing": (["inspect"], "the following arguments are required: SOURCE"),
    "inspect a missing file": (["inspect", "gone.ckpt"], "there is no file or folder gone.ckpt"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(run, weights, case):
    arguments, sentence = MISTAKES[case]
    if arguments[:1] == ["score"] and "--weights" not in arguments:
        arguments = [*arguments, "--weights", weights]
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("emoe: ")
    assert err.count("\n") == 1
    assert sentence in err


def test_debug_shows_where(run, monkeypatch, capsys):
    monkeypatch.setenv("EMOE_DEBUG", "1")
    assert main(["inspect", "gone.ckpt"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_mistake_of_ours_is_one_line_too(run, monkeypatch):
    monkeypatch.setattr("emoe.commands.inspect._text", lambda _: 1 / 0)
    monkeypatch.setattr("emoe.checkpoint.report.report", lambda _: {"kind": "a kind", "refused": None})
    code, _, err = run("inspect", "x")
    assert code == 1
    assert "mistake in emoe (ZeroDivisionError" in err


def test_inspect(run, weights):
    folder = Path(weights).parent
    code, out, err = run("inspect", str(folder / "expert_1.safetensors"))
    assert (code, err) == (0, "")
    assert "is an SD1.x checkpoint" in out
    assert "8.6 M parameters in 686 tensors, float16" in out
    code, out, _ = run("inspect", str(folder / "expert_2.safetensors"), "--json")
    found = json.loads(out)
    assert found["kind"] == "an SD1.x checkpoint"
    assert found["unet_names"] == "LDM"
    assert found["parts"]["vae"] is None
    assert found["parts"]["unet"]["problem"] is None
    assert len(found["files"][0]["sha256"]) == 64


# Results on disk ----------------------------------------------------------------------------------------------------


def test_out(run, weights, tmp_path):
    path = tmp_path / "scores.jsonl"
    code, out, err = run(*score(*PROMPTS, "--out", str(path), weights=weights))
    assert (code, out, err) == (0, "", f"emoe: 3 scores in {path}\n")
    expected = path.read_text()
    assert [json.loads(line)["prompt"] for line in expected.splitlines()] == PROMPTS

    lines = expected.splitlines(keepends=True)
    for kept in ("", lines[0], lines[0] + lines[1][:40], "".join(lines)):  # killed here, and started again
        path.write_text(kept)
        assert run(*score(*PROMPTS, "--out", str(path), weights=weights))[0] == 0
        assert path.read_text() == expected
    assert "holds all 3 scores already" in run(*score(*PROMPTS, "--out", str(path), weights=weights))[2]


def test_out_of_another_run(run, weights, tmp_path):
    path = tmp_path / "scores.jsonl"
    run(*score(*PROMPTS[:2], "--out", str(path), weights=weights))
    before = path.read_bytes()
    for arguments, sentence in (
        (["other", "a cat", "--out", str(path)], "line 1 is not about prompt 1"),
        ([PROMPTS[0], "--out", str(path)], "it holds 2 records, this run has 1 prompts"),
        ([*PROMPTS, "--seed", "5", "--out", str(path)], "its seed is 0, this run's 5"),
        ([*PROMPTS, "--read-out", "pre", "--out", str(path)], "its read_out is post, this run's pre"),
        ([*PROMPTS, "--dtype", "bfloat16", "--out", str(path)], "its mixture is"),
    ):
        code, _, err = run(*score(*arguments, weights=weights))
        assert code == 2
        assert sentence in err
        assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["hello\n", "[1]\n", '{"prompt": "x"\n'])
def test_out_that_is_no_score_file_is_kept(run, weights, tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    assert run(*score("a cat", "--out", str(path), weights=weights))[0] == 2
    assert path.read_text() == content


def test_out_where_nothing_can_be_written(run, weights, tmp_path):
    code, _, err = run(*score("a cat", "--out", str(tmp_path / "no" / "x.jsonl"), weights=weights))
    assert (code, "there is no folder" in err) == (2, True)
    code, _, err = run(*score("a cat", "--out", str(tmp_path), weights=weights))
    assert (code, "is not a file that can be written to" in err) == (2, True)


def test_a_full_disk(tmp_path):
    """Linux's /dev/full takes nothing."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    file = RecordFile(tmp_path / "x.jsonl", [{"prompt": "a"}])
    file.path = Path("/dev/full")
    with pytest.raises(EmoeError, match="No space left on device"):
        file.write([{"prompt": "a"}])


def test_a_bad_weights_file_leaves_no_output(run, tmp_path):
    (tmp_path / "weights.toml").write_text("base = 3")
    out = tmp_path / "scores.jsonl"
    assert run("score", "a", "--weights", str(tmp_path / "weights.toml"), "--out", str(out))[0] == 2
    assert not out.exists()


# As processes -------------------------------------------------------------------------------------------------------


def process(*arguments: str, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "emoe", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def test_a_reader_that_leaves(weights):
    found = process(*score(*PROMPTS * 5, "--json", weights=weights))
    found.stdout.readline()
    found.stdout.close()
    assert found.stderr.read() == ""
    assert found.wait(60) == 0


def test_ctrl_c_keeps_what_is_done(weights, tmp_path):
    import signal
    import time

    path = tmp_path / "scores.jsonl"
    found = process(*score(*[f"prompt {i}" for i in range(500)], "--out", str(path), weights=weights))
    for _ in range(600):
        if path.exists() and path.stat().st_size:
            break
        time.sleep(0.1)
    os.kill(found.pid, signal.SIGINT)
    assert found.wait(60) == 130
    assert found.stderr.read() == "emoe: stopped\n"
    assert all(json.loads(line)["eu"] > 0 for line in path.read_text().splitlines())


def test_help_does_not_wait_for_torch():
    code = "import sys, emoe.__main__ as m; m._parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Python -------------------------------------------------------------------------------------------------------------


def test_shapes(weights):
    scores = EMoE.from_toml(weights).score(PROMPTS, size=128, seeds=2, batch_size=2)
    assert scores.eu.shape == scores.uncertainty.shape == scores.relative.shape == scores.aleatoric.shape == (3,)
    assert scores.map.shape == (3, 2, 2)
    assert scores.weights.shape == (3, 4)
    assert torch.allclose(scores.map.mean(dim=(1, 2)), scores.eu)
    assert torch.allclose(scores.uncertainty, (128 * 2 * 2) ** 0.5 * scores.eu)


def test_the_default_size_is_the_checkpoints_own(weights):
    assert EMoE.from_toml(weights).score("a cat").map.shape == (1, 8, 8)


def test_wrong_arguments(weights):
    model = EMoE.from_toml(weights)
    for arguments, sentence in (
        (([],), "no prompts"),
        ((["a", "b"], ["x"]), "2 prompts and 1 negative prompts"),
    ):
        with pytest.raises(EmoeError, match=sentence):
            model.score(*arguments)
    for settings in ({"read_out": "end"}, {"seeds": 0}, {"size": 65}, {"timestep": -1}):
        with pytest.raises(EmoeError):
            model.score(["a"], **settings)
    with pytest.raises(EmoeError, match="dtype is 'float8'"):
        EMoE.from_toml(weights, dtype="float8")


def test_overflow_is_an_error_not_a_number(weights):
    model = EMoE.from_toml(weights)
    model.unet.mid_block.resnets[1].conv2.bias.fill_(float("inf"))
    with pytest.raises(EmoeError, match="activations are not finite"):
        model.score(["a cat"], size=64)
