"""A checkpoint: a source string becomes named tensors, whatever form it came in.

Opening one reads headers alone. Tensors are read one by one, when and if somebody asks.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emoe.checkpoint import civitai, hub, layout, source
from emoe.checkpoint.contents import PARTS, sort
from emoe.checkpoint.detect import Kind, identify
from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.layout import Folder
from emoe.errors import EmoeError

log = logging.getLogger("emoe")

NO_UNET = Kind("a folder without a UNet", "name a checkpoint that has one")


@dataclass
class Part:
    """One network of a checkpoint, by our names: the UNet, the VAE or the text encoder."""

    where: str  # for messages
    places: dict[str, tuple[WeightsFile, str]] = field(default_factory=dict)  # our name -> its file, its name there
    config: dict[str, Any] = field(default_factory=dict)  # its config.json; {} for single files

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: file.entries[theirs].shape for name, (file, theirs) in self.places.items()}

    @property
    def dtypes(self) -> Counter[str]:
        """How many numbers are stored in which dtype."""
        count: Counter[str] = Counter()
        for file, theirs in self.places.values():
            shape, dtype = file.entries[theirs]
            count[str(dtype).removeprefix("torch.")] += torch.Size(shape).numel()
        return count

    def problems(self, expected: Mapping[str, Sequence[int]]) -> list[str]:
        """How the part's names and shapes differ from those expected; [] if they do not."""
        found = self.shapes
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        problems = [f"lacks {len(missing)} tensors ({_some(missing)})"] if missing else []
        problems += [f"has {len(extra)} tensors too many ({_some(extra)})"] if extra else []
        return problems + [
            f"has {name} in the shape {list(found[name])}, not {list(shape)}"
            for name, shape in expected.items()
            if name in found and not _fits(found[name], shape)
        ]

    def read(self, name: str, shape: Sequence[int], **to: Any) -> Tensor:
        """A copy of one tensor in `shape`; `to` (device, dtype) as in `Tensor.to`.

        EmoeError if it has another shape (up to axes of length 1), or weights that are not finite.
        """
        file, theirs = self.places[name]
        stored = file.read(theirs)
        if not _fits(stored.shape, shape):
            raise EmoeError(f"{self.where}: {theirs} has the shape {list(stored.shape)}, expected {list(shape)}")
        if stored.itemsize == 1:  # 8-bit floats know hardly any operation
            stored = stored.float()
        if not torch.isfinite(torch.stack(torch.aminmax(stored))).all():
            raise EmoeError(
                f"{self.where}: {theirs} holds weights that are not finite; the file is broken, use another"
            )
        return stored.reshape(tuple(shape)).to(copy=True, **to)


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """1x1 convolutions are also stored as matrices, and the reverse, so axes of length 1 do not count."""
    return [n for n in shape if n != 1] == [n for n in expected if n != 1]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


@dataclass
class Checkpoint:
    """What a source holds, as far as it was asked for."""

    source: str
    kind: Kind = NO_UNET
    naming: str = ""  # the UNet's: "LDM" or "diffusers"
    folder: Folder | None = None  # where it came from in the Hub's layout; None for a single file
    files: list[WeightsFile] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)  # tensors that no forward needs, by what they are
    unknown: list[str] = field(default_factory=list)
    prediction: str = "epsilon"  # or "v", where the file says so

    def part(self, name: str) -> Part:
        """ "unet", "vae" or "text_encoder"; EmoeError if it is not there."""
        if name not in self.parts:
            raise EmoeError(f"{self.source} has no {name.replace('_', ' ')}")
        return self.parts[name]

    def release(self) -> None:
        """Let go of open files; reading opens them again."""
        for file in self.files:
            file.release()


def open_checkpoint(
    text: str, *, parts: Sequence[str] = PARTS, base: Path = Path(), revision: str | None = None
) -> Checkpoint:
    """Open what a source string names (see `emoe.checkpoint.source`), and refuse it unless it has an SD1.x UNet.

    parts: of a folder, the parts to look at; the UNet always is.
    base: where relative paths start.  revision: the Hub revision where `text` names none.
    """
    checkpoint = examine(text, parts=parts, base=base, revision=revision)
    if checkpoint.kind.remedy:
        raise EmoeError(f"{text} is {checkpoint.kind.name}: {checkpoint.kind.remedy}")
    if checkpoint.dropped:
        listed = ", ".join(f"{what} ({count})" for what, count in checkpoint.dropped.items())
        log.info("%s: left out, tensor counts in brackets: %s", text, listed)
    if checkpoint.unknown:
        log.warning(
            "%s: left out %d tensors of no known use (%s)", text, len(checkpoint.unknown), _some(checkpoint.unknown)
        )
    return checkpoint


