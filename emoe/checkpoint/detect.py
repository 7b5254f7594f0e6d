"""What a file is, from its tensors' names and shapes, before anything is built.

Most files that share a folder with SD1.5 checkpoints are not SD1.5 checkpoints, and some would even fit: an
inpainting model's attention has the right shapes. Each kind is recognised and named; an unknown one stays unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch

from emoe.checkpoint.file import Entry
from emoe.checkpoint.names import UNET_ROOTS, VAE_ROOTS, text_from_any
from emoe.errors import shown

LORA_NAME = re.compile(
    r"lora_(unet|te)\d?_|lycoris_|\.lora_(up|down|A|B)\.|[._]lora\.(up|down)\.|\.hada_[wt]\d|\.lokr_[wt]\d|\.oft_blocks"
)
UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.", "unet.", "module.", "_orig_mod.", "")

SDXL = "an SDXL checkpoint"
HALF_A_VAE = "half a VAE, or a small one (TAESD)"
SEGMOE = "a SegMoE mixture"
LORA = "a LoRA"


class Kind(NamedTuple):
    name: str  # with its article: "an SDXL checkpoint"
    remedy: str | None = None  # what to do instead; None where the file can be an expert's source


class Keys:
    """A header, and the questions that tell kinds of files apart."""

    def __init__(self, entries: Mapping[str, Entry]):
        self.entries = entries

    @cached_property
    def prefix(self) -> str | None:
        """What stands before the UNet's names; None if there is no UNet."""
        firsts = ("input_blocks.0.0.weight", "conv_in.weight")
        found = (p for p in UNET_PREFIXES for first in firsts if p + first in self.entries)
        return next(found, None)

    @cached_property
    def ldm(self) -> bool:
        return self.prefix is not None and f"{self.prefix}input_blocks.0.0.weight" in self.entries

    @cached_property
    def unet(self) -> dict[str, Entry]:
        """The UNet's entries, prefix cut off."""
        if self.prefix is None:
            return {}
        if self.prefix == "":
            return {n: e for n, e in self.entries.items() if UNET_ROOTS.match(n)}
        return {n[len(self.prefix) :]: e for n, e in self.entries.items() if n.startswith(self.prefix)}

    @cached_property
    def latent_channels(self) -> int:
        first = self.unet.get("input_blocks.0.0.weight") or self.unet.get("conv_in.weight")
        return first.shape[1] if first and len(first.shape) == 4 else 0

    @cached_property
    def text_widths(self) -> set[int]:
        """What the cross-attentions read: {768} in SD1.x."""
        pattern = re.compile(r"attn2\.to_k\.(experts\.0\.)?weight$")
        return {e.shape[-1] for n, e in self.unet.items() if pattern.search(n) and len(e.shape) == 2}

    @cached_property
    def blocks(self) -> int:
        """Transformer blocks: 16 in SD1.x."""
        return sum(bool(re.search(r"attn2\.to_out\.0\.weight$", n)) for n in self.unet)

    def starts(self, *heads: str) -> bool:
        return any(name.startswith(heads) for name in self.entries)

    def ends(self, *tails: str) -> bool:
        return any(name.endswith(tails) for name in self.entries)

    def holds(self, *words: str) -> bool:
        return any(word in name for name in self.entries for word in words)

    def only(self, place: Callable[[str], Any]) -> bool:
        """Whether every tensor has this place, but for training leftovers."""
        return bool(self.entries) and all(place(n) or re.match(r"(loss|model_ema)\b", n) for n in self.entries)

    def unet_starts(self, *heads: str) -> bool:
        """Below any of the places where a diffusion model is kept."""
        heads = tuple(p + head for p in UNET_PREFIXES for head in heads)
        return any(name.startswith(heads) for name in self.entries)

    @cached_property
    def embedding(self) -> bool:
        """A handful of vectors as wide as a text encoder."""
        shapes = [e.shape for e in self.entries.values()]
        widths = {shape[-1] for shape in shapes if shape}
        return 0 < len(shapes) < 10 and all(len(shape) in (1, 2) for shape in shapes) and widths <= {768, 1024, 1280}


HYPERNETWORK = ("320.", "640.", "768.", "1280.")
DIT = ("double_blocks.0.", "joint_blocks.0.", "x_embedder.", "patchify_proj.", "layers.0.adaLN")
CHECKPOINT = "use an SD1.x text-to-image checkpoint"

