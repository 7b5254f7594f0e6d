"""Files that are no SD1.5 checkpoint: each is named for what it is, in one line, exit code 2, and runs no code."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path

import forms
import pytest
import torch
from conftest import table

from emoe.__main__ import main
from emoe.checkpoint.detect import KINDS, identify
from emoe.checkpoint.file import Entry

SD15 = {name: shape for name, shape in table("sd15_ldm").items() if name.startswith(forms.UNET)}
FOLDER = table("sd15_unet_diffusers")


def run(capsys, source: Path | str, command: str = "score") -> tuple[int, str]:
    """The exit code and the one line on stderr when `source` is an expert, or is inspected."""
    arguments = ["inspect", str(source)]
    if command == "score":
        weights = Path(str(source)).parent / "weights.toml"
        table = '[[expert]]\nsource = "{0}"\npositive = "{1}"\nnegative = "x"\n'
        body = f'base = "{source}"\n' + table.format(source, "a") + table.format(source, "b")
        weights.write_text(body, encoding="utf-8")
        arguments = ["score", "a red bus", "--weights", str(weights)]
    code = main(arguments)
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert "mistake in emoe" not in err, err
    assert err.startswith("emoe: ")
    assert "Traceback" not in err
    return code, err


def head(path: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float16) -> Path:
    """A file whose tensors are so named and shaped."""
    return forms.safetensors(path, {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()})


class Bomb:
    """Unpickling it would make a folder."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


# Bytes (CHECKPOINTS 5.1) --------------------------------------------------------------------------------------------


def cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/readme.txt", "hello")


BYTES = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "zeros": (lambda p: p.write_bytes(bytes(4096)), "only zeros"),
    "web-page": (lambda p: p.write_bytes(b"\n<!DOCTYPE html><html>login</html>"), "web page"),
    "html": (lambda p: p.write_bytes(b"<html><body>404</body></html>"), "web page"),
    "json": (lambda p: p.write_bytes(b'{"error":"Unauthorized","message":"log in"}'), "Unauthorized"),
    "json-detail": (lambda p: p.write_bytes(b'{"detail":"not found"}'), "not found"),
    "lfs-pointer": (
        lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "git lfs pull",
    ),
    "gguf": (lambda p: p.write_bytes(b"GGUF\x03\0\0\0" + bytes(100)), "GGUF"),
    "zip": (write_zip, "zip archive"),
    "noise": (lambda p: p.write_bytes(bytes(range(1, 256)) * 9), "neither safetensors nor a torch pickle"),
    "short": (lambda p: p.write_bytes(b"Entry not found"), "a torch pickle (it says 'Entry not found')"),
    "html-after-a-mark": (lambda p: p.write_bytes(b"\xef\xbb\xbf<html><body>404</body></html>"), "web page"),
    "rar": (lambda p: p.write_bytes(b"Rar!\x1a\x07" + bytes(99)), "is an archive"),
    "plain-pickle": (lambda p: p.write_bytes(pickle.dumps({"a": [1, 2]}, protocol=2)), "no pickle of a checkpoint"),
    "safetensors-cut-tail": (lambda p: cut(head(p, {"a": (100,)}), 0.9), "cut-off safetensors"),
    "safetensors-cut-header": (lambda p: cut(head(p, {f"n{i}": (2,) for i in range(99)}), 0.3), "cut-off safetensors"),
    "pickle-cut": (lambda p: cut(forms.pickled(p, {"a": torch.zeros(9999)}), 0.7), "cut-off pickle"),
    "legacy-cut": (lambda p: cut(forms.pickled(p, {"a": torch.zeros(9999)}, legacy=True), 0.7), "cut-off pickle"),
    "pickled-module": (lambda p: torch.save(torch.nn.Linear(2, 2), p), "asks for more than tensors (torch.nn"),
    "pickled-number": (lambda p: torch.save(3, p), "holds nothing"),
    "torchscript": (lambda p: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), p), "TorchScript"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("command", ["score", "inspect"])
@pytest.mark.parametrize("case", BYTES)
def test_bytes(tmp_path, capsys, case, command):
    write, sentence = BYTES[case]
    path = tmp_path / "model.safetensors"
    write(path)
    code, err = run(capsys, path, command)
    assert code == 2
    assert sentence in err


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_does_not(tmp_path, capsys, legacy):
    target = tmp_path / "made"
    path = forms.pickled(tmp_path / "model.ckpt", {"state_dict": {"a": torch.zeros(2)}, "x": Bomb(target)}, legacy)
    code, err = run(capsys, path)
    assert code == 2
    assert "could run code; nothing of it was run" in err
    assert legacy or "posix.mkdir" in err
    assert not target.exists()


def test_a_missing_path(tmp_path, capsys):
    for name in ("gone.safetensors", "gone/model.safetensors"):
        code, err = run(capsys, tmp_path / name if name.startswith("gone.") else tmp_path / "x" / "gone.ckpt")
        assert code == 2
        assert "there is no file or folder" in err
        (tmp_path / "x").mkdir(exist_ok=True)


