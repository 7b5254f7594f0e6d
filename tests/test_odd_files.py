"""Files that are nearly right: unfinished, changed meanwhile, trained otherwise, or made for another text encoder."""

from __future__ import annotations

import json
from pathlib import Path

import forms
import pytest
import torch
from folders import change, fails, weights, write

from emoe import EmoeError
from emoe.checkpoint.describing import describe
from emoe.checkpoint.load_text import load_text
from emoe.checkpoint.load_unet import load_unet
from emoe.checkpoint.load_vae import load_vae
from emoe.checkpoint.open import open_checkpoint, open_part
from emoe.config import read_weights
from emoe.lock import lock


@pytest.fixture
def folder(states, tmp_path) -> Path:
    """In the Hub's layout."""
    state = states[0]
    return forms.hub(tmp_path / "repo", forms.unet(state), forms.text(state), forms.vae(state))


# Not what it was, or not yet ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.5, *(pytest.param(kept, marks=pytest.mark.slow) for kept in (0.1, 0.9))])
def test_a_download_that_never_finished(states, tmp_path, kept):
    """Of its full size, and zeros where nothing has come."""
    whole, path = write(tmp_path, *states[:2])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)] + bytes(len(data) - int(len(data) * kept)))
    with pytest.raises(EmoeError, match="holds nothing but zeros, as a download does that never finished"):
        load_unet(open_checkpoint(str(path)))
    assert "nothing but zeros" in describe(str(path))["refused"]
    if kept < 0.9:  # of an expert, mixed layers alone are read
        assert "nothing but zeros" in fails(weights(tmp_path, whole, whole, path))


