"""What comes with a checkpoint's tensors: configs, text encoders, variants, junk; and when files are let go."""

from __future__ import annotations

import logging
from pathlib import Path

import forms
import pytest
import torch
from folders import CPU, fails, segmoe, text_part, weights, write

from emoe.__main__ import main
from emoe.assemble import STOCK, assemble
from emoe.checkpoint import layout
from emoe.checkpoint.architecture import FIXED
from emoe.checkpoint.contents import LORA_REMNANTS
from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.layout import Folder
from emoe.checkpoint.load_text import load_text, load_tokenizer
from emoe.checkpoint.load_unet import build, load_mixture
from emoe.checkpoint.open import examine, open_checkpoint
from emoe.config import read_weights
from emoe.errors import EmoeError
from emoe.tokenizer import clip_tokenizer

EMBEDDING = "embeddings.token_embedding.weight"


@pytest.fixture(scope="module")
def state(states) -> forms.State:
    return states[0]


@pytest.fixture(scope="module")
def base(state, tmp_path_factory) -> Path:
    """A whole checkpoint in one file."""
    return write(tmp_path_factory.mktemp("base"), state)[0]


def configure(folder: Path, **settings: object) -> Path:
    """Settings written over those of a part's config.json."""
    path = folder / "config.json"
    path.write_text(forms.json.dumps(forms.json.loads(path.read_text()) | settings))
    return path


# The UNet's config.json ---------------------------------------------------------------------------------------------

OTHER_EXPERT = {
    "heads": ({"attention_head_dim": 4}, "UNet has 4 heads, the base's has 8; they do not mix"),
    "heads-by-level": ({"attention_head_dim": [4, 4, 4, 4]}, "UNet has 4 heads, the base's has 8"),
    "heads-by-new-name": ({"num_attention_heads": 4}, "UNet has 4 heads, the base's has 8"),
    "groups": ({"norm_num_groups": 16}, "UNet has 16 groups, the base's has 32"),
    "activation": ({"act_fn": "gelu"}, "sets act_fn to 'gelu'; only 'silu' is SD1.5"),
    "size": ({"sample_size": 10**9}, "sets sample_size to 1000000000; it must be at most 1024"),
}


@pytest.mark.parametrize("case", OTHER_EXPERT)
def test_an_expert_with_another_config(states, base, tmp_path, case):
    settings, sentence = OTHER_EXPERT[case]
    folder = forms.hub(tmp_path / "b", forms.unet(states[1]), {}, {})
    configure(folder / "unet", **settings)
    expert = open_checkpoint(str(folder), parts=())
    with pytest.raises(EmoeError, match=f"^{folder}/unet: its .*{sentence}"):
        load_mixture(open_checkpoint(str(base)), [expert, expert], "all")


@pytest.mark.parametrize("key", FIXED)
def test_every_fixed_setting(base, key):
    part = open_checkpoint(str(base)).parts["unet"]
    part.config[key] = FIXED[key]
    build(part)
    other = {bool: not FIXED[key], int: 7, float: 1e-6, str: "gelu", type(None): "silu"}[type(FIXED[key])]
    part.config[key] = other
    with pytest.raises(EmoeError, match=f"sets {key} to {other!r}; only {FIXED[key]!r} is SD1.5"):
        build(part)


# Text encoders ------------------------------------------------------------------------------------------------------

NONSENSE = [
    *[("hidden_act", value) for value in ("relu", 5, None, ["gelu"])],
    *[("layer_norm_eps", value) for value in ("x", 0, -1.0, float("nan"), float("inf"), None)],
    *[("num_attention_heads", value) for value in (0, 7, -1, 10**30, "a", True, [1])],
    *[("num_hidden_layers", value) for value in (0, 99, "a", 1.5)],
]


@pytest.fixture(scope="module")
def pipeline(state, tmp_path_factory) -> Path:
    """A folder in the Hub's layout, whose UNet is broken."""
    folder = forms.hub(tmp_path_factory.mktemp("hub") / "a", {}, forms.text(state), {})
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize(("key", "value"), NONSENSE, ids=str)
def test_nonsense_in_a_text_encoders_config(pipeline, key, value):
    part = examine(str(pipeline), parts=("text_encoder",)).parts["text_encoder"]
    part.config[key] = value
    with pytest.raises(EmoeError, match=key) as caught:
        load_text(part, None)
    assert "\n" not in str(caught.value)


