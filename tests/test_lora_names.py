"""The names that a LoRA's tensors go by."""

from __future__ import annotations

import pytest
import torch

from emoe.checkpoint.lora_names import OF_TEXT, Place, place_of
from emoe.checkpoint.names import unet_to_ldm
from emoe.unet import UNet

OURS = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
LDM = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"


def test_every_layer_has_one_place():
    with torch.device("meta"):
        layers = [name for name, module in UNet().named_modules() if list(module.parameters(recurse=False))]
    for layer in layers:
        ldm = unet_to_ldm(f"{layer}.weight").removesuffix(".weight")
        for name in (
            layer,
            f"unet.{layer}",
            f"diffusion_model.{ldm}",
            *(f"lora_unet_{n.replace('.', '_')}" for n in (layer, ldm)),
        ):
            assert place_of(f"{name}.alpha") == Place(layer, "alpha"), name


@pytest.mark.parametrize(
    ("name", "role"),
    [
        (f"lora_unet_{OURS.replace('.', '_')}.lora_up.weight", "up"),
        (f"lycoris_{OURS.replace('.', '_')}.hada_w1_a", "hada_w1_a"),
        (f"diffusion_model.{LDM}.lora_down.weight", "down"),
        (f"unet.base_model.model.{OURS}.lora_A.weight", "down"),
        (f"base_model.model.{OURS}.lora_B.default.weight", "up"),
        (f"unet.{OURS.replace('.to_q', '.processor.to_q_lora')}.up.weight", "up"),
        (f"{OURS}.lora_magnitude_vector", "lora_magnitude_vector"),
        (f"{OURS}.lora_B.bias", "lora_B.bias"),
    ],
)
def test_spellings(name, role):
    assert place_of(name) == Place(OURS, role)


def test_to_out():
    out = OURS.replace("to_q", "to_out")
    names = (f"unet.{out}.0.lora_A.weight", f"unet.{out.replace('.to_out', '.processor.to_out_lora')}.down.weight")
    assert [place_of(name) for name in names] == [Place(f"{out}.0", "down")] * 2


@pytest.mark.parametrize(
    "name",
    [
        *("", "unet.", "lora_unet_.alpha", "a", "a.b", "lora_te2_text_model_x.alpha", "transformer.x.lora_A.weight"),
        *("lora_unet_double_blocks_0_x.alpha", "unet.mid_block.attentions.9.proj_in.lora_A.weight", f"a\n{OURS}.alpha"),
    ],
)
def test_what_sd1_has_not(name):
    assert place_of(name) is None


def test_the_text_encoder():
    for name in ("lora_te_x.alpha", "lora_te1_x.alpha", "text_encoder.x", "text_encoders.clip_l.x", "bundle_emb.a.b"):
        assert OF_TEXT.match(name)
    assert not OF_TEXT.match("lora_te2_x.alpha")