def test_folders_without_one_checkpoint(tmp_path, capsys):
    folder = tmp_path / "models"
    folder.mkdir()
    assert "holds no checkpoint" in run(capsys, folder)[1]
    (folder / "a.safetensors").write_bytes(b"")
    (folder / "b.ckpt").write_bytes(b"")
    err = run(capsys, folder)[1]
    assert "holds 2 checkpoints" in err
    assert "b.ckpt" in err


# Kinds (CHECKPOINTS 5.4) --------------------------------------------------------------------------------------------


def widths(shapes: dict[str, tuple[int, ...]], width: int) -> dict[str, tuple[int, ...]]:
    """The same, with cross-attention that reads another text encoder."""
    keys = re.compile(r"attn2\.to_[kv]\.weight$")
    return {name: (shape[0], width) if keys.search(name) else shape for name, shape in shapes.items()}


def conv_in(shapes: dict[str, tuple[int, ...]], channels: int) -> dict[str, tuple[int, ...]]:
    name = "conv_in.weight" if "conv_in.weight" in shapes else f"{forms.UNET}input_blocks.0.0.weight"
    return shapes | {name: (320, channels, 3, 3)}


def thin(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Only what tells kinds apart, so that files stay small."""
    wanted = re.compile(r"attn2\.to_(k|out\.0)\.weight$|(input_blocks\.0\.0|conv_in)\.weight$")
    small = {name: shape for name, shape in shapes.items() if wanted.search(name)}
    return {name: (2, *shape[1:]) if len(shape) == 2 else shape for name, shape in small.items()}


UNET = thin(SD15)
LORA = {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": (320, 8), "lora_te_x.lora_down.weight": (8, 768)}
P = forms.UNET
VAE = {"encoder.conv_in.weight": (4, 3, 3, 3), "decoder.conv_in.weight": (4, 4, 3, 3)}
KIND = {
    "lora-kohya": (LORA, "a LoRA"),
    "lora-peft": ({"unet.down_blocks.0.attentions.0.attn2.to_k.lora_A.weight": (4, 768)}, "a LoRA"),
    "lora-diffusers": ({"unet.up_blocks.1.x.to_q_lora.up.weight": (4, 4)}, "a LoRA"),
    "lycoris-hada": ({"lycoris_x.hada_w1_a": (4, 4)}, "a LoRA"),
    "lokr": ({"x.lokr_w1": (4, 4)}, "a LoRA"),
    "oft": ({"x.oft_blocks": (4, 4)}, "a LoRA"),
    "controlnet-ldm": ({"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}, "a ControlNet"),
    "controlnet-diffusers": (
        {n: s for n, s in thin(FOLDER).items() if not n.startswith("up_blocks")}
        | {"controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3)},
        "a ControlNet",
    ),
    "controlnet-lllite": ({"lllite_unet_x.down.0.weight": (4, 4)}, "a ControlNet"),
    "t2i-adapter": ({"conv_in.weight": (320, 64, 3, 3), "body.0.block1.weight": (4, 4, 3, 3)}, "a T2I-Adapter"),
    "ip-adapter": ({"image_proj.proj.weight": (4, 4), "ip_adapter.1.to_k_ip.weight": (4, 4)}, "an IP-Adapter"),
    "gligen": (UNET | {f"{P}input_blocks.1.1.transformer_blocks.0.fuser.linear.weight": (4, 4)}, "a GLIGEN model"),
    "motion": ({"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (4,)}, "AnimateDiff"),
    "embedding": ({"emb_params": (4, 768)}, "a textual-inversion embedding"),
    "embedding-sd2": ({"emb_params": (4, 1024)}, "a textual-inversion embedding"),
    "embedding-sdxl": ({"clip_l": (4, 768), "clip_g": (4, 1280)}, "a textual-inversion embedding"),
    "flux": ({"double_blocks.0.img_attn.qkv.weight": (4, 4), "img_in.weight": (4, 64)}, "a diffusion transformer"),
    "sd3": ({f"{P}joint_blocks.0.x.weight": (4, 4), f"{P}x_embedder.proj.weight": (4, 4, 2, 2)}, "a diffusion transf"),
    "sdxl": (
        widths(UNET, 2048)
        | {"conditioner.embedders.1.model.ln_final.weight": (4,), f"{P}label_emb.0.0.weight": (4, 2816)},
        "an SDXL checkpoint",
    ),
    "sdxl-folder": (widths(thin(FOLDER), 2048) | {"add_embedding.linear_1.weight": (4, 2816)}, "an SDXL checkpoint"),
    "sd2": (widths(UNET, 1024), "an SD2.x checkpoint"),
    "sd2-folder": (widths(thin(FOLDER), 1024), "an SD2.x checkpoint"),
    "altdiffusion": (UNET | {"cond_stage_model.roberta.embeddings.x.weight": (4, 4)}, "an AltDiffusion checkpoint"),
    "scaled-fp8": (UNET | {f"{P}input_blocks.1.0.x.scale_weight": (1,), "scaled_fp8": (2,)}, "a quantised checkpoint"),
    "nf4": (UNET | {f"{P}input_blocks.1.0.x.weight.absmax": (1,)}, "a quantised checkpoint"),
    "inpainting": (conv_in(UNET, 9), "an inpainting checkpoint"),
    "inpainting-folder": (conv_in(thin(FOLDER), 9), "an inpainting checkpoint"),
    "pix2pix": (conv_in(UNET, 8), "an instruct-pix2pix checkpoint"),
    "depth": (conv_in(UNET, 5), "a depth or upscaling checkpoint"),
    "upscaler": (conv_in(UNET, 7), "a depth or upscaling checkpoint"),
    "lcm": (UNET | {f"{P}time_embedding.cond_proj.weight": (320, 256)}, "an LCM checkpoint"),
    "lcm-folder": (thin(FOLDER) | {"time_embedding.cond_proj.weight": (320, 256)}, "an LCM checkpoint"),
    "tiny-sd": ({n: s for n, s in UNET.items() if "middle_block" not in n}, "a distilled checkpoint"),
    "bk-sdm": ({n: s for n, s in thin(FOLDER).items() if "attentions.1" not in n}, "a distilled checkpoint"),
    "vae": (VAE | {"loss.logvar": (1,)}, "a VAE alone"),
    "vae-ldm": ({f"first_stage_model.{name}": shape for name, shape in VAE.items()}, "a VAE alone"),
    "half-a-vae": ({"decoder.conv_in.weight": (4, 4, 3, 3)}, "half a VAE"),
    "taesd": ({"encoder.layers.0.weight": (64, 3, 3, 3), "decoder.layers.1.weight": (64, 4, 3, 3)}, "half a VAE"),
    "taiyi": (UNET | {"cond_stage_model.transformer.word_embeddings.weight": (9, 768)}, "BERT for a text encoder"),
    "text-encoder": (
        {"text_model.embeddings.token_embedding.weight": (9, 768)}
        | {f"text_model.encoder.layers.{i}.layer_norm1.weight": (768,) for i in range(12)},
        "a text encoder alone",
    ),
    "unknown": ({f"backbone.{i}.weight": (2, 2) for i in range(20)}, "of no known kind: it holds backbone.0.weight"),
    "no-cross-attention": ({n: s for n, s in UNET.items() if "attn2" not in n}, "a UNet without cross-attention"),
    "two-widths": (UNET | {f"{P}output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight": (2, 512)}, "several widths"),
    "half-a-unet": (UNET, "its UNet lacks"),
}  # fmt: skip


@pytest.mark.parametrize("case", KIND)
def test_kinds(tmp_path, capsys, case):
    shapes, sentence = KIND[case]
    path = head(tmp_path / "model.safetensors", shapes)
    code, err = run(capsys, path)
    assert code == 2
    assert sentence in err
    code, err = run(capsys, path, "inspect")
    assert code == 2
    assert case == "half-a-unet" or sentence in err


def test_every_rule_is_tested():
    found = {identify({n: Entry(s, torch.float16) for n, s in shapes.items()}).name for shapes, _ in KIND.values()}
    untested = {name for name, _, _ in KINDS} - found
    assert untested == {
        "a SegMoE mixture",
        "a hypernetwork",
    }  # tested elsewhere: the first loads, the second is a pickle


def test_pickles_of_other_kinds(tmp_path, capsys):
    vector = torch.zeros(3, 768)
    embedding = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": vector}, "name": "x", "step": 9}
    hypernetwork = {320: [{"linear.0.weight": vector}, {}], 768: [{"linear.0.weight": vector}], "name": "x"}
    adapter = {"image_proj": {"proj.weight": vector}, "ip_adapter": {"1.to_k_ip.weight": vector}}
    for tree, sentence in ((embedding, "textual-inversion"), (hypernetwork, "hypernetwork"), (adapter, "IP-Adapter")):
        code, err = run(capsys, forms.pickled(tmp_path / "model.pt", tree))
        assert code == 2
        assert sentence in err


def test_int8_weights_are_quantised(tmp_path, capsys):
    path = head(tmp_path / "model.safetensors", UNET, torch.int8)
    assert "a quantised checkpoint" in run(capsys, path)[1]


def test_a_controlnet_with_a_whole_checkpoint_in_it_is_one():
    shapes = UNET | {"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}
    assert identify({n: Entry(s, torch.float16) for n, s in shapes.items()}).remedy is None


def test_lora_remnants_in_a_checkpoint_do_not_matter():
    assert identify({n: Entry(s, torch.float16) for n, s in (UNET | LORA).items()}).name == "an SD1.x checkpoint"
