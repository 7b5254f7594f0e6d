"""One weights file: sniffed, opened without running any of its code, read tensor by tensor.

Extensions lie, so the first bytes decide. safetensors is mapped; pickles go through `weights_only` with the few
names on an allow-list, and never otherwise.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from emoe.errors import EmoeError

SAFETENSORS, ZIP_PICKLE, LEGACY_PICKLE = "safetensors", "pickle (zip)", "pickle (legacy)"

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Entry(NamedTuple):
    """What the header says of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str  # the file's own word where torch has none


class Ignored:
    """Stands in for whatever else original .ckpt files mention, Lightning's classes and numpy's numbers.

    Not numpy itself, whose dtypes trust what a file says of them: a wrong byte crashed the process.
    """

    def __init__(self, *_: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


IGNORED = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)
WINDOW = 2**28  # bytes; what is mapped of a file at a time
LONGEST_NAME = 300  # characters; real ones have some 100


class WeightsFile:
    """A weights file whose header is known and whose tensors are read on demand.

    entries: name -> shape and dtype.  metadata: safetensors' free-text header, {} for pickles.
    """

    def __init__(self, path: Path, inner: str = ""):
        """Raises EmoeError for anything that is not a readable weights file, with what it is instead.

        inner: its place in the source's folder, "" where the source names the file itself.
        """
        self.path, self.inner = path, inner
        self.container = sniff(path)
        self._tensors: dict[str, Tensor] | None = None
        self._handle, self._mapped = None, 0
        if self.container == SAFETENSORS:
            self.entries, self.metadata = self._safetensors_header()
        else:
            self.metadata = {}
            self.entries = {name: Entry(tuple(t.shape), t.dtype) for name, t in self._unpickled().items()}
        for name in self.entries:
            if len(name) > LONGEST_NAME or not name.isprintable():
                raise EmoeError(f"{path} holds a tensor named {name[:60]!r}; the file is broken, use another")

    def read(self, name: str) -> Tensor:
        """One tensor, as stored, on the CPU. May be a view of the file: copy what is to outlive it."""
        if self.container == SAFETENSORS:
            if self._handle is None or self._mapped > WINDOW:  # a new map: the old one's pages are given back
                self._handle, self._mapped = safe_open(self.path, "pt"), 0
            tensor = self._handle.get_tensor(name)
            self._mapped += tensor.nbytes
            return tensor
        return self._unpickled()[name]

    def release(self) -> None:
        """Let go of what reading holds; the next read takes it up again."""
        self._handle = self._tensors = None

    def _safetensors_header(self) -> tuple[dict[str, Entry], dict[str, str]]:
        try:
            with safe_open(self.path, "pt") as handle:
                slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
                entries = {
                    name: Entry(tuple(s.get_shape()), DTYPES.get(s.get_dtype(), s.get_dtype()))
                    for name, s in slices.items()
                }
                return entries, handle.metadata() or {}
        except SafetensorError as error:
            raise EmoeError(
                f"{self.path} is a damaged or cut-off safetensors file ({_first_line(error)}); download it again"
            ) from error

    def _unpickled(self) -> dict[str, Tensor]:
        if self._tensors is None:
            try:
                allowed = [(Ignored, name) for name in IGNORED]
                with torch.serialization.safe_globals(allowed), self.path.open("rb") as file:
                    # torch maps zips alone, and takes the extension's word for it where it is given a path
                    mapped = self.container == ZIP_PICKLE and self.path.suffix != ".safetensors"
                    source = self.path if mapped else file
                    tree = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
            except Exception as error:  # whatever a damaged or hostile file makes of torch's unpickler
                raise EmoeError(f"{self.path} {_why_not(error)}") from error
            self._tensors = self._ordinary(flatten(unwrap(tree)))
        return self._tensors

    def _ordinary(self, named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Each name once, and of every tensor every number in the file: a few bytes can claim terabytes."""
        size, tensors = self.path.stat().st_size, {}
        for name, tensor in named:
            if name in tensors:
                raise EmoeError(f"{self.path} holds {name} twice; the file is broken, use another")
            odd = tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta
            if odd or tensor.nbytes > size:
                raise EmoeError(f"{self.path} holds {name}, which is no ordinary tensor; use the safetensors file")
            tensors[name] = tensor
        return tensors


def _why_not(error: Exception) -> str:
    """What an unpickling error means. torch's own text advises to switch its protection off."""
    if isinstance(error, UnpicklingError) and (asked := re.search(r"GLOBAL ([\w.]+)", str(error))):
        return (
            f"is a pickle that asks for more than tensors ({asked[1]}), which could run code; nothing of it was run. "
            "Use the model's safetensors file, or convert it with a tool you trust"
        )
    reason = ": ".join(filter(None, (type(error).__name__, _first_line(error))))
    return f"is a damaged or cut-off pickle ({reason}); download it again"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:80]


