"""Known answers from independent implementations, where the fixtures are at hand; all of it skips elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import close
from safetensors.torch import load_file
from twins import segmoe_twin

from emoe.checkpoint.load_text import load_text, own_tokenizer
from emoe.checkpoint.load_unet import load_unet
from emoe.checkpoint.load_vae import load_vae
from emoe.checkpoint.open import open_checkpoint
from emoe.config import parse_weights
from emoe.pipeline import EMoE
from emoe.route import HiddenRoute
from emoe.text import CLIPTokenizer
from emoe.tokenizer import clip_tokenizer

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures are not beside the project")

TENSOR, EU = 1e-5, 1e-4  # relative errors allowed


@torch.inference_mode()
def test_ldm_tiny():
    """A single file in the original names, computed by the original modules."""
    expected = load_file(FIXTURES / "ldm-tiny" / "expected.safetensors")
    checkpoint = open_checkpoint(str(FIXTURES / "ldm-tiny" / "model.safetensors"))
    unet = load_unet(checkpoint, dtype=torch.float32)
    text = load_text(checkpoint.parts["text_encoder"], None)
    position = torch.arange(77)[None]
    states = text.model(expected["ids"], position_ids=position).last_hidden_state
    assert close(states, expected["context"]) < TENSOR
    out = unet(expected["z"], expected["timesteps"], expected["context"])
    assert close(out.prediction, expected["eps"]) < TENSOR
    assert close(out.m_pre, expected["m_pre"]) < TENSOR
    assert close(out.m_post, expected["m_post"]) < TENSOR
    vae = load_vae(checkpoint.parts["vae"])
    assert close(vae.decode(expected["z"]), expected["image"]) < TENSOR
    assert close(vae.quant_conv(vae.encoder(expected["pixels"])), expected["moments"]) < TENSOR
    assert close(vae.encode(expected["pixels"]), expected["moments"][:, :4] * 0.18215) < TENSOR


EXPERTS = json.loads((FIXTURES / "experts-tiny" / "expected.json").read_text()) if FIXTURES.is_dir() else {"cases": []}


def write_weights(path: Path, layers: str, top: int, gate: str) -> Path:
    tables = "".join(
        f"\n[[expert]]\nsource = {json.dumps(str(FIXTURES / 'experts-tiny' / name))}\n"
        f"positive = {json.dumps(positive)}\nnegative = {json.dumps(negative)}\n"
        for name, positive, negative in zip(EXPERTS["experts"], EXPERTS["positive"], EXPERTS["negative"], strict=True)
    )
    base = json.dumps(str(FIXTURES / "experts-tiny" / EXPERTS["base"]))
    path.write_text(f'base = {base}\nlayers = "{layers}"\ntop = {top}\ngate = "{gate}"\n{tables}', encoding="utf-8")
    return path


def settings(case: dict) -> tuple[str, int, str]:
    return case["layers"], case["top"], case["gate"]


@pytest.mark.parametrize("mixture", sorted({settings(case) for case in EXPERTS["cases"]}), ids=str)
def test_experts_tiny(tmp_path, mixture):
    """Routes, eu, relative, uncertainty and maps, by diffusers' modules, one forward a path."""
    model = EMoE.from_toml(write_weights(tmp_path / "weights.toml", *mixture))
    cases = [case for case in EXPERTS["cases"] if settings(case) == mixture]
    prompts, negatives = [c["prompt"] for c in cases], [c["negative_prompt"] for c in cases]
    asked = {"seed": EXPERTS["seed"], "batch_size": 3}
    scores = model.score(prompts, negatives, **asked)
    assert scores.reading.timestep == EXPERTS["timestep"]
    for name in ("weights", "eu", "relative", "uncertainty", "map"):
        expected = torch.tensor([case[name] for case in cases])
        assert torch.allclose(getattr(scores, name), expected, rtol=EU, atol=1e-9), name
    pre = model.score(prompts, negatives, read_out="pre", **asked)
    assert torch.allclose(pre.eu, torch.tensor([case["eu_pre"] for case in cases]), rtol=EU)


@torch.inference_mode()
def test_segmoe_tiny_forward():
    """A folder that SegMoE saved, against SegMoE's own model."""
    expected = load_file(FIXTURES / "segmoe-tiny" / "expected.safetensors")
    checkpoint = open_checkpoint(str(FIXTURES / "segmoe-tiny"))
    text = load_text(checkpoint.parts["text_encoder"], own_tokenizer(checkpoint))
    states = text.model(expected["ids"], position_ids=torch.arange(77)[None]).last_hidden_state
    assert close(states, expected["context"]) < TENSOR
    unet = load_unet(checkpoint, dtype=torch.float32)
    out = unet(expected["z"], expected["timestep"], expected["context"], HiddenRoute(1, 4, 2))
    assert close(out.prediction, expected["noise"]) < TENSOR
    assert close(out.m_post, expected["m_post"]) < TENSOR


def test_segmoe_tiny_split(tmp_path):
    """The split's numbers with the hidden gate; nothing but the folder is named."""
    path = tmp_path / "weights.toml"
    path.write_text(f"segmoe = {json.dumps(str(FIXTURES / 'segmoe-tiny'))}\n", encoding="utf-8")
    expected = json.loads((FIXTURES / "segmoe-tiny" / "expected.json").read_text())
    model = EMoE.from_toml(path)
    cases = expected["cases"]
    prompts = [case["prompt"] for case in cases]
    scores = model.score(prompts, seed=expected["seed"], batch_size=2)
    assert scores.weights is None
    assert scores.reading.timestep == expected["timestep"]
    for name in ("eu", "relative", "uncertainty", "map"):
        assert torch.allclose(getattr(scores, name), torch.tensor([c[name] for c in cases]), rtol=EU), name
    pre = model.score(prompts, seed=expected["seed"], read_out="pre")
    assert torch.allclose(pre.eu, torch.tensor([case["eu_pre"] for case in cases]), rtol=EU)


def test_clip_tokenizer_is_the_published_one():
    theirs = CLIPTokenizer.from_pretrained(FIXTURES / "experts-tiny" / "e0" / "tokenizer")
    ours = clip_tokenizer()
    assert ours.get_vocab() == theirs.get_vocab()
    texts = [
        "a red bus",
        "",
        "Hello  WORLD\n\t it's 2024",
        "punainen ympyrä 日本語 🎉",
        "<|endoftext|> x",
        "\0 " + "a" * 999,
    ]
    assert ours(texts, verbose=False)["input_ids"] == theirs(texts, verbose=False)["input_ids"]


def test_segmoe_draws_what_we_draw_from_its_own_folder():
    """SegMoE sums a choice over the whole batch: with one prompt, over both guidance halves, as we do."""
    from emoe import Recipe
    from emoe.generating import denoising_steps

    folder = FIXTURES / "segmoe-tiny"
    theirs = segmoe_twin(folder)
    theirs.scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config, clip_sample=False)  # as SD1.5's
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        "a red bus", negative_prompt="blurry", num_inference_steps=25, height=128, width=128, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    model = EMoE.from_weights(parse_weights({"segmoe": str(folder)}, Path("weights.toml")))
    *_, last = denoising_steps(model, ["a red bus"], ["blurry"], Recipe("mixture", "ddpm", size=128))
    assert close(last.latents[0], expected) < 1e-3