def examine(text: str, *, parts: Sequence[str] = PARTS, base: Path = Path(), revision: str | None = None) -> Checkpoint:
    """The same, of whatever kind: `kind.remedy` says why it cannot be used."""
    folder, names = locate(text, base, revision)
    return _from_files(text, folder, names) if names else _from_folder(text, folder, parts)


def locate(text: str, base: Path = Path(), revision: str | None = None) -> tuple[Folder, list[str]]:
    """A source string -> a folder, and the files in it that make one checkpoint; [] for a folder with `unet/` etc."""
    found = source.parse(text, base, revision)
    if isinstance(found, source.Civitai):
        path = civitai.fetch(found)
        return Folder(path.parent), [path.name]
    if isinstance(found, source.Local) and not found.path.is_dir():
        return Folder(found.path.parent), [found.path.name]
    if isinstance(found, source.Hub) and found.inner:
        above, _, name = found.inner.rpartition("/")
        parent = hub.repository(found.repo, found.revision).folder(above)
        if name in parent.names():
            return parent, [name]
    folder = open_folder(text, base, revision)
    return folder, [] if any(folder.has(part) for part in PARTS) else layout.only_checkpoint(folder)


def open_folder(text: str, base: Path = Path(), revision: str | None = None) -> Folder:
    """A source string that means a folder, here or on the Hub."""
    found = source.parse(text, base, revision)
    if isinstance(found, source.Local) and found.path.is_dir():
        return Folder(found.path)
    if isinstance(found, source.Hub):
        folder = hub.repository(found.repo, found.revision)
        if found.inner and not folder.has(found.inner):
            raise EmoeError(f"the Hub repository {found.repo} has no {found.inner}; look at its list of files")
        return folder.folder(found.inner or "")
    raise EmoeError(f"{text} is not a folder, here or on the Hub; name one")


def reach(text: str, base: Path = Path(), revision: str | None = None) -> None:
    """EmoeError if a source cannot be had or is known to be of the wrong kind; nothing large is downloaded."""
    found = source.parse(text, base, revision)
    if isinstance(found, source.Civitai):
        civitai.look_up(found)
    if isinstance(found, source.Hub):
        hub.repository(found.repo, found.revision)


def _from_files(text: str, folder: Folder, names: list[str]) -> Checkpoint:
    """A single file, which may hold all parts; or the files of one part."""
    found = Checkpoint(text)
    config = layout.config(folder) if layout.is_part(names[0]) else {}
    _add(found, [folder.path(name) for name in names], PARTS, text, config)
    if layout.sidecar_says_v(folder, names[0]):
        found.prediction = "v"
    return found


def _from_folder(text: str, folder: Folder, parts: Sequence[str]) -> Checkpoint:
    """The Hub's layout: a folder a part."""
    found = Checkpoint(text, folder=folder)
    for part in dict.fromkeys(("unet", *parts)):
        inner = folder.folder(part)
        paths = [inner.path(name) for name in layout.weights(inner, part)]
        if paths:
            _add(found, paths, (part,), f"{text}/{part}", layout.config(inner))
    if layout.config(folder.folder("scheduler"), "scheduler_config.json").get("prediction_type") == "v_prediction":
        found.prediction = "v"
    return found


def _add(found: Checkpoint, paths: list[Path], wanted: Sequence[str], where: str, config: dict[str, Any]) -> None:
    """Sort the tensors of some files (shards of one) into the checkpoint's parts."""
    files = [WeightsFile(path) for path in paths]
    holder = {name: file for file in files for name in file.entries}
    entries = {name: file.entries[name] for name, file in holder.items()}
    contents = sort(entries)
    for part in wanted:
        names = contents.parts[part]
        if names:
            places = {ours: (holder[theirs], theirs) for ours, theirs in names.items()}
            found.parts[part] = Part(where, places, config)
    if "unet" in wanted:
        found.kind, found.naming = identify(entries), contents.naming
        hints = (file.metadata.get("modelspec.prediction_type", "") for file in files)
        if "v_pred" in entries or any(hint.startswith("v") for hint in hints):
            found.prediction = "v"
    found.files += files
    found.dropped += contents.dropped
    found.unknown += contents.unknown
