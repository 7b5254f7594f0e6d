"""The hidden gate's vectors: captured, kept, and written for SegMoE."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import close, mixture_of, needs_proc, sample
from random_experts import write_mixture
from safetensors.torch import load_file
from twins import scheduler_twin, segmoe_twin

from emoe import EMoE, EmoeError, Recipe, gate_vectors
from emoe.capture import capture
from emoe.config import Expert, Weights, read_weights
from emoe.gate import HiddenGate
from emoe.generating import denoising_steps
from emoe.moe import is_gate, mixtures
from emoe.route import PromptRoute
from emoe.schedule import noises, timesteps
from emoe.segmoe import save_segmoe
from emoe.shipped import SHIPPED

DESCRIPTORS = [("photo", "cartoon"), ("anime girl", "photo")]
KEPT = ".gates.float32.safetensors"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr("emoe.capture.STEPS", 3)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A weights.toml with a hidden gate."""
    path = write_mixture(tmp_path_factory.mktemp("experts"), count=3)
    path.write_text(path.read_text().replace("top = 2", 'top = 2\ngate = "hidden"'))
    return path


@pytest.fixture
def toml(written, monkeypatch) -> Path:
    """The same, whose networks are run small."""
    import emoe.gate_vectors as module

    monkeypatch.setattr(module, "STEPS", 1)
    monkeypatch.setattr("emoe.capture.STEPS", 1)

    def small(unet, *others, **more):
        config = unet.config
        unet.config = type(config)(**{**vars(config), "sample_size": 8})
        capture(unet, *others, **more)
        unet.config = config

    monkeypatch.setattr(module, "capture", small)
    return written


def watched(unet) -> tuple[dict[str, torch.Tensor], list]:
    """What every mixture was last given, of the conditional half, and the hooks that see it."""
    seen: dict[str, torch.Tensor] = {}
    return seen, [
        mixture.register_forward_hook(lambda _, args, out, name=name: seen.update({name: args[0][-1]}))
        for name, mixture in mixtures(unet).items()
    ]


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@torch.inference_mode()
def test_vectors_are_the_mean_inputs_of_the_last_step(base, experts, text, kind):
    """Once more with hooks on a mixture that is routed one-hot, and guidance written out."""
    unet, told = mixture_of(base, experts[:2], gated=True), []
    capture(unet, text, DESCRIPTORS, kind, lambda *at: told.append(at))
    assert told == [(expert, step) for expert in range(2) for step in range(3)]
    ts = timesteps(3)
    for i, (positive, negative) in enumerate(DESCRIPTORS):
        seen, hooks = watched(unet)
        z, scheduler = next(noises(0, (1, 4, 16, 16))), scheduler_twin("ddim", kind, 3)
        states = text([negative, positive]).states
        for t in ts:
            route = PromptRoute(torch.eye(2)[[i, i]])
            eps = unet(z.expand(2, -1, -1, -1), torch.tensor([t]), states, route).prediction
            z = scheduler.step(eps[:1] + 7.5 * (eps[1:] - eps[:1]), t, z).prev_sample
        for hook in hooks:
            hook.remove()
        for name, mixture in mixtures(unet).items():
            mean = seen[name].mean(dim=0)
            assert close(mixture.gate.weight[i], mean / mean.norm()) < 1e-4, name


@pytest.mark.slow
def test_vectors_of_a_network_in_half_precision(base, experts, text):
    """They lie near those of float32, and their length is worked out there: 1, to bfloat16's own digits."""
    whole = mixture_of(base, experts[:2], gated=True)
    half = mixture_of(base, experts[:2], gated=True).bfloat16()
    for unet in (whole, half):
        capture(unet, text, DESCRIPTORS)
    for name, mixture in mixtures(half).items():
        assert close(mixture.gate.weight, mixtures(whole)[name].gate.weight) < 0.1, name
        assert torch.allclose(mixture.gate.weight.float().norm(dim=1), torch.ones(2), atol=3e-3), name


def test_the_vectors_are_captured_once_and_kept_beside_the_weights(toml, caplog):
    path = toml.with_suffix(KEPT)
    path.unlink(missing_ok=True)
    first = EMoE.from_toml(toml)
    assert "capturing the gate vectors of 3 experts" in caplog.text
    kept = load_file(path)
    assert set(kept) == {name for name in first.unet.state_dict() if is_gate(name)}
    assert all(torch.allclose(v.norm(dim=1), torch.ones(3), atol=1e-5) for v in kept.values())

    caplog.clear()
    again = EMoE.from_toml(toml)
    assert "capturing" not in caplog.text
    assert again.mixture == first.mixture
    assert all(torch.equal(again.unet.state_dict()[name], vector) for name, vector in kept.items())

    toml_of_others = toml.with_name("others.toml")
    toml_of_others.write_text(toml.read_text().replace("photograph", "painting"))
    path.rename(toml_of_others.with_suffix(KEPT))
    for other, changed in ((toml_of_others, True), (toml, False)):  # the same every time
        caplog.clear()
        gate_vectors.gate_vectors(again.unet, again.text, read_weights(other), again.prediction_type)
        assert "capturing" in caplog.text
        found = again.unet.state_dict()
        assert all(torch.equal(found[name], vector) for name, vector in kept.items()) is not changed


