"""LoRAs that are refused, and those that are nearly so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import forms
import numpy
import pytest
import torch
from folders import CPU, change, fails, weights, write
from loras import ATTN, HEAD, RANK, TEXT, Matrices, loras, matrices, peft, save, two
from safetensors.torch import load_file
from torch import Tensor

from emoe import EMoE
from emoe.assemble import assemble
from emoe.checkpoint.open_lora import open_lora
from emoe.config import read_weights
from emoe.errors import EmoeError
from emoe.segmoe import _segmoe_config


def wider(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.zeros(RANK, 1024), pair[1]


REFUSED: dict[str, tuple[Callable[[Path, Matrices], Path], str]] = {
    "SD2": (lambda p, lora: save(p, {f"{ATTN}.to_q": wider(lora[f"{ATTN}.to_q"])}), "for another architecture"),
    "SDXL": (
        lambda p, lora: save(p, lora, more={"lora_te2_text_model_x.lora_down.weight": torch.zeros(4, 4)}),
        "for another architecture: SD1.x has nothing like lora_te2_text_model_x",
    ),
    "Flux": (
        lambda p, lora: forms.safetensors(p, {"lora_unet_double_blocks_0_x.lora_down.weight": torch.zeros(4, 4)}),
        "SD1.x has nothing like lora_unet_double_blocks_0_x",
    ),
    "LoHa": (lambda p, lora: forms.safetensors(p, {f"{HEAD}.hada_w1_a": torch.zeros(4, 4)}), "is no plain LoRA"),
    "LoKr": (lambda p, lora: forms.safetensors(p, {f"{HEAD}.lokr_w1": torch.zeros(4, 4)}), "is no plain LoRA"),
    "DoRA": (
        lambda p, lora: save(p, lora, more={f"{HEAD}.dora_scale": torch.ones(32, 1)}),
        f"is no plain LoRA, as {HEAD}.dora_scale shows",
    ),
    "half a pair": (
        lambda p, lora: forms.safetensors(p, {f"{HEAD}.lora_down.weight": lora[f"{ATTN}.to_q"][0]}),
        f"of {ATTN}.to_q, whose weight is [32, 32], it lacks the matrix up",
    ),
    "text alone": (lambda p, lora: forms.safetensors(p, TEXT), "changes none of the layers that are mixed"),
    "mid-block alone": (
        lambda p, lora: save(p, {layer: pair for layer, pair in lora.items() if layer.startswith("mid_block")}),
        "changes none of the layers that are mixed",
    ),
    "not finite": (
        lambda p, lora: save(p, {layer: (down, up / 0) for layer, (down, up) in lora.items()}),
        "holds weights that are not finite",
    ),
    "twice": (
        lambda p, lora: save(p, lora, more=peft(f"{ATTN}.to_q", *(m.clone() for m in lora[f"{ATTN}.to_q"]))),
        "twice, by two names",
    ),
    "no rank": (
        lambda p, lora: save(p, {f"{ATTN}.to_q": (torch.zeros(0, 32), torch.zeros(32, 0))}),
        "has matrices without a number",
    ),
    "numbers that are whole": (
        lambda p, lora: save(p, {f"{ATTN}.to_q": tuple(m.int() for m in lora[f"{ATTN}.to_q"])}),
        "is no floating-point number",
    ),
    "alpha of many numbers": (
        lambda p, lora: save(p, lora, more={f"{HEAD}.alpha": torch.ones(3)}),
        f"{HEAD}.alpha is no number",
    ),
    "an alpha of another kind": (
        lambda p, lora: save(p, lora, more={f"{HEAD}.alpha": torch.tensor(4, dtype=torch.uint16)}),
        f"{HEAD}.alpha is no number",
    ),
    "an alpha too large": (
        lambda p, lora: save(p, lora, more={f"{HEAD}.alpha": torch.tensor(3e38)}),
        "is 3e+38; the file is broken",
    ),
    "a sum that is not finite": (
        lambda p, lora: save(p, {layer: (down * 1e20, up * 1e20) for layer, (down, up) in lora.items()}),
        "is not finite in torch.float32; lower their scale",
    ),
    "a tensor without a name": (lambda p, lora: save(p, lora, more={"": torch.zeros(3)}), "SD1.x has nothing like"),
    "settings cut off": (
        lambda p, lora: save(p, lora, "PEFT", lora_adapter_metadata='{"unet.lora_alpha": 8'),
        "its settings are not JSON",
    ),
    "settings too deep": (lambda p, lora: save(p, lora, "PEFT", lora_adapter_metadata="[" * 10**5), "are not JSON"),
    "an expression": (
        lambda p, lora: save(p, lora, "PEFT", lora_adapter_metadata='{"unet.alpha_pattern": {"(a+)+b": 1}}'),
        "its alpha_pattern is {'(a+)+b': 1}, which is more than names of layers",
    ),
    "an odd alpha": (
        lambda p, lora: save(p, lora, "PEFT", lora_adapter_metadata='{"unet.lora_alpha": "8"}'),
        "make '8' an alpha",
    ),
    "odd alphas": (
        lambda p, lora: save(p, lora, "PEFT", lora_adapter_metadata='{"unet.alpha_pattern": {"x": NaN}}'),
        "make nan an alpha",
    ),
    "a checkpoint": (
        lambda p, lora: forms.safetensors(p, forms.state(3)),
        "is an SD1.x checkpoint, not a LoRA; name it as the source of an expert",
    ),
    "a VAE": (lambda p, lora: forms.safetensors(p, forms.vae(forms.state(3))), "is a VAE alone, not a LoRA"),
    "nothing": (lambda p, lora: p, "there is no file or folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(states, files, tmp_path, case):
    make, sentence = REFUSED[case]
    make(tmp_path / "x.safetensors", matrices(states[0]))
    message = fails(two(tmp_path, files, loras(("x.safetensors", 1))))
    assert sentence in message
    assert "expert 1: loras[0]: " in message or "finite" in case or case == "an alpha too large"


def test_one_that_changes_what_is_not_mixed_here(states, files, tmp_path):
    save(tmp_path / "x.safetensors", matrices(states[0], only="attn"))
    keys = loras(("x.safetensors", 1))
    assert "changes none" in fails(two(tmp_path, files, keys, extra='layers = "ff"'))
    assemble(read_weights(two(tmp_path, files, keys, extra='layers = "attn"')), *CPU)


def test_a_lora_as_an_expert(states, tmp_path):
    a, _ = write(tmp_path, *states[:2])
    lora = save(tmp_path / "x.safetensors", matrices(states[0]))
    assert "expert 2: " in (message := fails(weights(tmp_path, a, a, lora)))
    assert "is a LoRA: name it under an expert's loras" in message


TO_Q = f"{ATTN}.to_q"


@pytest.fixture
def lora(tmp_path) -> Path:
    """PEFT's, alpha 8 of rank 4."""
    torch.manual_seed(0)
    names = (f"base_model.model.{TO_Q}.lora_{side}.weight" for side in "AB")
    shapes = (4, 32), (32, 4)
    tensors = {name: torch.randn(shape) for name, shape in zip(names, shapes, strict=True)}
    change(tmp_path / "peft" / "adapter_config.json", peft_type="LORA", r=4, lora_alpha=8)
    return forms.safetensors(tmp_path / "peft" / "adapter_model.safetensors", tensors)


