"""A source string -> an opened checkpoint. Headers alone are read; tensors wait until somebody asks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emoe.checkpoint import civitai, hub, layout, source
from emoe.checkpoint.contents import LORA_REMNANTS, PARTS, sort
from emoe.checkpoint.detect import HALF_A_VAE, SDXL, by_pipeline, identify
from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.layout import Folder
from emoe.checkpoint.parts import Checkpoint, Part, some
from emoe.errors import EmoeError

log = logging.getLogger("emoe")


def open_checkpoint(
    text: str, *, parts: Sequence[str] = PARTS, start: Path = Path(), revision: str | None = None
) -> Checkpoint:
    """Open what a source string names (see `emoe.checkpoint.source`), and refuse it unless it has an SD1.x UNet.

    parts: of a folder, the parts to look at besides the UNet.
    start: the folder of relative paths.  revision: the Hub revision where `text` names none.
    """
    found = examine(text, parts=("unet", *parts), start=start, revision=revision)
    if found.kind.remedy:
        raise EmoeError(f"{found.source} is {found.kind.name}: {found.kind.remedy}")
    for what, count in found.dropped.items():
        level = logging.WARNING if what == LORA_REMNANTS else logging.INFO
        log.log(level, "%s: left out %s (tensors: %d)", found.source, what, count)
    if found.unknown:
        log.warning("%s: left out %s, of no known use", found.source, some(found.unknown))
    if found.schedule:
        schedule = ", ".join(found.schedule)
        log.warning(
            "%s: trained on another noise schedule (%s) than SD1.5's, which is used here", found.source, schedule
        )
    return found


def examine(
    text: str,
    *,
    parts: Sequence[str] = PARTS,
    start: Path = Path(),
    revision: str | None = None,
    kind: str | None = "checkpoint",
) -> Checkpoint:
    """The same, of whatever kind: `kind.remedy` says why it cannot be used. Of a folder, `parts` alone are opened.

    kind: what it has to be on Civitai, as for `locate`.
    """
    folder, names = locate(text, start, revision, kind)
    found = Checkpoint(source.plain(text))
    if names:
        _add_files(found, folder, names)
    else:
        _add_folder(found, folder, parts)
    return found


def open_part(text: str, part: str, start: Path = Path(), revision: str | None = None) -> Checkpoint:
    """A source that one part is taken from, whatever else it is. EmoeError for a VAE that cannot serve SD1.5."""
    found = examine(text, parts=(part,), start=start, revision=revision)
    if part == "vae" and found.kind.name in (SDXL, HALF_A_VAE):
        raise EmoeError(f"{found.source} is {found.kind.name}, whose VAE does not read SD1.5's latents; name another")
    return found


def locate(
    text: str, start: Path = Path(), revision: str | None = None, kind: str | None = "checkpoint"
) -> tuple[Folder, dict[str, str]]:
    """A source string -> a folder, and the files in it that make one checkpoint; {} for a folder with `unet/` etc.

    Names by what the source string leaves to say: "" where it names the file itself.
    kind: what it has to be on Civitai, which tells before anything is downloaded: "checkpoint", "LoRA", None: either.
    """
    found = source.parse(text, start, revision)
    if isinstance(found, source.Civitai):
        path = civitai.fetch(found, kind)
        return Folder(path.parent), {"": path.name}
    if isinstance(found, source.Local) and not found.path.is_dir():
        return Folder(found.path.parent), {"": found.path.name}
    if isinstance(found, source.Hub) and found.inner:
        above, _, name = found.inner.rpartition("/")
        parent = hub.repository(found.repo, found.revision).folder(above)
        if name in parent.names():
            return parent, {"": name}
    folder = open_folder(text, start, revision)
    whole = any(folder.has(part) for part in PARTS)
    return folder, {} if whole else {name: name for name in layout.only_checkpoint(folder)}


def part_config(text: str, part: str, start: Path = Path(), revision: str | None = None) -> dict[str, Any]:
    """The config.json of a source's part; {} where none came with it. Nothing else is downloaded."""
    if isinstance(source.parse(text, start, revision), source.Civitai):  # a single file
        return {}
    folder, names = locate(text, start, revision)
    if not names:
        return layout.config(folder.folder(part))
    return layout.config(folder) if layout.is_part(next(iter(names.values()))) else {}