def removed(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def a_web_page(path: Path) -> None:
    path.write_bytes(b"<html>" * 1000)


def another(path: Path) -> None:
    forms.safetensors(path, {"a": torch.ones(2)})


def other_shapes(path: Path) -> None:
    forms.safetensors(path, {name: tensor[:1] for name, tensor in forms.state(1).items()})


@pytest.mark.parametrize("happens", [removed, cut, a_web_page, another, other_shapes])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_file_that_changes_while_it_is_read(states, tmp_path, happens, suffix):
    path = tmp_path / f"a.{suffix}"
    forms.pickled(path, states[0]) if suffix == "ckpt" else forms.safetensors(path, states[0])
    found = open_checkpoint(str(path))
    found.release()
    happens(path)
    with pytest.raises(EmoeError) as caught:
        load_unet(found)
    told = str(caught.value)
    assert "was changed" in told or (suffix == "ckpt" and str(path) in told and "download it again" in told)


def test_a_broken_link_is_not_passed_over(folder):
    """In the Hub's cache, all files are links."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    path.symlink_to("gone")
    with pytest.raises(EmoeError, match=r"cannot read .*model\.safetensors: No such file"):
        open_checkpoint(str(folder))


# Another text encoder -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"text_encoder": ["alt_diffusion", "RobertaSeriesModelWithTransformation"]}, "text encoder is 'RobertaSeries"),
        ({"text_encoder": ["transformers", "BertModel"]}, "SD1.5's is CLIPTextModel"),
        ({"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}, "reads images, not text"),
    ],
)
def test_folders_of_another_text_encoder(folder, index, said):
    change(folder / "model_index.json", **index)
    for there in (folder, folder / "unet", folder / "unet" / "diffusion_pytorch_model.safetensors"):
        with pytest.raises(EmoeError, match=said):
            open_checkpoint(str(there))


@pytest.mark.parametrize("index", [{}, {"text_encoder": ["transformers", "CLIPTextModel"]}, {"text_encoder": 5}])
def test_folders_of_the_right_one(folder, index):
    change(folder / "model_index.json", image_encoder=[None, None], **index)
    assert open_checkpoint(str(folder)).kind.remedy is None


def test_the_settings_of_a_whole_clip(folder):
    path = folder / "text_encoder" / "config.json"
    plain = load_text(open_checkpoint(str(folder)).parts["text_encoder"], None)
    path.write_text(json.dumps({"model_type": "clip", "text_config": {"hidden_act": "gelu", "num_attention_heads": 2}}))
    whole = load_text(open_checkpoint(str(folder)).parts["text_encoder"], None)
    assert (plain.model.config.hidden_act, plain.model.config.num_attention_heads) == ("quick_gelu", 1)
    assert (whole.model.config.hidden_act, whole.model.config.num_attention_heads) == ("gelu", 2)


# Trained otherwise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["repo", "repo/unet", "repo/unet/diffusion_pytorch_model.safetensors"])
def test_a_scheduler_counts_wherever_it_is_looked_from(folder, caplog, there):
    assert open_checkpoint(str(folder.parent / there)).prediction_type == "epsilon"
    assert not caplog.records
    change(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction", beta_schedule="linear")
    found = open_checkpoint(str(folder.parent / there))
    assert (found.prediction_type, found.schedule) == ("v", ["beta_schedule 'linear'"])
    assert "trained on another noise schedule (beta_schedule 'linear') than SD1.5's" in caplog.text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"prediction_type": "sample"}, "prediction_type 'sample'"),
        ({"prediction_type": ["epsilon"]}, "prediction_type ['epsilon']"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas [0.1, 0.2]"),
        ({"prediction_type": None, "trained_betas": None}, None),
    ],
)
def test_what_no_scheduler_of_sd1_says(folder, caplog, settings, told):
    change(folder / "scheduler" / "scheduler_config.json", **settings)
    found = open_checkpoint(str(folder))
    assert (found.prediction_type, found.schedule) == ("epsilon", [told] if told else [])
    assert not told or f"another noise schedule ({told})" in caplog.text


def test_zero_terminal_snr_is_told(states, tmp_path, caplog, run):
    path = forms.safetensors(
        tmp_path / "a.safetensors", states[0] | {"ztsnr": torch.zeros(0), "v_pred": torch.zeros(0)}
    )
    assert open_checkpoint(str(path)).prediction_type == "v"
    folder = tmp_path / "repo" / "unet"
    forms.safetensors(folder / "diffusion_pytorch_model.safetensors", forms.unet(states[0]) | {"ztsnr": torch.zeros(0)})
    change(folder.parent / "scheduler" / "scheduler_config.json", beta_schedule="linear")
    for there in (folder, folder.parent):  # neither says the other away
        assert open_checkpoint(str(there)).schedule == ["zero terminal SNR", "beta_schedule 'linear'"]
    assert "another noise schedule (zero terminal SNR)" in caplog.text
    code, out, _ = run("inspect", str(path))
    assert (code, "zero terminal SNR" in out) == (0, True)


@pytest.mark.parametrize(
    ("name", "text", "v"),
    [
        ("a.yml", "model:\n  params:\n    parameterization: v\n", True),
        ("a.yaml", 'model: {params: {parameterization: "v", x: 1}}\n', True),
        ("a.yaml", "model:\n  params:\n    # parameterization: v\n", False),
        ("a.yaml", "model:\n  params:\n    parameterization: velvet\n", False),
    ],
)
def test_configs_beside_a_file(states, tmp_path, name, text, v):
    path = forms.safetensors(tmp_path / "a.safetensors", states[0])
    (tmp_path / name).write_text(text)
    assert (open_checkpoint(str(path)).prediction_type == "v") == v


def test_other_weights_come_last(states, folder):
    """An ordinary pickle before a safetensors file of what was not averaged."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    torch.save(forms.unet(states[1]), path.with_suffix(".bin"))
    assert [file.path.suffix for file in open_checkpoint(str(folder), parts=()).files] == [".bin"]


# Other VAEs ---------------------------------------------------------------------------------------------------------


def test_sdxls_vae(states, folder, tmp_path):
    change(folder / "vae" / "config.json", scaling_factor=0.13025)
    with pytest.raises(EmoeError, match=r"its scaling_factor is 0\.13025, SDXL's"):
        load_vae(open_checkpoint(str(folder)).parts["vae"])
    sdxl = {"conditioner.embedders.1.model.ln_final.weight": torch.ones(2)} | states[0]
    path = forms.safetensors(tmp_path / "xl.safetensors", sdxl)
    with pytest.raises(EmoeError, match=r"is an SDXL checkpoint, whose VAE does not read SD1\.5's latents"):
        open_part(str(path), "vae")


@pytest.mark.parametrize("command", ["lock", "inspect"])
def test_what_images_would_refuse_is_refused_before(states, tmp_path, command, run):
    base, other = write(tmp_path, *states[:2])
    tensors = forms.wide(states[0])
    name = next(name for name in tensors if name.startswith("first_stage_model.decoder.") and tensors[name].ndim == 4)
    tensors[name] = tensors[name] * float("nan")
    broken = forms.safetensors(tmp_path / "broken.safetensors", tensors)
    half = forms.safetensors(
        tmp_path / "half.safetensors", {n: t for n, t in forms.vae(states[0]).items() if "enc" in n}
    )
    if command == "lock":
        toml = weights(tmp_path, base, base, other, extra=f'vae = "{half}"')
        code, _, err = run("lock", "--weights", str(toml), "--out", str(tmp_path / "locked.toml"))
        assert (code, "half a VAE" in err, (tmp_path / "locked.toml").exists()) == (2, True, False)
    else:
        code, out, _ = run("inspect", str(broken))
        assert (code, "for images with another vae: " in out, "not finite" in out) == (0, True, True)


def test_a_lora_that_does_not_fit_is_not_locked(states, tmp_path):
    base, other = write(tmp_path, *states[:2])
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    matrices = {f"{layer}.lora_down.weight": torch.ones(4, 999), f"{layer}.lora_up.weight": torch.ones(32, 4)}
    forms.safetensors(tmp_path / "x.safetensors", matrices)
    toml = weights(tmp_path, base, base, other, keys='loras = [{ source = "x.safetensors" }]')
    with pytest.raises(EmoeError, match=r"loras\[0\]: .* is a LoRA for another architecture, or damaged"):
        lock(read_weights(toml), tmp_path / "locked.toml")


# Nearly right names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_what_training_left_before_the_names(states, tmp_path, prefix):
    path = forms.safetensors(tmp_path / "a.safetensors", forms.prefixed(prefix, forms.below(states[0], forms.UNET)))
    assert len(open_checkpoint(str(path)).parts["unet"].places) == 686


def test_an_extension_in_capitals(states, tmp_path):
    forms.safetensors(tmp_path / "models" / "A.SAFETENSORS", states[0])
    assert open_checkpoint(str(tmp_path / "models")).kind.remedy is None


def test_the_hubs_cache_as_a_folder(tmp_path):
    (tmp_path / "models--a--b" / "snapshots").mkdir(parents=True)
    with pytest.raises(EmoeError, match="of the Hub's cache, name a folder under snapshots"):
        open_checkpoint(str(tmp_path / "models--a--b"))


def test_a_key_below_the_experts(states, tmp_path):
    toml = weights(tmp_path, *write(tmp_path, *states[:2]), tmp_path / "1.safetensors")
    toml.write_text(toml.read_text() + "top = 2\n")
    with pytest.raises(EmoeError, match=r"top is no key; it goes above the first \[\[expert\]\]"):
        read_weights(toml)