def delta(path: Path) -> torch.Tensor:
    return open_lora(str(path)).parts["lora"].delta(TO_Q)


def test_pefts_settings_go_with_its_names(lora, caplog):
    """Whatever the file is called; without them, a warning."""
    told = delta(lora)
    renamed = lora.rename(lora.with_name("style.safetensors"))
    assert torch.equal(delta(renamed), told)
    assert not caplog.records
    (lora.parent / "adapter_config.json").unlink()
    assert torch.allclose(2 * delta(renamed), told)
    assert "adapter_config.json is not beside it; its alpha is taken to be its rank" in caplog.text


@pytest.mark.parametrize("way", ["pissa", "pissa_niter_16", "olora", "PiSSA"])
def test_loras_that_change_the_base_as_well(lora, way):
    change(lora.parent / "adapter_config.json", init_lora_weights=way)
    with pytest.raises(EmoeError, match="which changes the base as well; merge the LoRA with PEFT"):
        delta(lora)


@pytest.mark.parametrize("way", [True, "gaussian", "eva"])
def test_loras_that_do_not(lora, way):
    told = delta(lora)
    change(lora.parent / "adapter_config.json", init_lora_weights=way)
    assert torch.equal(delta(lora), told)


def test_an_alpha_that_cannot_be_read(tmp_path):
    tensors = {f"{HEAD}.lora_down.weight": torch.ones(4, 32), f"{HEAD}.lora_up.weight": torch.ones(32, 4)}
    for number in (numpy.float64(2), "2"):
        torch.save(tensors | {f"{HEAD}.alpha": number}, tmp_path / "x.pt")
        with pytest.raises(EmoeError, match=r"x\.pt: .*\.alpha' is no number that is read here"):
            delta(tmp_path / "x.pt")


@pytest.mark.parametrize("told", ["sd_v1", "sd_1.5", "SD_1.5"])
def test_what_trainers_call_sd15(lora, told, caplog):
    path = forms.safetensors(lora.with_name("x.safetensors"), load_file(lora), ss_base_model_version=told)
    delta(path)
    assert not caplog.records


def test_an_adapter_by_any_name(lora):
    told = delta(lora)
    named = {name.replace(".weight", ".my_style.weight"): tensor for name, tensor in load_file(lora).items()}
    assert torch.equal(delta(forms.safetensors(lora.with_name("x.safetensors"), named)), told)


@pytest.mark.parametrize("name", ["lycoris_text_model_encoder_layers_0_mlp_fc1", "clip_l.x", "te.text_model.x"])
def test_other_names_of_the_text_encoder(lora, name):
    more = {f"{name}.lora_down.weight": torch.ones(4, 32), f"{name}.lora_up.weight": torch.ones(32, 4)}
    path = forms.safetensors(lora.with_name("x.safetensors"), load_file(lora) | more)
    assert open_lora(str(path)).dropped == {"of the text encoder": 2}


def test_the_record_of_a_mixture_tells_its_loras(states, tmp_path, lora):
    base, other = write(tmp_path, *states[:2])
    forms.safetensors(tmp_path / "x.safetensors", load_file(lora))
    change(tmp_path / "adapter_config.json", lora_alpha=4)
    toml = weights(tmp_path, base, base, other, keys='loras = [{ source = "x.safetensors", scale = 0.5 }]')
    experts = _segmoe_config(EMoE.from_toml(toml), str(base))["experts"]
    assert experts[1]["loras"] == [{"source": "x.safetensors", "scale": 0.5}]