def sniff(path: Path) -> str:
    """The container of a weights file by its first bytes; EmoeError says what it is if it is none."""
    try:
        if path.exists() and not path.is_file():
            raise EmoeError(f"{path} is not a file that can be read")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise EmoeError(f"cannot read {path}: {error.strerror}") from error

    if size == 0:
        raise EmoeError(f"{path} is empty: a download that failed; download it again")
    if head[8:16].lstrip()[:1] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000:
        return SAFETENSORS
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head.startswith(b"\x80\x02"):
        return LEGACY_PICKLE
    raise EmoeError(f"{path} {_what_else(head)}")


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # whatever a damaged file makes of zipfile
        raise EmoeError(f"{path} {_why_not(error)}") from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise EmoeError(f"{path} is a TorchScript program, not a checkpoint; use the model's safetensors file")
    if any(name.endswith("/data.pkl") for name in names):
        return ZIP_PICKLE
    raise EmoeError(
        f"{path} is a zip archive, not a checkpoint: unpack it and name the file or folder inside (it starts with "
        f"{', '.join(map(repr, names[:3]))})"
    )


def _what_else(head: bytes) -> str:
    text = head.lstrip().lower()
    if not head.strip(b"\0"):
        return "holds only zeros: a download that never finished; download it again"
    if head.startswith(b"GGUF"):
        return "is a GGUF file, quantised for other programs; use the model's safetensors file"
    if text.startswith((b"<!do", b"<htm", b"<?xml")):
        return "is a web page, not a model: the download met a login or an error page; download it again, logged in"
    if text.startswith((b'{"er', b'{"de', b'{"me')):
        message = head.decode(errors="replace").strip()[:80]
        return f"is a JSON message, not a model ({message}): the download was refused; download it again"
    if text.startswith(b"{"):
        return "is a JSON file, not a model; name the weights beside it, or their folder"
    if text.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the model itself: run `git lfs pull` in its repository"
    return "is no weights file: neither safetensors nor a torch pickle"


def unwrap(tree: object) -> dict:
    """The state dict inside a checkpoint's wrappings; {} if there is none."""
    seen: set[int] = set()
    while isinstance(tree, dict) and id(tree) not in seen:
        seen.add(id(tree))
        inner = next((tree[key] for key in ("state_dict", "model") if isinstance(tree.get(key), dict)), None)
        if inner is None and len(tree) == 1 and isinstance(next(iter(tree.values())), dict):
            inner = next(iter(tree.values()))
        tree = tree if inner is None else inner
    return tree if isinstance(tree, dict) else {}


def flatten(tree: dict) -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested dicts and lists (embeddings, IP-Adapters, hypernetworks), by dotted name."""
    seen: set[int] = set()  # some files hold themselves

    def walk(node: object, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        if isinstance(node, Tensor):
            yield prefix.removeprefix("module."), node.detach()  # the prefix of models trained on several GPUs
        elif isinstance(node, dict | list | tuple) and depth < 6 and id(node) not in seen:
            seen.add(id(node))
            for key, value in node.items() if isinstance(node, dict) else enumerate(node):
                yield from walk(value, f"{prefix}.{key}" if prefix else str(key), depth + 1)

    return walk(tree, "", 0)
