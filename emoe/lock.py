"""weights.toml -> a copy that names what was used for good: Hub commits, Civitai files, and the hash of every file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from emoe.assemble import SPOKEN, STOCK, needs_stock, prepare
from emoe.checkpoint import civitai, hub, source
from emoe.checkpoint.hashes import check_hashes, hashes
from emoe.checkpoint.hub import HubFolder
from emoe.checkpoint.open import examine, open_checkpoint, open_part
from emoe.checkpoint.open_lora import open_lora
from emoe.checkpoint.parts import Checkpoint
from emoe.config import Expert, LoraSource, Weights
from emoe.errors import EmoeError, about

MAIN = ("base", "segmoe")  # sources of more than one part
PART = ("text_encoder", "vae")


def lock(weights: Weights, path: Path) -> Weights:
    """The same mixture, from sources that do not move, with the hash of every file that scores and images need.

    path: of the copy's file, where its relative paths start. What is not here yet is downloaded. EmoeError names the
    source that cannot be had.
    """
    prepare(weights, torch.device("cpu"))  # refuses what a run would, and fetches a tokenizer, which is not hashed
    fixed: dict[str, Any] = {key: text for key in (*MAIN, *PART) if (text := getattr(weights, key))}
    main = next(key for key in MAIN if key in fixed)
    with about(f"{weights.path}: {main}"):
        base = examine(fixed[main], start=weights.folder, revision=weights.revision)
    fixed |= {part: STOCK for part in PART if part not in fixed and needs_stock(part, base)}

    copy, own = _Copy(weights, path), [part for part in PART if part not in fixed]
    for key, text in fixed.items():
        fixed[key] = copy.checkpoint(key, text, *(("unet", *own) if key == main else (key,)))
    if weights.tokenizer:
        with about(f"{weights.path}: tokenizer"):
            fixed["tokenizer"] = _fixed(weights.tokenizer, weights, path)
    experts = tuple(copy.expert(label, e) for label, e in zip(weights.labels, weights.experts, strict=True))
    return replace(weights, path=path, experts=experts, revision=None, sha256=copy.sha256, **fixed)


class _Copy:
    """The copy as it comes about: source strings for good, and the hashes of their files."""

    def __init__(self, weights: Weights, path: Path):
        self.weights, self.path = weights, path
        self.sha256: dict[str, str] = {}

    def expert(self, label: str, expert: Expert) -> Expert:
        source = self.checkpoint(label, expert.source, "unet")
        loras = [
            replace(lora, source=self.lora(f"{label}: loras[{i}]", lora.source)) for i, lora in enumerate(expert.loras)
        ]
        return replace(expert, source=source, loras=tuple(loras))

    def checkpoint(self, key: str, text: str, *parts: str) -> str:
        with about(f"{self.weights.path}: {key}"):
            for_good = _fixed(text, self.weights, self.path)
            if "unet" in parts:
                opened = open_checkpoint(for_good, parts=parts, start=self.path.parent)
            else:
                opened = open_part(for_good, *parts, self.path.parent)
                if missing := set(parts) - opened.parts.keys():
                    raise EmoeError(f"{opened.source} has no {SPOKEN[missing.pop()]}; name another")
            self._add(text, for_good, opened)
        return for_good

    def lora(self, key: str, text: str) -> str:
        with about(f"{self.weights.path}: {key}"):
            for_good = _fixed(text, self.weights, self.path, "LoRA")
            opened = open_lora(for_good, start=self.path.parent)
            self._add(text, for_good, opened)
        return for_good

    def _add(self, text: str, for_good: str, opened: Checkpoint) -> None:
        """The hashes of its files, which are those that weights.toml names, if any."""
        if self.weights.sha256 is not None:
            check_hashes(text, opened, self.weights.sha256)
        self.sha256 |= hashes(for_good, opened)


def _fixed(text: str, weights: Weights, path: Path, kind: str = "checkpoint") -> str:
    """A source string that means the same tomorrow."""
    found = source.parse(text, weights.folder, weights.revision)
    if isinstance(found, source.Local):
        real = _real(found.path)  # what was absolute stays so, and what was relative starts at the copy
        return str(real) if Path(text).expanduser().is_absolute() else os.path.relpath(real, path.parent.resolve())
    if isinstance(found, source.Civitai):
        _, file = civitai.look_up(found, kind)
        return f"https://{source.CIVITAI_HOSTS[0]}/api/download/models/{file.version}?fileId={file.id}"
    folder = hub.repository(found.repo, found.revision)
    if not isinstance(folder, HubFolder):  # left by another program, and the network is out of reach
        raise EmoeError(f"the commit of {found.repo} is not known without a network; try again with one")
    return "/".join(filter(None, (f"{found.repo}@{folder.commit}", found.inner)))


def _real(path: Path) -> Path:
    """Without links on the way; the last part stays, as in caches a link has the name and its goal has none."""
    return path.parent.resolve() / path.name


def to_toml(weights: Weights) -> str:
    """A description as a file that `read_weights` reads."""
    keys = ("base", "segmoe", *PART, "tokenizer", "revision", "top", "gate", "split")
    top = {key: value for key in keys if (value := getattr(weights, key)) is not None}
    top |= {} if weights.segmoe else {"layers": weights.layers}
    tables = [_table(top | {"temperature": weights.temperature})]
    for expert in weights.experts:
        told = {key: value for key, value in vars(expert).items() if value not in (None, ())}
        tables.append("[[expert]]\n" + _table(told))
    if weights.sha256 is not None:
        tables.append("[sha256]\n" + _table({_text(name): value for name, value in weights.sha256.items()}))
    return "\n".join(tables)


def _table(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: str | float | tuple[LoraSource, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(f'{{ source = {_text(lora.source)}, scale = {lora.scale} }}' for lora in value)}]"
    return _text(value) if isinstance(value, str) else str(value)


def _text(value: str) -> str:
    """TOML's basic strings are JSON's, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
