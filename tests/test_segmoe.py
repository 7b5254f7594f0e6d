"""A mixture that SegMoE built, gates included, and saved by itself: loaded here, it draws what SegMoE draws."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import forms
import pytest
import torch
from conftest import close

from emoe import EMoE, Recipe
from emoe.checkpoint.save import INDEX, SCHEDULER
from emoe.generating import denoising_steps
from emoe.tokenizer import clip_tokenizer

DESCRIPTORS = [("photo", "drawing"), ("anime girl", "photo"), ("oil painting", "blurry")]
VAE = {
    "_class_name": "AutoencoderKL", "block_out_channels": [32, 64, 128, 128], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip


def pipeline(folder: Path, seed: int) -> Path:
    """A checkpoint as diffusers reads it, for 16 latents a side; all have the same text encoder."""
    parts = forms.unet(forms.state(seed)), forms.text(forms.state(1)), forms.vae(forms.state(seed))
    forms.hub(folder, *map(forms.wide, parts))
    unet = json.loads((folder / "unet" / "config.json").read_text()) | {"sample_size": 16}
    configs = {"unet/config.json": unet, "vae/config.json": VAE, "model_index.json": INDEX}
    for name, config in (configs | {"scheduler/scheduler_config.json": SCHEDULER}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(config))
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "top"), [("all", 2), ("attn", 1)])
def test_what_segmoe_builds_and_saves_draws_the_same_here(tmp_path, layers, top):
    segmoe = pytest.importorskip("segmoe")
    sources = [str(pipeline(tmp_path / f"expert_{seed}", seed)) for seed in (1, 2, 3)]
    keys = ("source_model", "positive_prompt", "negative_prompt")
    told = {
        "base_model": sources[0], "type": "sd", "num_experts": 3, "num_experts_per_tok": top, "moe_layers": layers,
        "experts": [dict(zip(keys, (s, *d), strict=True)) for s, d in zip(sources, DESCRIPTORS, strict=True)],
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(json.dumps(told))  # JSON is YAML
    logging.disable(logging.WARNING)
    theirs = segmoe.SegMoEPipeline(str(tmp_path / "config.yaml"), device="cpu", torch_dtype=torch.float32)
    theirs.save_pretrained(str(tmp_path / "saved"))
    logging.disable(logging.NOTSET)

    (tmp_path / "weights.toml").write_text('segmoe = "saved"\n')
    ours = EMoE.from_toml(tmp_path / "weights.toml")
    assert [(expert.positive, expert.negative) for expert in ours.experts] == DESCRIPTORS
    assert ours.gate.top == top
    theirs.pipe.set_progress_bar_config(disable=True)
    expected = theirs.pipe(
        "a red bus", negative_prompt="blurry", num_inference_steps=10, height=128, width=128, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    *_, last = denoising_steps(ours, ["a red bus"], ["blurry"], Recipe("mixture", "ddpm", steps=10, size=128))
    assert close(last.latents[0], expected) < 1e-4