def test_of_a_pipeline_named_for_one_part_the_others_are_not_opened(state, pipeline, tmp_path):
    unet = forms.safetensors(tmp_path / "a.safetensors", forms.below(state, forms.UNET))
    assemble(read_weights(weights(tmp_path, unet, unet, unet, extra=f'top = 2\ntext_encoder = "{pipeline}"')), *CPU)


def test_a_base_of_full_width_without_a_text_encoder_takes_sd15s(state, pipeline, tmp_path, monkeypatch, caplog):
    wide = {n: torch.zeros(len(t), 768) if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) else t
            for n, t in forms.unet(state).items()}  # fmt: skip
    unet = forms.safetensors(tmp_path / "a.safetensors", wide)
    asked = []
    monkeypatch.setattr(
        "emoe.assemble.examine",
        lambda source, parts: asked.append((source, parts)) or examine(str(pipeline), parts=parts),
    )
    message = fails(weights(tmp_path, unet, unet, unet, extra="top = 2"))
    assert asked == [("stable-diffusion-v1-5/stable-diffusion-v1-5", ("text_encoder",))]
    assert f"{unet} has no text encoder; using the one of {STOCK}" in caplog.text
    assert "is 64 wide, the base's UNet reads 768" in message


def test_baked_in_embeddings_and_the_tokenizer_that_goes_with_them(state, tmp_path, caplog):
    """Nothing reads them, so that the tokenizer's new words would point nowhere: CLIP's is taken."""
    folder = tmp_path / "tokenizer"
    clip_tokenizer().save_pretrained(folder)
    table = forms.json.loads((folder / "tokenizer.json").read_text())
    table["added_tokens"].append(table["added_tokens"][0] | {"id": 49408, "content": "<my-style>", "special": False})
    (folder / "tokenizer.json").write_text(forms.json.dumps(table))
    rows = torch.cat([forms.text(state)[EMBEDDING], torch.ones(1, 64).half()])

    text = load_text(text_part(tmp_path, state, **{EMBEDDING: rows}), load_tokenizer(Folder(folder)))
    assert text.tokenizer is clip_tokenizer()
    assert "left out 1 embedding, baked in" in caplog.text
    with pytest.raises(EmoeError, match=r"49409 tokens, the last one 49407.* does not go with .*49408 tokens"):
        load_text(text_part(tmp_path, state), load_tokenizer(Folder(folder)))


# Descriptors --------------------------------------------------------------------------------------------------------


def described(folder: Path, base: Path, *descriptors: tuple[str, str], top: int, gate: str = "prompt") -> Path:
    tables = (f'[[expert]]\nsource = "{base}"\npositive = "{p}"\nnegative = "{n}"\n' for p, n in descriptors)
    path = folder / "weights.toml"
    path.write_text(f'base = "{base}"\ngate = "{gate}"\ntop = {top}\n{"".join(tables)}', encoding="utf-8")
    return path


GATES = pytest.mark.parametrize("gate", ["prompt", "hidden"])


@pytest.fixture
def captured(monkeypatch):
    """As if the hidden gate's vectors were there."""
    monkeypatch.setattr("emoe.assemble.gate_vectors", lambda *_: None)


@GATES
def test_a_descriptor_of_more_than_77_tokens_is_a_warning(base, tmp_path, caplog, gate, captured):
    toml = described(tmp_path, base, ("a", "b " * 75), ("c", "d " * 76), top=1, gate=gate)
    assemble(read_weights(toml), *CPU)
    assert "expert 2: negative is longer than 77 tokens; the rest of it is not seen" in caplog.text
    assert caplog.text.count("longer than") == 1


