"""One weights file: sniffed, opened without running any of its code, read tensor by tensor.

Extensions lie, so the first bytes decide. safetensors is mapped; pickles are read as `pickles.py` allows, and never
otherwise.
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

from emoe.checkpoint.pickles import REFUSED, unpickle
from emoe.checkpoint.settings import LIMIT
from emoe.errors import EmoeError, shown

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


ARCHIVES = (b"Rar!", b"7z\xbc\xaf", b"\x1f\x8b", b"\xfd7zXZ", b"BZh")
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
        """One tensor, as stored, on the CPU. May be a view of the file: copy what is to outlive it.

        EmoeError if the file is no longer the one that was opened.
        """
        try:
            tensor = self._read(name)
        except (OSError, KeyError, SafetensorError) as error:
            raise EmoeError(f"{self.path} was changed or removed while it was read; start again") from error
        if (tuple(tensor.shape), tensor.dtype) != self.entries[name]:
            raise EmoeError(f"{self.path} was changed while it was read; start again")
        return tensor

    def _read(self, name: str) -> Tensor:
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
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > LIMIT:  # the library reads six times as much, a million tensors and more
            raise EmoeError(
                f"{self.path} is a safetensors file with a header of {length} bytes; it is broken, use another"
            )
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
                named = list(flatten(unwrap(unpickle(self.path, self.container == ZIP_PICKLE))))
            except FileNotFoundError:
                raise
            except EmoeError as error:
                raise EmoeError(f"{self.path}: {error}") from error
            except Exception as error:  # whatever a damaged or hostile file makes of torch's unpickler
                raise EmoeError(f"{self.path} {_why_not(error)}") from error
            self._tensors = self._ordinary(named)
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
    if isinstance(error, UnpicklingError) and (asked := re.search(r"GLOBAL (\w+\.[\w.]+)", str(error))):
        return (
            f"is a pickle that asks for more than tensors ({asked[1]}), which could run code; nothing of it was run. "
            "Use the model's safetensors file, or convert it with a tool you trust"
        )
    if isinstance(error, UnpicklingError) and str(error).endswith(REFUSED):
        return f"is no pickle of a checkpoint as torch writes them ({_first_line(error)}); use its safetensors file"
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
            members = archive.infolist()
    except Exception as error:  # whatever a damaged file makes of zipfile
        raise EmoeError(f"{path} {_why_not(error)}") from error
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        raise EmoeError(f"{path} is a TorchScript program, not a checkpoint; use the model's safetensors file")
    if any(name.endswith("/data.pkl") for name in names):
        _check_members(path, members)
        return ZIP_PICKLE
    raise EmoeError(
        f"{path} is a zip archive, not a checkpoint: unpack it and name the file or folder inside (it starts with "
        f"{', '.join(map(repr, names[:3]))})"
    )


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """torch stores its members as they are, one after another; others can unpack to far more than the file."""
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        raise EmoeError(f"{path} is a pickle in an archive that torch did not write; use the model's safetensors file")


def _what_else(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
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
    if head.startswith(ARCHIVES):
        return "is an archive, not a checkpoint: unpack it and name the file or folder inside"
    said = head.decode(errors="replace").strip()
    quoted = f" (it says {shown(said)})" if said.isprintable() and len(head) < 200 else ""
    return f"is no weights file: neither safetensors nor a torch pickle{quoted}"


def unwrap(tree: object) -> dict:
    """The state dict inside a checkpoint's wrappings; {} if there is none. Asks `dict` itself, as `flatten` does."""
    seen: set[int] = set()
    while isinstance(tree, dict) and id(tree) not in seen:
        seen.add(id(tree))
        inner = next((tree[key] for key in ("state_dict", "model") if isinstance(dict.get(tree, key), dict)), None)
        if inner is None and len(tree) == 1 and isinstance(first := next(iter(dict.values(tree))), dict):
            inner = first
        tree = tree if inner is None else inner
    return tree if isinstance(tree, dict) else {}


def flatten(tree: dict) -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested dicts and lists (embeddings, IP-Adapters, hypernetworks), by dotted name.

    So are the alphas that some LoRAs keep as Python's numbers.
    Asks `dict` itself: a pickle can give an OrderedDict an `items` of its own.
    """
    seen: set[int] = set()  # some files hold themselves

    def plain(name: str) -> str:
        return name.removeprefix("module.")  # of models trained on several GPUs

    def walk(node: object, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        if isinstance(node, Tensor):
            yield plain(prefix), node.detach()
        elif prefix.endswith(".alpha"):
            if type(node) not in (int, float):  # numpy's, of which no more is known (`pickles.Ignored`)
                raise EmoeError(f"{shown(prefix)} is no number that is read here; convert the file to safetensors")
            yield plain(prefix), torch.tensor(float(node))
        elif isinstance(node, dict | list | tuple) and depth < 6 and id(node) not in seen:
            seen.add(id(node))
            for key, value in dict.items(node) if isinstance(node, dict) else enumerate(node):
                yield from walk(value, f"{prefix}.{key}" if prefix else str(key), depth + 1)

    return walk(tree, "", 0)
