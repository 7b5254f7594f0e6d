"""A folder in the Hub's layout: which of its files hold the UNet, the VAE, the text encoder.

The choice is made part by part: repositories mix formats, variants and years.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from emoe.checkpoint.settings import LIMIT, read_json
from emoe.errors import EmoeError, shown

# Part -> the stems its weights go by, with the extensions they go with.
STEMS = {
    "unet": {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"},
    "vae": {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"},
    "text_encoder": {"safetensors": "model", "bin": "pytorch_model"},
}
# Any safetensors comes before any pickle, and both before what may be other weights.
VARIANTS = ("", "fp32", "fp16", "bf16")
OTHERS = ("ema", "non_ema")
SCHEDULE = {  # SD1.5's
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
PREDICTIONS = ("epsilon", "v_prediction")
CHECKPOINTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")


class Folder:
    """A folder on this disk: what it holds, and where."""

    def __init__(self, root: Path):
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def has(self, name: str) -> bool:
        return os.path.lexists(self.root / name)  # False for names that no file can have; True for broken links

    def names(self) -> list[str]:
        """The files directly in the folder."""
        try:
            return sorted(p.name for p in self.root.iterdir() if p.is_file())
        except OSError as error:
            raise EmoeError(f"cannot read {self.root}: {error.strerror}") from error

    def path(self, name: str) -> Path:
        """Where a file of the folder lies on this disk."""
        return self.root / name

    def folder(self, name: str) -> Folder:
        return Folder(self.root / name)

    def above(self, part: str) -> Folder | None:
        """The folder that this one is a part of, if it is named so."""
        return Folder(self.root.parent) if self.root.name == part else None


def weights(folder: Folder, part: str) -> list[str]:
    """The names of the files with a part's weights: one, several if sharded, none if the part is not there."""
    for variants, (extension, stem) in product((VARIANTS, OTHERS), STEMS[part].items()):
        for name in (name for variant in variants for name in _spellings(stem, variant, extension)):
            if folder.has(name):
                return _shards(folder, name) if name.endswith(".json") else [name]
    return []


def _spellings(stem: str, variant: str, extension: str) -> Iterator[str]:
    if not variant:
        yield f"{stem}.{extension}"
        yield f"{stem}.{extension}.index.json"
        return
    yield f"{stem}.{variant}.{extension}"
    yield f"{stem}.{extension}.index.{variant}.json"
    yield f"{stem}.{extension}.{variant}.index.json"
    yield f"{stem}.{variant}.{extension}.index.json"


def _shards(folder: Folder, index: str) -> list[str]:
    """The shards that an index names: bare names in its own folder, as a stranger's index may name anything.

    They may be links, as all files in the Hub's cache are.
    """
    table = read_json(folder.path(index)).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise EmoeError(f"{folder}/{index} has no weight_map; download it again")
    shards = sorted(set(table.values()))
    for name in shards:
        if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise EmoeError(
                f"{folder}/{index} names {shown(name)}, which is not a file in its own folder; do not trust it"
            )
        if not folder.has(name):
            raise EmoeError(f"{folder} lacks {shown(name)}, which {index} names; download it again")
    return shards


def is_part(name: str) -> bool:
    """Whether a file is named like a part's weights, so that the config.json beside it is its own."""
    return name.partition(".")[0] in {stem for stems in STEMS.values() for stem in stems.values()}


def only_checkpoint(folder: Folder) -> list[str]:
    """The files of the one checkpoint at the root of a folder; EmoeError lists them if there are several."""
    for part in STEMS:
        names = weights(folder, part)
        if len(names) > 1 or (names and folder.has("config.json")):  # a part's own folder
            return names
    found = [name for name in folder.names() if name.lower().endswith(CHECKPOINTS) and not name.startswith("._")]
    if len(found) == 1:
        return found
    if found:
        raise EmoeError(
            f"{folder} holds {len(found)} checkpoints and no unet folder; name one of them: "
            + ", ".join(f"{folder}/{name}" for name in found[:6])
        )
    cache = "; of the Hub's cache, name a folder under snapshots" if folder.has("snapshots") else ""
    raise EmoeError(f"{folder} holds no checkpoint: no unet folder, and no .safetensors, .ckpt or .bin file{cache}")


def config(folder: Folder, name: str = "config.json") -> dict:
    """A part's settings; {} where there are none."""
    return read_json(folder.path(name)) if folder.has(name) else {}


def schedule(folder: Folder) -> tuple[str | None, list[str]]:
    """What a pipeline's scheduler says: its prediction_type, and what in it none of SD1.x's has."""
    told = config(folder.folder("scheduler"), "scheduler_config.json")
    odd = [f"{key} {shown(told[key])}" for key, usual in SCHEDULE.items() if told.get(key, usual) != usual]
    if (kind := told.get("prediction_type")) not in (None, *PREDICTIONS):
        return None, [*odd, f"prediction_type {shown(kind)}"]
    return kind, odd


def sidecar_says_v(folder: Folder, name: str) -> bool:
    """Whether the LDM config beside a single file, as web UIs keep it, declares v-prediction."""
    stem = name.rpartition(".")[0]
    sidecar = next((name for name in (f"{stem}.yaml", f"{stem}.yml") if folder.has(name)), None)
    if sidecar is None:
        return False
    try:
        with folder.path(sidecar).open(errors="replace") as file:
            text = file.read(LIMIT)
    except OSError as error:
        raise EmoeError(f"cannot read {folder}/{sidecar}: {error.strerror}") from error
    return bool(re.search(r"^[^#\n]*\bparameterization:[ \t]*[\"']?v[\"']?[ \t]*([#,}].*)?$", text, re.MULTILINE))
