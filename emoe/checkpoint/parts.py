"""A checkpoint's parts: named tensors, whatever file or form they lie in, read one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from emoe.checkpoint.detect import Kind
from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.layout import Folder
from emoe.errors import EmoeError, many

NO_UNET = Kind(
    "a folder without a UNet", "there is no unet/diffusion_pytorch_model in it; name a checkpoint that has one"
)


@dataclass
class Part:
    """One network of a checkpoint, by our names: the UNet, the VAE or the text encoder."""

    where: str  # for messages
    places: dict[str, tuple[WeightsFile, str]] = field(default_factory=dict)  # our name -> its file, its name there
    config: dict[str, Any] = field(default_factory=dict)  # its config.json; {} for single files
    trained: ClassVar[bool] = True  # then an all-zero matrix means a broken download

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
        """How the part's tensors differ in name, shape and kind of number from those expected; [] if they do not."""
        missing, extra = sorted(expected.keys() - self.places.keys()), sorted(self.places.keys() - expected.keys())
        problems = [f"lacks {some(missing)}"] if missing else []
        problems += [f"has {some(extra)} besides"] if extra else []
        for name in (name for name in expected if name in self.places):
            file, theirs = self.places[name]
            shape, dtype = file.entries[theirs]
            if not _fits(shape, expected[name]):
                problems.append(f"has {name} in the shape {list(shape)}, not {list(expected[name])}")
            if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
                problems.append(f"has {name} in {dtype}, which is no floating-point number")
        return problems

    def read(self, name: str, shape: Sequence[int], **to: Any) -> Tensor:
        """A copy of one tensor in `shape`; `to` (device, dtype) as in `Tensor.to`.

        `problems` has been asked before. EmoeError for weights that are not finite, and for matrices of zeros.
        """
        file, theirs = self.places[name]
        stored = file.read(theirs)
        if stored.itemsize == 1:  # 8-bit floats know hardly any operation
            stored = stored.float()
        least, largest = torch.aminmax(stored)
        if not (least.isfinite() and largest.isfinite()):
            raise EmoeError(
                f"{self.where}: {theirs} holds weights that are not finite; the file is broken, use another"
            )
        if self.trained and stored.ndim > 1 and least == largest == 0:
            raise EmoeError(
                f"{self.where}: {theirs} holds nothing but zeros, as a download does that never finished; download it "
                "again"
            )
        return stored.reshape(tuple(shape)).to(copy=True, **to)


@dataclass
class Checkpoint:
    """What a source holds, as far as it was asked for."""

    source: str  # as it was named, without secrets
    kind: Kind = NO_UNET
    naming: str = ""  # the UNet's: "LDM" or "diffusers"
    folder: Folder | None = None  # where it came from in the Hub's layout; None for a single file
    files: list[WeightsFile] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)  # "unet", "vae", "text_encoder", as far as there; or "lora"
    dropped: Counter[str] = field(default_factory=Counter)  # tensors that no forward needs, by what they are
    unknown: list[str] = field(default_factory=list)
    prediction_type: str = "epsilon"  # or "v", where the file says so
    schedule: list[str] = field(default_factory=list)  # what it says of another noise schedule than SD1.5's

    def release(self) -> None:
        """Let go of open files; reading opens them again."""
        for file in self.files:
            file.release()


def some(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {many(len(names) - 3, 'other')}" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """1x1 convolutions are also stored as matrices, and the reverse, so axes of length 1 do not count."""
    return [n for n in shape if n != 1] == [n for n in expected if n != 1]
