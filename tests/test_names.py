"""Renaming, held against the published full-size tables."""

from conftest import table
from forms import TEXT, UNET, VAE

from emoe.checkpoint import names
from emoe.checkpoint.contents import sort
from emoe.checkpoint.detect import identify
from emoe.checkpoint.file import Entry

LDM = table("sd15_ldm")


def below(prefix: str) -> list[str]:
    return [name[len(prefix) :] for name in LDM if name.startswith(prefix)]


def test_the_unets_names_are_a_bijection():
    theirs, ours = below(UNET), set(table("sd15_unet_diffusers"))
    assert len(theirs) == len(ours) == 686
    assert {names.unet_from_ldm(name) for name in theirs} == ours


def test_the_vaes_names_are_a_bijection():
    theirs, ours = below(VAE), set(table("sd15_vae_diffusers"))
    assert len(theirs) == len(ours) == 248
    assert {names.vae_from_ldm(name) for name in theirs} == ours


def test_shapes_agree_where_names_are_mapped():
    ours = table("sd15_unet_diffusers")
    assert all(LDM[UNET + name] == ours[names.unet_from_ldm(name)] for name in below(UNET))


def test_the_vaes_attention_in_all_spellings():
    for side in ("encoder", "decoder"):
        ours = f"{side}.mid_block.attentions.0"
        for leaf, spellings in {
            "to_q": ("q", "to_q"),
            "to_out.0": ("proj_out", "to_out.0"),
            "group_norm": ("norm",),
        }.items():
            for spelling in spellings:
                assert names.vae_from_ldm(f"{side}.mid.attn_1.{spelling}.bias") == f"{ours}.{leaf}.bias"
        for old, new in {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}.items():
            assert names.vae_from_diffusers(f"{ours}.{old}.weight") == f"{ours}.{new}.weight"
        assert names.vae_from_diffusers(f"{ours}.to_q.weight") == f"{ours}.to_q.weight"


def test_the_text_encoder_in_all_spellings():
    flat = [name for name in below(TEXT) if not name.endswith("position_ids")]
    assert len(flat) == 196
    for prefix in (
        *("", "text_model.", "text_encoder.text_model.", "te.text_model.", "clip_l.transformer.text_model."),
        *("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.", "text_encoder."),
    ):
        assert [names.text_from_any(prefix + name) for name in flat] == flat
    for other in ("encoder.conv_in.weight", "encoder.down.0.block.0.norm1.bias", "cond_stage_model.logit_scale"):
        assert names.text_from_any(other) is None


def test_a_numbered_block_is_not_mistaken_for_its_prefix():
    assert names.unet_from_ldm("input_blocks.10.0.in_layers.0.bias") == "down_blocks.3.resnets.0.norm1.bias"
    assert names.unet_from_ldm("input_blocks.1.0.in_layers.0.bias") == "down_blocks.0.resnets.0.norm1.bias"
    assert names.unet_from_ldm("input_blocks.12.0.in_layers.0.bias") is None
    assert names.unet_from_ldm("output_blocks.2.2.conv.bias") == "up_blocks.0.upsamplers.0.conv.bias"


def test_a_full_size_header_is_sorted_whole():
    entries = {name: Entry(shape, "float16") for name, shape in LDM.items()}
    found = sort(entries)
    assert {part: len(tensors) for part, tensors in found.parts.items()} == {
        "unet": 686,
        "vae": 248,
        "text_encoder": 196,
    }
    assert found.naming == "LDM"
    assert not found.unknown
    kind = identify({name: Entry(shape, None) for name, shape in LDM.items()})
    assert kind.name == "an SD1.x checkpoint"
    assert kind.remedy is None