@GATES
def test_descriptors_that_are_the_same_to_clip(base, tmp_path, caplog, gate, captured):
    same = ("A  photo ", "n"), ("x", "y"), ("a Photo", "N ")
    message = fails(described(tmp_path, base, *same, top=2, gate=gate))
    assert "expert 1 and expert 3 have the same positive and negative, so that the gate cannot choose 2 of 3" in message
    assemble(read_weights(described(tmp_path, base, *same, top=3, gate=gate)), *CPU)
    assert "have the same positive" not in caplog.text
    assemble(read_weights(described(tmp_path, base, ("p", "n"), ("P ", "m"), top=1, gate=gate)), *CPU)
    where = {"prompt": "without a negative prompt", "hidden": "in the keys and values of cross-attention"}[gate]
    assert f"expert 1 and expert 2 have the same positive: {where}, the first always" in caplog.text


# SegMoE's config ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture(states, tmp_path_factory) -> Path:
    """weights.toml of a SegMoE folder with three experts."""
    folder = tmp_path_factory.mktemp("segmoe")
    segmoe(folder / "mixture", states, "attn")
    (folder / "weights.toml").write_text('segmoe = "mixture"\n')
    return folder / "weights.toml"


@pytest.mark.parametrize(
    ("told", "top"),
    [([], 2), ({"experts": 5}, 2), ({"num_experts_per_tok": 3}, 3), ({"num_experts_per_tok": 9}, 3)],
    ids=str,
)
def test_segmoe_configs(mixture, told, top):
    configure(mixture.parent / "mixture" / "unet", segmoe_config=told)
    assert assemble(read_weights(mixture), *CPU).gate.top == top


@pytest.mark.parametrize(("told", "top"), [({}, 2), ({"experts": 5, "num_experts_per_tok": 9}, 3), ([], 2)], ids=str)
def test_inspecting_a_segmoe_folder_tells_what_a_score_uses(mixture, told, top, capsys):
    configure(mixture.parent / "mixture" / "unet", segmoe_config=told)
    assert main(["inspect", str(mixture.parent / "mixture")]) == 0
    assert f"3 experts, layers attn, top {top}, with gates" in capsys.readouterr().out


def test_inspecting_a_segmoe_folder_with_nonsense_in_its_config(mixture, capsys):
    configure(mixture.parent / "mixture" / "unet", segmoe_config={"num_experts_per_tok": "x"})
    assert main(["inspect", str(mixture.parent / "mixture")]) == 2
    assert "sets num_experts_per_tok to 'x'" in capsys.readouterr().err


@pytest.mark.parametrize("top", ["x", 0, -1, 1.5, True])
def test_nonsense_in_a_segmoe_config(mixture, top):
    configure(mixture.parent / "mixture" / "unet", segmoe_config={"num_experts_per_tok": top})
    assert f"sets num_experts_per_tok to {top!r}; it must be a positive whole number" in fails(mixture)


def test_a_descriptor_that_is_none_leaves_the_others_in_their_places(mixture):
    told = [5, {"positive_prompt": "b", "negative_prompt": "c"}, {"positive_prompt": 5}]
    configure(mixture.parent / "mixture" / "unet", segmoe_config={"experts": told})
    experts = assemble(read_weights(mixture), *CPU).experts
    assert [expert.positive for expert in experts] == [None, "b", None]


def test_experts_of_other_layers_alone_are_no_mixture(state, tmp_path):
    tensors = forms.unet(state) | {"mid_block.experts.0.weight": torch.zeros(2)}
    forms.hub(tmp_path / "a", tensors, forms.text(state), {})
    path = tmp_path / "weights.toml"
    path.write_text('segmoe = "a"\n')
    assert "a has experts in no layer that SegMoE mixes; use another" in fails(path)


# Which file of a folder ---------------------------------------------------------------------------------------------


def test_the_shadows_that_macos_leaves_are_no_checkpoints(state, tmp_path):
    forms.safetensors(tmp_path / "model-a.safetensors", forms.unet(state))
    (tmp_path / "._model-a.safetensors").write_bytes(b"\0\5\x16\7")
    assert [file.path.name for file in open_checkpoint(str(tmp_path)).files] == ["model-a.safetensors"]


# In the order of preference: each is taken before all that follow.
PREFERENCE = [
    f"diffusion_pytorch_model{variant}.{extension}"
    for variants in (("", ".fp32", ".fp16", ".bf16"), (".ema", ".non_ema"))
    for extension in ("safetensors", "bin")
    for variant in variants
]


