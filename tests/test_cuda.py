"""The same on a GPU, where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_experts import write_mixture

from emoe import EMoE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
PROMPTS = ["a red bus", "punainen bussi", "a cat on a mat"]
DTYPES = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.1}  # relative errors; TF32 is not asked for


@pytest.fixture(scope="module")
def toml(tmp_path_factory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("experts"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gate", ["prompt", "uniform"])
def test_scores_are_those_of_the_cpu(toml, dtype, gate):
    path = toml.with_name(f"{gate}.toml")
    path.write_text(toml.read_text().replace("top = 2", {"prompt": "top = 2", "uniform": 'gate = "uniform"'}[gate]))
    cpu = EMoE.from_toml(path, device="cpu").score(PROMPTS, "blurry", size=256)
    gpu = EMoE.from_toml(path, device="cuda", dtype=dtype).score(PROMPTS, "blurry", size=256)
    assert torch.allclose(gpu.weights, cpu.weights, atol=1e-5)
    assert torch.allclose(gpu.eu, cpu.eu, rtol=DTYPES[dtype])
    assert gpu.map.device.type == "cpu"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_batch_mates_do_not_matter(toml, dtype):
    model = EMoE.from_toml(toml, device="cuda", dtype=dtype)
    alone = torch.cat([model.score(prompt, size=256).eu for prompt in PROMPTS])
    assert torch.allclose(
        model.score(PROMPTS, size=256, batch_size=3).eu, alone, rtol=1e-4 if dtype == "float32" else 1e-3
    )


@pytest.mark.parametrize("mode", ["emoe", "fast", "mixture"])
@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpm++"])
def test_images(toml, mode, scheduler):
    model = EMoE.from_toml(toml)
    assert (model.device.type, model.dtype) == ("cuda", torch.float16)
    assert model.vae.post_quant_conv.weight.dtype == torch.float32
    found = model.generate(PROMPTS, "blurry", mode=mode, scheduler=scheduler, steps=3, size=128)
    assert [len(g.images) for g in found] == [4 if mode == "emoe" else 1] * 3
    again = model.generate(PROMPTS, "blurry", mode=mode, scheduler=scheduler, steps=3, size=128)
    assert [g.images[0].tobytes() for g in found] == [g.images[0].tobytes() for g in again]


def test_the_hidden_gate(toml, monkeypatch):
    monkeypatch.setattr("emoe.capture.STEPS", 2)
    path = toml.with_name("hidden.toml")
    path.write_text(toml.read_text().replace("top = 2", 'top = 2\ngate = "hidden"'))
    gpu = EMoE.from_toml(path, device="cuda", dtype="float32")
    cpu = EMoE.from_toml(path, device="cpu")  # with the vectors that the GPU has captured
    assert torch.allclose(gpu.score(PROMPTS, size=256).eu, cpu.score(PROMPTS, size=256).eu, rtol=1e-3)


def test_the_other_numbers_of_a_study(toml):
    pytest.importorskip("scipy", reason="needs emoe[study]")
    from emoe.study.baselines import BASELINES, GATED, classifier_error
    from emoe.study.observe import observe

    found = []
    for device in ("cpu", "cuda"):
        model = EMoE.from_toml(toml, device=device, dtype="float32")
        text = model.encode(PROMPTS)
        seen = observe(model, text, model.noise(0, 256), 961, 25, 7.5)
        numbers = {name: f(seen) for name, f in (BASELINES | GATED).items()}
        found.append(numbers | {"diffusion classifier": classifier_error(model, text, seen)})
        scores = model.score(PROMPTS, size=256, seeds=2, estimator="eu-over-answer", read_out="pre")
        found[-1]["eu over answer"] = scores.uncertainty
    for name, expected in found[0].items():
        assert torch.allclose(found[1][name].cpu().double(), expected.double(), rtol=0.01, atol=1e-6), name