# In the order of asking: a file is the first kind whose question it answers with yes.
KINDS: tuple[tuple[str, Callable[[Keys], bool], str | None], ...] = (
    (
        LORA,
        lambda k: not k.text_widths and any(LORA_NAME.search(name) for name in k.entries),
        "name it under an expert's loras",
    ),
    (
        "a ControlNet",
        lambda k: (
            (k.holds("input_hint_block.", "controlnet_cond_embedding.conv_in.") or k.starts("lllite_"))
            and not (k.prefix and k.blocks == 16)
        ),
        f"{CHECKPOINT}; a ControlNet steers one, it is none",
    ),
    ("a T2I-Adapter", lambda k: k.starts("body.0.") and k.starts("conv_in."), CHECKPOINT),
    ("an IP-Adapter", lambda k: k.starts("image_proj.") and k.starts("ip_adapter."), CHECKPOINT),
    ("a GLIGEN model", lambda k: k.holds(".fuser.", "position_net."), CHECKPOINT),
    (
        "an AnimateDiff motion module",
        lambda k: k.holds("motion_modules.", "temporal_transformer"),
        CHECKPOINT,
    ),
    (
        "a hypernetwork",
        lambda k: bool(k.entries) and all(n.startswith(HYPERNETWORK) for n in k.entries),
        CHECKPOINT,
    ),
    (
        "a textual-inversion embedding",
        lambda k: k.starts("string_to_param", "emb_params") or k.embedding,
        CHECKPOINT,
    ),
    (
        "a diffusion transformer (Flux, SD3 or the like)",
        lambda k: k.unet_starts(*DIT),
        f"it has no UNet to mix; {CHECKPOINT}",
    ),
    (
        SDXL,
        lambda k: (
            k.starts("conditioner.embedders.1.")
            or k.unet_starts("label_emb.0.0.weight", "add_embedding.linear_1.weight")
            or bool(k.text_widths & {2048, 1280})
        ),
        f"SDXL and SD1.x do not mix; {CHECKPOINT}",
    ),
    (
        "an SD2.x checkpoint",
        lambda k: 1024 in k.text_widths or k.starts("cond_stage_model.model."),
        f"its text encoder is another one (1024 wide, SD1.x has 768); {CHECKPOINT}",
    ),
    (
        "an AltDiffusion checkpoint",
        lambda k: k.starts("cond_stage_model.roberta."),
        f"its text encoder is not CLIP; {CHECKPOINT}",
    ),
    (
        "a checkpoint with BERT for a text encoder",
        lambda k: k.holds(".word_embeddings.", ".token_type_embeddings."),
        f"SD1.5's is CLIP; {CHECKPOINT}",
    ),
    (
        "a quantised checkpoint",
        lambda k: (
            k.holds(".quant_state.", ".absmax", "scaled_fp8", ".comfy_quant")
            or k.ends(".scale_weight", ".scale_input")
            or any(e.dtype in (torch.uint8, torch.int8) or isinstance(e.dtype, str) for e in k.unet.values())
        ),
        "its weights mean nothing without their scales; use the fp16 or fp32 version",
    ),
    (
        "an inpainting checkpoint",
        lambda k: k.latent_channels == 9,
        "its conv_in takes 9 channels, a text-to-image model's 4; use the model's ordinary version",
    ),
    (
        "an instruct-pix2pix checkpoint",
        lambda k: k.latent_channels == 8,
        f"its conv_in takes 8 channels, a text-to-image model's 4; {CHECKPOINT}",
    ),
    (
        "a depth or upscaling checkpoint",
        lambda k: k.latent_channels in (5, 7),
        f"its conv_in takes more channels than a text-to-image model's 4; {CHECKPOINT}",
    ),
    (
        "an LCM checkpoint with a guidance embedding",
        lambda k: "time_embedding.cond_proj.weight" in k.unet,
        "its UNet takes an extra input that changes every result; use the model it was distilled from",
    ),
    (SEGMOE, lambda k: bool(k.text_widths) and any(".experts.0." in name for name in k.unet), None),
    (
        "a UNet without cross-attention",
        lambda k: bool(k.unet) and not k.text_widths,
        f"it takes no text; {CHECKPOINT}",
    ),
    (
        "a UNet with cross-attentions of several widths",
        lambda k: len(k.text_widths) > 1,
        f"SD1.x has one text encoder; {CHECKPOINT}",
    ),
    (
        "a distilled checkpoint (BK-SDM, small-sd, tiny-sd, SDXS or the like)",
        lambda k: bool(k.unet) and k.blocks != 16,
        "it has not SD1.5's 16 transformer blocks; use the model it was distilled from",
    ),
    ("an SD1.x checkpoint", lambda k: bool(k.unet), None),
    (
        "a VAE alone",
        lambda k: (
            k.only(lambda name: VAE_ROOTS.match(re.sub(r"^(first_stage_model|vae)\.", "", name)))
            and k.ends("encoder.conv_in.weight")
            and k.ends("decoder.conv_in.weight")
        ),
        "it has no UNet; name it under `vae`, and a checkpoint here",
    ),
    (
        HALF_A_VAE,
        lambda k: k.only(lambda name: VAE_ROOTS.match(re.sub(r"^(first_stage_model|vae)\.", "", name))),
        "images need SD1.5's encoder and decoder; name a file that holds both under `vae`, and a checkpoint here",
    ),
    (
        "a text encoder alone",
        lambda k: k.only(lambda name: text_from_any(name) or name.endswith("text_projection.weight")),
        "it has no UNet; name it under `text_encoder`, and a checkpoint here",
    ),
)


def by_pipeline(index: Mapping[str, Any]) -> Kind | None:
    """What a folder is whose model_index.json names another text encoder than CLIP's; None where it does not.

    Its UNet has the shapes of SD1.5's, and reads another language.
    """
    image, text = (_class(index.get(part)) for part in ("image_encoder", "text_encoder"))
    if text and not text.startswith("CLIPText"):
        return Kind(f"a checkpoint whose text encoder is {shown(text)}", f"SD1.5's is CLIPTextModel; {CHECKPOINT}")
    if image and not text:
        return Kind("a checkpoint that reads images, not text", CHECKPOINT)
    return None


def _class(told: Any) -> str | None:
    """["transformers", "CLIPTextModel"] -> "CLIPTextModel"."""
    return told[1] if isinstance(told, list) and len(told) == 2 and isinstance(told[1], str) else None


def identify(entries: Mapping[str, Entry]) -> Kind:
    """The first kind that fits. One that no rule knows is refused, with a sample of what it holds."""
    keys = Keys(entries)
    for name, test, remedy in KINDS:
        if test(keys):
            return Kind(name, remedy)
    sample = ", ".join(sorted(entries)[:10]) or "nothing"
    return Kind("of no known kind", f"it holds {sample}; {CHECKPOINT}")