@torch.no_grad()
def test_another_machines_digits_are_the_same_mixture(base, experts, text):
    """What vectors were captured from counts; those that a checkpoint brings count themselves."""
    ours, theirs = (mixture_of(base, experts[:2], gated=True) for _ in range(2))
    for mixture in mixtures(theirs).values():
        mixture.gate.weight += 1e-6

    def marks(*captured_from):
        return [EMoE(unet, text, HiddenGate(2, 1, captured_from)).mixture for unet in (ours, theirs)]

    assert len({*marks("a cat")}) == 1
    assert len({*marks("a cat"), *marks("a dog")}) == 2
    assert len({*marks()}) == 2


def test_vectors_of_another_prediction_are_captured_again(base, experts, text, tmp_path, monkeypatch):
    unet, seen = mixture_of(base, experts[:2], gated=True), []
    monkeypatch.setattr(gate_vectors, "capture", lambda *told, **_: seen.append(told[3]))
    told = Weights(tmp_path / "weights.toml", "base", tuple(Expert("x", *texts) for texts in DESCRIPTORS))
    for prediction_type in ("epsilon", "epsilon", "v", "v", "epsilon"):
        gate_vectors.gate_vectors(unet, text, told, prediction_type)
    assert seen == ["epsilon", "v", "epsilon"]


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"nonsense" * 100])
def test_vectors_that_cannot_be_read_are_captured_again(toml, caplog, content):
    toml.with_suffix(KEPT).write_bytes(content)
    EMoE.from_toml(toml)
    assert "its gate vectors are captured again" in caplog.text
    caplog.clear()
    EMoE.from_toml(toml)
    assert not caplog.text


def test_where_nothing_can_be_written_the_vectors_are_not_kept(toml, caplog, monkeypatch):
    def full(_, path, *__):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    toml.with_suffix(KEPT).unlink(missing_ok=True)
    monkeypatch.setattr("emoe.gate_vectors.save_file", full)
    assert EMoE.from_toml(toml).gate.top == 2
    assert "captured again next time" in caplog.text
    assert [p.name for p in toml.parent.iterdir() if "weights" in p.name] == ["weights.toml"]


def test_vectors_that_are_not_finite_are_not_kept(toml, monkeypatch):
    def broken(unet, *_, **__):
        next(iter(mixtures(unet).values())).gate.weight.fill_(float("nan"))

    toml.with_suffix(KEPT).unlink(missing_ok=True)
    monkeypatch.setattr("emoe.gate_vectors.capture", broken)
    with pytest.raises(EmoeError, match="the gate vectors are not finite"):
        EMoE.from_toml(toml)
    assert not toml.with_suffix(KEPT).exists()


@pytest.mark.slow
def test_an_expert_that_comes_twice_is_written_twice(toml, tmp_path):
    twice = toml.with_name("twice.toml")
    twice.write_text(toml.read_text().replace('"expert_3.safetensors"', '"expert_2.safetensors"'))
    save_segmoe(EMoE.from_toml(twice), tmp_path / "built", "base", torch.float32)
    there = tmp_path / "there.toml"
    there.write_text('segmoe = "built"\n')
    assert EMoE.from_toml(there).gate.experts == 3


def test_nothing_is_written_into_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOE_CACHE", str(tmp_path / "cache"))
    place = gate_vectors._place(SHIPPED["miniature"], torch.float16)
    assert place == tmp_path / "cache" / "style.gates.float16.safetensors"
    assert gate_vectors._place(Path("my/weights.toml"), torch.float32) == Path("my/weights.gates.float32.safetensors")


# emoe build ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(toml, run, tmp_path) -> Path:
    folder = tmp_path / "built"
    code, _, err = run("build", "--weights", str(toml), "--out", str(folder), "--save-dtype", "float32")
    assert (code, err.splitlines()[-1]) == (0, f"emoe: 3 experts with their gate vectors in {folder}")
    return folder


def test_experts_without_descriptors_are_not_built(toml, run, tmp_path):
    bare = toml.with_name("bare.toml")
    lines = toml.read_text().splitlines(keepends=True)
    bare.write_text('gate = "uniform"\n' + "".join(x for x in lines if not x.startswith(("gate", "top", "pos", "neg"))))
    code, _, err = run("build", "--weights", str(bare), "--out", str(tmp_path / "built"))
    assert (code, "expert 1" in err, "has no descriptors" in err) == (2, True, True)


