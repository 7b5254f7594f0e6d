"""Which tensors of a file are the UNet's, the VAE's, the text encoder's, and which are left over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from emoe.checkpoint import names
from emoe.checkpoint.detect import LORA_NAME, Keys
from emoe.checkpoint.file import Entry
from emoe.errors import EmoeError
from emoe.vae.config import LEVELS

PARTS = ("unet", "vae", "text_encoder")

LORA_REMNANTS = "LoRA remnants"

# What checkpoints carry along and no forward needs. Schedules are recomputed, never read; positions likewise:
# averaged by merging tools, they pointed at wrong words.
JUNK = {
    label: re.compile(pattern)
    for label, pattern in {
        "EMA copy": r"model_ema\.",
        "noise schedule": r"(betas|alphas_cumprod\w*|sqrt_\w+|log_one_minus_\w+|posterior_\w+|lvlb_weights|logvar"
        r"|scale_factor|denoiser\.sigmas)$",
        "position ids": r"(.+\.)?position_ids$",
        "CLIP projection": r"(.+\.)?(logit_scale|text_projection(\.weight)?)$",
        "training state": r"(embedding_manager|loss|optimizer\w*|callbacks|global_step|epoch)\b",
        "markers": r"(v_pred|ztsnr|edm_\w+)$",
        LORA_REMNANTS: rf".*({LORA_NAME.pattern})|lora_",
        "ControlNet": r"control_model\.",
        "safety checker": r"safety_checker\.",
    }.items()
}


@dataclass
class Contents:
    """Every tensor of a file under one heading."""

    parts: dict[str, dict[str, str]]  # "unet", "vae", "text_encoder" -> our name -> its name in the file
    naming: str  # the UNet's: "LDM" or "diffusers"
    dropped: Counter[str] = field(default_factory=Counter)  # junk, by what it is
    unknown: list[str] = field(default_factory=list)  # names that belong to no part


def sort(entries: Mapping[str, Entry], where: str = "the file") -> Contents:
    """Sort a file's names, whatever their spelling; one that no rule knows stays as it is, for strict loading.

    EmoeError if two tensors claim the same place: nobody could say which one counts.
    """
    keys = Keys(entries)
    vae = _vae_prefix(entries)
    levels = _vae_levels(entries, vae)
    contents = Contents({part: {} for part in PARTS}, "LDM" if keys.ldm else "diffusers")
    for name in entries:
        junk = next((label for label, pattern in JUNK.items() if pattern.match(name)), None)
        if junk:
            contents.dropped[junk] += 1
            continue
        place = _place(name, keys, vae, levels)
        if place:
            part, ours = place
            if ours in contents.parts[part]:
                first = contents.parts[part][ours]
                raise EmoeError(
                    f"{where}: {first} and {name} are the same tensor twice; the file is broken, use another"
                )
            contents.parts[part][ours] = name
        else:
            contents.unknown.append(name)
    return contents


def _place(name: str, keys: Keys, vae: str | None, levels: int) -> tuple[str, str] | None:
    """The part that a tensor belongs to, and our name for it."""
    if keys.prefix and name.startswith(keys.prefix):
        return "unet", _unet_name(name[len(keys.prefix) :], keys)
    if vae and name.startswith(vae):
        return "vae", _vae_name(name[len(vae) :], levels)
    text = names.text_from_any(name)
    if text:
        return "text_encoder", text
    if keys.prefix == "" and names.UNET_ROOTS.match(name):
        return "unet", _unet_name(name, keys)
    if vae == "" and names.VAE_ROOTS.match(name):
        return "vae", _vae_name(name, levels)
    return None


def _unet_name(name: str, keys: Keys) -> str:
    return (names.unet_from_ldm(name) if keys.ldm else None) or name


def _vae_name(name: str, levels: int) -> str:
    return names.vae_from_ldm(name, levels) or names.vae_from_diffusers(name)


def _vae_prefix(entries: Iterable[str]) -> str | None:
    return next((p for p in ("first_stage_model.", "vae.", "") if p + "decoder.conv_in.weight" in entries), None)


def _vae_levels(entries: Iterable[str], prefix: str | None) -> int:
    """How many levels a VAE in LDM's names has: from the last of them the decoder counts back."""
    head = f"{prefix or ''}encoder.down."
    found = {name[len(head) :].partition(".")[0] for name in entries if name.startswith(head)}
    return len(found) if len(found) in LEVELS else 4
