"""Their tensor names -> ours. Pure functions on strings, by rule.

Ours are diffusers' names of today. Theirs are the original LDM names, older diffusers names for the VAE's
attention, and four spellings of the text encoder. Prefixes (`model.diffusion_model.`, ...) are cut off before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

Pairs = Iterable[tuple[str, str]]  # LDM module, our module

# Inside a UNet resnet; inside a transformer both sides agree.
UNET_RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
VAE_RESNET = (
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("nin_shortcut", "conv_shortcut"),
)
VAE_ATTENTION = (
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
)
# Diffusers before 2023. Its names of today also occur in LDM files, left there by old converters.
OLD_VAE_ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))


def _unet_modules() -> Iterator[tuple[str, str]]:
    """LDM numbers the stages through; we number levels, and what is inside them."""
    yield "time_embed.0", "time_embedding.linear_1"
    yield "time_embed.2", "time_embedding.linear_2"
    yield "input_blocks.0.0", "conv_in"
    for level in range(4):
        for i in range(2):
            yield f"input_blocks.{3 * level + 1 + i}.0", f"down_blocks.{level}.resnets.{i}"
            yield f"input_blocks.{3 * level + 1 + i}.1", f"down_blocks.{level}.attentions.{i}"
        yield f"input_blocks.{3 * level + 3}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
    yield "middle_block.0", "mid_block.resnets.0"
    yield "middle_block.1", "mid_block.attentions.0"
    yield "middle_block.2", "mid_block.resnets.1"
    for level in range(4):
        for i in range(3):
            yield f"output_blocks.{3 * level + i}.0", f"up_blocks.{level}.resnets.{i}"
            yield f"output_blocks.{3 * level + i}.1", f"up_blocks.{level}.attentions.{i}"
        place = 2 if level else 1  # without attention, the upsampler takes its place
        yield f"output_blocks.{3 * level + 2}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv"
    yield "out.0", "conv_norm_out"
    yield "out.2", "conv_out"


def _vae_modules(levels: int) -> Iterator[tuple[str, str]]:
    """The same, but the decoder's levels count backwards, and there may be other than four."""
    for level in range(levels):
        for i in range(3):
            yield f"encoder.down.{level}.block.{i}", f"encoder.down_blocks.{level}.resnets.{i}"
            yield f"decoder.up.{level}.block.{i}", f"decoder.up_blocks.{levels - 1 - level}.resnets.{i}"
        yield f"encoder.down.{level}.downsample.conv", f"encoder.down_blocks.{level}.downsamplers.0.conv"
        yield f"decoder.up.{level}.upsample.conv", f"decoder.up_blocks.{levels - 1 - level}.upsamplers.0.conv"
    for side in ("encoder", "decoder"):
        yield f"{side}.conv_in", f"{side}.conv_in"
        yield f"{side}.mid.block_1", f"{side}.mid_block.resnets.0"
        yield f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0"
        yield f"{side}.mid.block_2", f"{side}.mid_block.resnets.1"
        yield f"{side}.norm_out", f"{side}.conv_norm_out"
        yield f"{side}.conv_out", f"{side}.conv_out"
    yield "quant_conv", "quant_conv"
    yield "post_quant_conv", "post_quant_conv"


def _open(modules: Pairs, resnet: Pairs, attention: Pairs) -> Iterator[tuple[str, str]]:
    """Replace resnets, and attention where its insides differ, by what is inside them."""
    for theirs, ours in modules:
        inside = resnet if ".resnets." in ours else attention if ".attentions." in ours else ()
        yield from ((f"{theirs}.{a}", f"{ours}.{b}") for a, b in inside) if inside else [(theirs, ours)]


def _old_vae_names() -> Iterator[tuple[str, str]]:
    for side in ("encoder", "decoder"):
        ours = f"{side}.mid_block.attentions.0"
        for old, new in OLD_VAE_ATTENTION:
            yield f"{ours}.{old}", f"{ours}.{new}"
        for _, new in VAE_ATTENTION:
            yield f"{side}.mid.attn_1.{new}", f"{ours}.{new}"


UNET = dict(_open(_unet_modules(), UNET_RESNET, ()))
OLD_VAE = dict(_old_vae_names())

UNET_ROOTS = re.compile(
    r"(conv_in|conv_out|conv_norm_out|time_embedding|down_blocks|mid_block|up_blocks|time_embed|input_blocks"
    r"|middle_block|output_blocks|out)\."
)
VAE_ROOTS = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\.")
TEXT_PREFIX = re.compile(r"(cond_stage_model\.)?(clip_l\.)?(transformer\.)?(text_encoder\.|te\.)?(text_model\.)?")
TEXT_NAME = re.compile(r"(embeddings|encoder\.layers\.\d+|final_layer_norm)\.")


def unet_from_ldm(name: str) -> str | None:
    """ "middle_block.0.in_layers.2.bias" -> "mid_block.resnets.0.conv1.bias"; None if no rule fits."""
    # one converter puts the first upsampler where the other two are
    return _rename(re.sub(r"^output_blocks\.2\.2\.conv", "output_blocks.2.1.conv", name), UNET)


def unet_to_ldm(name: str) -> str | None:
    """The way back: ours -> theirs."""
    return _rename(name, {ours: theirs for theirs, ours in UNET.items()})


def vae_from_ldm(name: str, levels: int = 4) -> str | None:
    """ "decoder.up.3.block.0.norm1.bias" -> "decoder.up_blocks.0.resnets.0.norm1.bias"; None if no rule fits.

    levels: how many the VAE has.
    """
    return _rename(name, _vae(levels))


def vae_from_diffusers(name: str) -> str:
    """ "decoder.mid_block.attentions.0.query.bias" -> "decoder.mid_block.attentions.0.to_q.bias"."""
    return _rename(name, OLD_VAE) or name


def text_from_any(name: str) -> str | None:
    """Any spelling of a text encoder's tensor -> without its prefixes; None if it is none."""
    ours = name[TEXT_PREFIX.match(name).end() :]
    return ours if TEXT_NAME.match(ours) else None


@cache
def _vae(levels: int) -> dict[str, str]:
    return dict(_open(_vae_modules(levels), VAE_RESNET, VAE_ATTENTION)) | OLD_VAE


def _rename(name: str, modules: dict[str, str]) -> str | None:
    """Replace the module that `name` lies in, its longest known prefix."""
    words = name.split(".")
    for length in range(len(words) - 1, 0, -1):
        module = modules.get(".".join(words[:length]))
        if module:
            return ".".join([module, *words[length:]])
    return None