def test_what_was_built_is_read_back(toml, folder, tmp_path):
    there = tmp_path / "there.toml"
    there.write_text(f'segmoe = "{folder}"\n')
    ours, back = EMoE.from_toml(toml), EMoE.from_toml(there)
    assert [(e.positive, e.negative) for e in back.experts] == [(e.positive, e.negative) for e in ours.experts]
    assert back.gate.top == ours.gate.top
    assert torch.equal(back.score("a red bus", size=128).eu, ours.score("a red bus", size=128).eu)
    recipe = {"size": 128, "steps": 2, "mode": "mixture"}
    pair = [model.generate("a red bus", **recipe)[0].images[0].tobytes() for model in (ours, back)]
    assert pair[0] == pair[1]
    told = json.loads((folder / "unet" / "config.json").read_text())["segmoe_config"]
    assert (told["num_experts"], told["num_experts_per_tok"], told["moe_layers"]) == (3, 2, "all")


@torch.inference_mode()
def test_segmoe_predicts_the_same_noise_from_what_was_built(toml, folder):
    ours, theirs = EMoE.from_toml(toml), segmoe_twin(folder)
    x, t, _ = sample(1)
    text = ours.text(["a red bus"])
    route = ours.route(text, None, split=False)
    expected = theirs.unet(x, t, text.states).sample
    assert close(ours.unet(x, t, text.states, route).prediction, expected) < 1e-5


@pytest.mark.slow
def test_segmoe_draws_the_same_from_what_was_built(toml, folder):
    ours, theirs = EMoE.from_toml(toml), segmoe_twin(folder)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        "a red bus", negative_prompt="blurry", num_inference_steps=10, height=128, width=128, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    *_, last = denoising_steps(ours, ["a red bus"], ["blurry"], Recipe("mixture", "ddpm", steps=10, size=128))
    assert close(last.latents[0], expected) < 1e-3


@pytest.mark.slow
def test_what_segmoe_saves_is_read_here(toml, folder, tmp_path):
    """Written by SegMoE, from what it has read; both then draw the same."""
    module = pytest.importorskip("segmoe")
    theirs = module.SegMoEPipeline(str(folder), device="cpu", torch_dtype=torch.float32)
    theirs.save_pretrained(str(tmp_path / "saved"))
    there = tmp_path / "there.toml"
    there.write_text('segmoe = "saved"\n')
    ours, pipe = EMoE.from_toml(there), theirs.pipe
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        "a red bus", num_inference_steps=5, height=128, width=128, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    *_, last = denoising_steps(ours, ["a red bus"], [""], Recipe("mixture", "ddpm", steps=5, size=128))
    assert close(last.latents[0], expected) < 1e-3


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("there", "there is there already; name another with --out"),
        ("file", "file is there already"),
        (".", ". is there already"),
        ("..", ".. is there already"),
        ("", "--out is empty; name a folder"),
        ("no/x", "cannot make the folder no/x: No such file or directory; name another with --out"),
        ("no/..", "cannot make the folder no/..: No such file or directory"),
        ("file/x", "cannot make the folder file/x: Not a directory"),
        ("x" * 300, "xxx: File name too long"),
        pytest.param("/proc/x", "cannot make the folder /proc/x: ", marks=needs_proc),
    ],
)
def test_folders_that_cannot_be_built(run, tmp_path, monkeypatch, out, sentence):
    """Said before anything is read or loaded: there is no weights.toml here."""
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("file").write_text("")
    code, _, err = run("build", "--out", out)
    assert (code, sentence in err, err.count("\n")) == (2, True, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "there"]


def test_a_folder_that_can_be_built_is_not_made_too_early(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("build", "--out", "new")
    assert (code, "weights.toml; name another" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_is_built_is_the_prompt_gates_mixture(toml, run, tmp_path):
    """Its temperature is nothing to the hidden gate, and in nobody's way."""
    path = toml.with_name("prompt.toml")
    path.write_text(toml.read_text().replace('gate = "hidden"', "temperature = 0.5"))
    assert EMoE.from_toml(path).gate.temperature == 0.5
    assert run("build", "--weights", str(path), "--out", str(tmp_path / "built"))[0] == 0


def test_inspecting_captures_nothing(toml, run):
    path = toml.with_name("inspected.toml")
    path.write_text(toml.read_text())
    code, out, err = run("inspect", str(path), "--json")
    found = json.loads(out)
    assert (code, err, found["gate"], found["top"]) == (0, "", "hidden", 2)
    assert min(expert["apart"][1 - i] for i, expert in enumerate(found["experts"][:2])) > 0
    assert found["mixture"] in run("inspect", str(path))[1]
    assert not path.with_suffix(KEPT).exists()
    assert found["mixture"] == EMoE.from_toml(path).mixture


def test_a_hidden_gate_needs_descriptors(toml):
    bare = toml.with_name("bare.toml")
    bare.write_text("\n".join(line for line in toml.read_text().splitlines() if not line.startswith("positive")))
    with pytest.raises(EmoeError, match="expert 1: positive is missing"):
        EMoE.from_toml(bare)
