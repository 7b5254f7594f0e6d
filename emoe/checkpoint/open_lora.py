"""A source string -> an opened LoRA. Headers alone are read; matrices wait until somebody asks."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emoe.checkpoint.detect import LORA, identify
from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.layout import Folder, config
from emoe.checkpoint.lora import LARGEST_ALPHA, Alphas, Lora
from emoe.checkpoint.lora_names import OF_TEXT, place_of
from emoe.checkpoint.open import locate
from emoe.checkpoint.parts import Checkpoint
from emoe.checkpoint.source import plain
from emoe.errors import EmoeError, shown

log = logging.getLogger("emoe")

# What trainers say that a LoRA is made for; SD2's self-attention has the shapes of SD1's.
MADE_FOR = {"ss_base_model_version": ("sd_v1", "sd_1"), "modelspec.architecture": ("stable-diffusion-v1",)}
OF_THE_BASE = ("pissa", "olora", "corda", "loftq")  # ways to begin that change the base, which a LoRA does not hold
LAYERS = re.compile(r"\^?[\w.]+")  # what is read of an alpha_pattern; PEFT takes any regular expression


def open_lora(text: str, start: Path = Path(), revision: str | None = None) -> Checkpoint:
    """Open the LoRA that a source string names; its part "lora" is what it does to the UNet.

    What it does to the text encoder is left out with a count: experts have none. EmoeError for what is no LoRA, and for
    LoRAs of other architectures.
    """
    folder, names = locate(text, start, revision, kind="LoRA")
    found = Checkpoint(plain(text))
    if len(names) != 1:
        raise EmoeError(f"{found.source} is not one file; name the LoRA's own")
    inner, name = next(iter(names.items()))
    file = WeightsFile(folder.path(name), inner)
    found.kind, found.files = identify(file.entries), [file]
    if found.kind.name != LORA:
        remedy = "name a LoRA" if found.kind.remedy else "name it as the source of an expert"
        raise EmoeError(f"{found.source} is {found.kind.name}, not a LoRA; {remedy}")
    _warn_of_others(file, found.source)
    lora = Lora(found.source, alphas=_alphas(_settings(file, folder, name), found.source))
    for theirs in file.entries:
        if OF_TEXT.match(theirs):
            found.dropped["of the text encoder"] += 1
            continue
        place = place_of(theirs)
        if place is None:
            raise EmoeError(f"{found.source} is a LoRA for another architecture: SD1.x has nothing like {theirs}")
        ours = f"{place.layer}:{place.role}"
        if ours in lora.places:
            raise EmoeError(f"{found.source} holds {theirs} twice, by two names; the file is broken, use another")
        lora.places[ours] = file, theirs
    found.parts["lora"] = lora
    return found


def _warn_of_others(file: WeightsFile, where: str) -> None:
    for key, ours in MADE_FOR.items():
        told = file.metadata.get(key, ours[0])
        if not told.lower().startswith(ours):
            log.warning("%s says that it is made for %s, not SD1.x", where, shown(told))


def _settings(file: WeightsFile, folder: Folder, name: str) -> Mapping[str, Any]:
    """PEFT's settings of the UNet: in the LoRA's own file, as diffusers keeps them, or beside it; {} without any."""
    text = file.metadata.get("lora_adapter_metadata")
    if text is None:
        of_peft = any(name.startswith("base_model.model.") for name in file.entries)
        if of_peft and not folder.has("adapter_config.json"):
            log.warning("%s: PEFT's adapter_config.json is not beside it; its alpha is taken to be its rank", file.path)
        return config(folder, "adapter_config.json") if of_peft or name.startswith("adapter_model.") else {}
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EmoeError(f"{file.path}: its settings are not JSON; the file is broken, use another") from error
    own = {key.removeprefix("unet."): value for key, value in told.items()} if isinstance(told, dict) else {}
    return {key: value for key, value in own.items() if "." not in key}  # the others are another part's


def _alphas(told: Mapping[str, Any], where: str) -> Alphas:
    way = told.get("init_lora_weights")
    if isinstance(way, str) and way.lower().startswith(OF_THE_BASE):
        raise EmoeError(f"{where}: began by {shown(way)}, which changes the base as well; merge the LoRA with PEFT")
    usual, own = told.get("lora_alpha"), told.get("alpha_pattern") or {}
    if not isinstance(own, dict) or not all(map(LAYERS.fullmatch, own)):
        raise EmoeError(
            f"{where}: its alpha_pattern is {shown(own)}, which is more than names of layers; merge the LoRA"
        )
    for value in (*own.values(), *([] if usual is None else [usual])):
        if type(value) not in (int, float) or not -LARGEST_ALPHA <= value <= LARGEST_ALPHA:
            raise EmoeError(f"{where}: its settings make {shown(value)} an alpha; they are broken, use another LoRA")
    return Alphas(usual, own, told.get("use_rslora") is True)
