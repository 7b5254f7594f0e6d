"""Text encoders and tokenizers: loaded whole, and refused where they do not go with the UNet."""

from __future__ import annotations

import copy

import forms
import pytest
import torch
from conftest import mixture_of
from folders import fails, text_part, weights, write

from emoe.checkpoint.load_text import load_text
from emoe.errors import EmoeError
from emoe.gate import UniformGate
from emoe.pipeline import EMoE
from emoe.text import TextEncoder
from emoe.tokenizer import clip_tokenizer


def test_baked_in_embeddings_are_left_out(states, tmp_path, caplog):
    name = "embeddings.token_embedding.weight"
    rows = torch.cat([forms.text(states[0])[name], torch.ones(3, 64).half()])
    text = load_text(text_part(tmp_path, states[0], **{name: rows}), None)
    assert text.model.config.vocab_size == 49408
    assert "left out 3 embeddings, baked in" in caplog.text
    whole = load_text(text_part(tmp_path, states[0]), None)
    assert torch.equal(text(["a red bus"]).states, whole(["a red bus"]).states)


def test_other_text_encoders_are_refused(states, tmp_path):
    cases = {
        "is LongCLIP": {"embeddings.position_embedding.weight": torch.zeros(248, 64)},
        "knows 60000 tokens": {"embeddings.token_embedding.weight": torch.zeros(60_000, 64)},
        "it lacks final_layer_norm.bias;": {"final_layer_norm.bias": None},
        "is incomplete": {"embeddings.token_embedding.weight": None},
        r"the tokenizer \(49408 tokens, the last one 49407\) does not go with the text encoder \(100 tokens\)": {
            "embeddings.token_embedding.weight": torch.ones(100, 64)
        },
    }
    for sentence, tensors in cases.items():
        with pytest.raises(EmoeError, match=sentence):
            load_text(text_part(tmp_path, states[0], **tensors), None)


def test_fewer_layers_in_the_config_are_clip_skip(states, tmp_path):
    part = text_part(tmp_path, states[0])
    part.config["num_hidden_layers"] = 1
    whole = load_text(text_part(tmp_path, states[0]), None)
    skipped = load_text(part, None)
    assert len(skipped.model.encoder.layers) == 1
    assert not torch.equal(skipped(["a"]).states, whole(["a"]).states)


def test_a_base_without_a_text_encoder(states, tmp_path):
    path = forms.safetensors(tmp_path / "a.safetensors", forms.below(states[0], forms.UNET))
    assert "base: " + f"{path} has no text encoder; name one that is 64 wide under text_encoder" in fails(
        weights(tmp_path, path, path, path, extra="top=2")
    )


def test_a_text_encoder_of_another_width(states, tmp_path):
    wide = {n: torch.ones(*(128 if s == 64 else s for s in t.shape)).half() for n, t in forms.text(states[0]).items()}
    other = forms.safetensors(tmp_path / "text_encoder" / "model.safetensors", wide)
    path = write(tmp_path, states[0])[0]
    message = fails(weights(tmp_path, path, path, path, extra=f'top = 2\ntext_encoder = "{other.parent}"'))
    assert f"text_encoder: the text encoder of {other.parent} is 128 wide, the base's UNet reads 64" in message


def test_a_tokenizer_of_ones_own(states, tmp_path):
    path = write(tmp_path, states[0])[0]
    folder = tmp_path / "words"
    clip_tokenizer().save_pretrained(folder)
    toml = weights(tmp_path, path, path, path, extra='top = 2\ntokenizer = "words"')
    EMoE.from_toml(toml).text(["a red bus"])
    (folder / "tokenizer.json").write_text("{}")
    assert "cannot be read" in fails(toml)
    (folder / "tokenizer.json").unlink()
    assert f"weights.toml: tokenizer: {folder} holds no tokenizer" in fails(toml)
    toml = weights(tmp_path, path, path, path, extra=f'top = 2\ntokenizer = "{path}"')
    assert f"weights.toml: tokenizer: {path} is not a folder" in fails(toml)


def test_what_reads_otherwise_is_another_mixture(states, tmp_path, base, experts):
    """With equal weights: scores of the two do not compare."""
    usual = load_text(text_part(tmp_path, states[0]), None)
    texts = [usual]
    for key, value in {"hidden_act": "gelu", "num_attention_heads": 2, "layer_norm_eps": 1e-3}.items():
        part = text_part(tmp_path, states[0])
        part.config[key] = value
        texts.append(load_text(part, None))
    padded = copy.deepcopy(clip_tokenizer())
    padded.pad_token = "!"
    for tokenizer in (padded, clip_tokenizer()):
        texts.append(TextEncoder(usual.model, tokenizer))
    unet = mixture_of(base, experts)
    marks = [EMoE(unet, text, UniformGate(4)).mixture for text in texts]
    assert marks[-1] == marks[0]
    assert len(set(marks)) == len(texts) - 1
