"""The command line, as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from conftest import score

from emoe import EMoE, device
from emoe.__main__ import main

pytestmark = pytest.mark.usefixtures("loaded_once")

PROMPTS = ["a red bus", "punainen bussi", "a cat"]


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
        "truncated",
        "seed",
        "seeds",
        "timestep",
        "size",
        "read_out",
        "estimator",
        "mixture",
    ]
    assert records[0]["negative_prompt"] == "blurry"
    assert [r["eu"] for r in records] == pytest.approx(scores.eu.tolist(), rel=1e-5)
    assert sum(records[0]["weights"]) == pytest.approx(1, rel=1e-5)


def test_several_seeds(run, weights):
    _, out, _ = run(*score("a cat", "--json", "--seeds", "3", weights=weights))
    record = json.loads(out)
    model = EMoE.from_toml(weights)
    single = [model.score(["a cat"], seed=seed, size=64) for seed in range(3)]
    assert record["seeds"] == 3
    assert record["eu"] == pytest.approx(torch.cat([s.eu for s in single]).mean().item(), rel=1e-5)
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
    code, out, err = run(*score("word " * 100, "--json", weights=weights))
    assert (code, json.loads(out)["truncated"]) == (0, True)
    assert err.count("\n") == 1
    assert "longer than 77 tokens" in err


MISTAKES = {
    "no command": ([], "the following arguments are required: COMMAND"),
    "unknown command": (["paint"], "invalid choice: 'paint'"),
    "no prompt": (["score"], "there is no prompt; give one in quotes"),
    "weights misspelt": (["score", "a", "--weights", "minature"], "minature; did you mean miniature?"),
    "no weights": (["score", "a", "--weights", "gone.toml"], "gone.toml; name another"),
    "unknown option": (["score", "a", "--sed", "3"], "--sed"),
    "not a number": (["score", "a", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
    "size": (["score", "a", "--size", "100"], "size is 100 pixels; it must be a multiple of 64"),
    "size zero": (["score", "a", "--size", "0"], "size is 0 pixels"),
    "steps": (["score", "a", "--steps", "0"], "steps is 0; it must lie between 1 and 999"),
    "steps that are not used": (["score", "a", "--steps", "0", "--timestep", "5"], "steps is 0"),
    "an empty place": (["score", "a", "--out", ""], "--out is empty"),
    "an empty list": (["score", "--prompts", ""], "--prompts is empty"),
    "a file's device": (["inspect", "gone.ckpt", "--device", "tpu9"], "device is 'tpu9'; choose one of"),
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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["explain", "a", "red", "bus"], "red bus; put a prompt of several words in quotes (see emoe explain --help)"),
        (["score", "a", "--sedes", "4"], "--sedes 4 (see emoe score --help)"),
    ],
)
def test_what_a_command_does_not_take(run, arguments, told):
    code, _, err = run(*arguments)
    assert (code, err) == (2, f"emoe: unrecognized arguments: {told}\n")


def test_debug_shows_where(run, monkeypatch, capsys):
    monkeypatch.setenv("EMOE_DEBUG", "1")
    assert main(["inspect", "gone.ckpt"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_mistake_of_ours_is_one_line_too(run, monkeypatch):
    monkeypatch.setattr("emoe.commands.inspect._lines", lambda _: 1 / 0)
    monkeypatch.setattr("emoe.checkpoint.describing.describe", lambda _: {"kind": "a kind", "refused": None})
    code, _, err = run("inspect", "x")
    assert code == 1
    assert "mistake in emoe (ZeroDivisionError" in err


NUMBERS = [
    *(("--steps", n) for n in ("0", "-1", "1000", "x", "1.5")),
    *(("--seeds", n) for n in ("0", "-1", "x")),
    *(("--seed", n) for n in ("-1", str(2**63), "x")),
    *(("--size", n) for n in ("0", "-64", "63", "100", "x")),
    *(("--timestep", n) for n in ("-1", "1000", "x")),
    *(("--batch-size", n) for n in ("0", "-1", "x")),
]


@pytest.mark.parametrize(("option", "number"), NUMBERS)
def test_numbers_out_of_range_are_refused_before_any_file_is_opened(run, weights, monkeypatch, option, number):
    monkeypatch.setattr("emoe.checkpoint.open.WeightsFile", lambda path: pytest.fail(f"{path} was opened"))
    monkeypatch.setattr("emoe.pipeline.assemble", lambda *_: pytest.fail("loaded"))  # what is in memory counts too
    code, out, err = run("score", "a", "--weights", weights, option, number)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert option.strip("-").replace("-", "_") in err.replace("-", "_")


@pytest.fixture(scope="module")
def mixture(weights) -> EMoE:
    return EMoE.from_toml(weights)


def test_a_negative_prompt_of_spaces_is_none(mixture):
    none, spaces, said = mixture.score(["a cat"] * 3, ["", " \t\n ", "blurry"], size=64).records()
    assert (spaces["eu"], spaces["weights"]) == (none["eu"], none["weights"])
    assert said["weights"] != none["weights"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "p.jsonl",
            '{"prompt": "a", "negative_prompt": "x"}\n{"prompt": "a", "negative_prompt": ""}\n{"prompt": "a"}\n',
        ),
        ("p.csv", 'prompt,negative_prompt\na,x\na," "\na,\n'),
    ],
    ids=["jsonl", "csv"],
)
def test_whose_negative_prompt_counts(run, weights, mixture, tmp_path, name, content):
    """Its own, also where that is empty; else that of --negative. An empty cell says nothing."""
    (tmp_path / name).write_text(content)
    arguments = "--prompts", str(tmp_path / name), "--json", "--negative", "blurry"
    records = [json.loads(line) for line in run(*score(*arguments, weights=weights))[1].splitlines()]
    expected = mixture.score(["a"] * 3, ["x", "", "blurry"], size=64)
    assert [r["negative_prompt"].strip() for r in records] == expected.negative_prompts
    assert [r["weights"] for r in records] == [r["weights"] for r in expected.records()]


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nSee the documentation"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: Error code 12"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.90 GB, other allocations: 1.00 GB, max allowed: 18 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory(run, weights, mixture, monkeypatch, error):
    def forward(*_, **__):
        raise error

    monkeypatch.setattr(EMoE, "from_weights", lambda *_, **__: mixture)
    monkeypatch.setattr("emoe.unet.UNet.forward", forward)
    code, out, err = run(*score("a cat", weights=weights))
    assert (code, out) == (2, "")
    assert err == "emoe: out of memory: use a smaller --size, or --batch-size where there is one\n"


def test_help_does_not_wait_for_torch():
    code = "import sys, emoe.config, emoe.__main__ as m; m._parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_streams_that_the_shell_closed(run, weights, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stdout", None)
    assert main(["score", "a", "--weights", str(weights), "--size", "64", "--out", str(tmp_path / "a.jsonl")]) == 0
    assert main(["score", "a", "--weights", str(weights), "--size", "64"]) == 0
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1


def test_prompts_that_say_nothing_are_told_of(run, weights):
    code, _, err = run(*score("a", " ", "", weights=weights))
    assert (code, err) == (0, "emoe: 2 prompts of 3 say nothing, the first is number 2\n")


@pytest.mark.parametrize("emulates", [True, False])
def test_float16_that_is_emulated_is_a_warning(run, weights, monkeypatch, emulates):
    monkeypatch.setattr(device, "emulates_float16", lambda: emulates)
    code, _, err = run(*score("a red bus", "--dtype", "float16", weights=weights))
    assert code == 0
    assert ("no arithmetic for float16" in err) is emulates