def open_folder(text: str, start: Path = Path(), revision: str | None = None) -> Folder:
    """A source string that means a folder, here or on the Hub."""
    found = source.parse(text, start, revision)
    if isinstance(found, source.Local) and found.path.is_dir():
        return Folder(found.path)
    if isinstance(found, source.Hub):
        folder = hub.repository(found.repo, found.revision)
        if found.inner and not folder.has(found.inner):
            raise EmoeError(f"the Hub repository {found.repo} has no {found.inner}; look at its list of files")
        return folder.folder(found.inner or "")
    raise EmoeError(f"{source.plain(text)} is not a folder, here or on the Hub; name one")


def reach(text: str, start: Path = Path(), revision: str | None = None, kind: str = "checkpoint") -> None:
    """EmoeError if a source cannot be had or is known to be of the wrong kind; nothing large is downloaded."""
    found = source.parse(text, start, revision)
    if isinstance(found, source.Civitai):
        civitai.look_up(found, kind)
    if isinstance(found, source.Hub):
        hub.repository(found.repo, found.revision)


def _add_files(found: Checkpoint, folder: Folder, names: Mapping[str, str]) -> None:
    """A single file, which may hold all parts; or the files of one part."""
    first = next(iter(names.values()))
    config = layout.config(folder) if layout.is_part(first) else {}
    _add(found, {inner: folder.path(name) for inner, name in names.items()}, PARTS, found.source, config)
    if layout.sidecar_says_v(folder, first):
        found.prediction_type = "v"
    if layout.is_part(first) and (above := folder.above("unet")):
        _read_pipeline(found, above)


def _add_folder(found: Checkpoint, folder: Folder, parts: Sequence[str]) -> None:
    """The Hub's layout: a folder a part."""
    found.folder = folder
    for part in dict.fromkeys(parts):
        inner = folder.folder(part)
        paths = {f"{part}/{name}": inner.path(name) for name in layout.weights(inner, part)}
        if paths:
            _add(found, paths, (part,), f"{found.source}/{part}", layout.config(inner))
    _read_pipeline(found, folder)


def _read_pipeline(found: Checkpoint, folder: Folder) -> None:
    """What a folder says of the parts in it."""
    if not found.kind.remedy:
        found.kind = by_pipeline(layout.config(folder, "model_index.json")) or found.kind
    prediction, odd = layout.schedule(folder)
    found.schedule += odd
    if prediction == "v_prediction":
        found.prediction_type = "v"


def _add(
    found: Checkpoint, paths: Mapping[str, Path], wanted: Sequence[str], where: str, config: dict[str, Any]
) -> None:
    """Sort the tensors of some files (shards of one) into the checkpoint's parts."""
    files = [WeightsFile(path, inner) for inner, path in paths.items()]
    holder: dict[str, WeightsFile] = {}
    for file in files:
        if twice := holder.keys() & file.entries.keys():
            raise EmoeError(f"{where}: two of its files hold {some(sorted(twice))}; download it again")
        holder |= dict.fromkeys(file.entries, file)
    entries = {name: file.entries[name] for name, file in holder.items()}
    contents = sort(entries, where)
    for part in wanted:
        if names := contents.parts[part]:
            found.parts[part] = Part(where, {ours: (holder[name], name) for ours, name in names.items()}, config)
    if "unet" in wanted:
        found.kind, found.naming = identify(entries), contents.naming
        hints = (file.metadata.get("modelspec.prediction_type", "") for file in files)
        if "v_pred" in entries or any(hint.startswith("v") for hint in hints):
            found.prediction_type = "v"
        if "ztsnr" in entries:
            found.schedule.append("zero terminal SNR")
    found.files += files
    found.dropped += contents.dropped
    found.unknown += contents.unknown