def test_variants_are_found_in_the_order_of_preference(tmp_path):
    for name in reversed(PREFERENCE):
        (tmp_path / name).write_bytes(b"")
        assert layout.weights(Folder(tmp_path), "unet") == [name]


# Junk ---------------------------------------------------------------------------------------------------------------

TO_K = f"{forms.UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k"
JUNK = {
    "EMA copy": ["model_ema.decay", "model_ema.diffusion_modeltime_embed0weight"],
    "noise schedule": ["betas", "alphas_cumprod_prev", "sqrt_recip_alphas_cumprod", "posterior_variance", "logvar"],
    "position ids": [f"{forms.TEXT}embeddings.position_ids", "text_encoder.text_model.embeddings.position_ids"],
    "CLIP projection": ["cond_stage_model.logit_scale", "cond_stage_model.transformer.text_projection.weight"],
    "training state": ["loss.logvar", "embedding_manager.x", "global_step", "optimizer.state.0"],
    "markers": ["edm_mean", "edm_vpred"],
    LORA_REMNANTS: ["lora_unet_mid_block.lora_up.weight", f"{TO_K}.lora_A.weight", "lora_te_x.alpha"],
    "ControlNet": ["control_model.input_hint_block.0.weight", "control_model.zero_convs.0.0.bias"],
    "safety checker": ["safety_checker.concept_embeds"],
}


@pytest.mark.parametrize("kind", JUNK)
def test_junk_is_dropped_and_counted(state, tmp_path, caplog, kind):
    clean = {name: t for name, t in state.items() if not name.endswith("position_ids")}
    path = forms.safetensors(tmp_path / "a.safetensors", clean | {name: torch.zeros(2) for name in JUNK[kind]})
    with caplog.at_level(logging.INFO, logger="emoe"):
        found = open_checkpoint(str(path))
    assert found.dropped == {kind: len(JUNK[kind])}
    assert [record.levelno for record in caplog.records] == [logging.WARNING if kind == LORA_REMNANTS else logging.INFO]
    assert f"left out {kind} (tensors: {len(JUNK[kind])})" in caplog.text
    assert not found.unknown
    assert {part: len(found.parts[part].places) for part in found.parts} == {
        "unet": 686,
        "vae": 248,
        "text_encoder": 36,
    }


TENSORS = {"conv_in.weight": torch.zeros(2), "conv_in.bias": torch.ones(2)}
WRAPPED = {
    "bare": TENSORS,
    "twice": {"state_dict": {"state_dict": TENSORS, "epoch": 1}, "epoch": 2},
    "model": {"model": TENSORS, "optimizer": {"state": {0: torch.zeros(2)}}},
    "both": {"state_dict": {"model": TENSORS}},
    "only-key": {"params": TENSORS},
    "several-gpus": {"state_dict": forms.prefixed("module.", TENSORS)},
    "module": {"module": TENSORS},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", WRAPPED)
def test_wrappings(tmp_path, form, legacy):
    assert WeightsFile(forms.pickled(tmp_path / "a.ckpt", WRAPPED[form], legacy)).entries.keys() == TENSORS.keys()


@pytest.mark.parametrize("key", ["state_dict", "model", "itself"])
def test_a_state_dict_that_holds_itself(tmp_path, key):
    tree = dict(TENSORS)
    tree[key] = tree
    assert WeightsFile(forms.pickled(tmp_path / "a.ckpt", tree)).entries.keys() == TENSORS.keys()


# Letting go ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["ldm-fp16", "ckpt-state-dict", "ckpt-legacy", "hub-shards"])
def test_release(state, tmp_path, form):
    found = open_checkpoint(str(forms.COMPLETE[form](tmp_path, state)))
    unet, maps = found.parts["unet"], Path("/proc/self/maps")
    before = unet.read("conv_in.weight", (32, 4, 3, 3))
    found.release()
    if maps.exists():
        assert str(tmp_path) not in maps.read_text()
    assert torch.equal(unet.read("conv_in.weight", (32, 4, 3, 3)), before)
