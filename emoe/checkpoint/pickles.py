"""Pickles: what they ask for is read before torch carries it out, and then goes through `weights_only`.

That runs none of a file's code. But what it allows takes all memory, or for ever, if a few bytes ask for it:
`bytearray(10**11)`, an encoding of an encoding of an encoding, a key that is a tuple of tuples of tuples. So torch is
given pickles of what checkpoints consist of, and no others.
"""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError, dumps
from pickletools import genops
from typing import Any, BinaryIO, NoReturn

import torch


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
)
ENCODE, ORDERED = "_codecs.encode", "collections.OrderedDict"  # how numpy's numbers hold their bytes; state dicts
CALLED = (
    *IGNORED,
    *(ENCODE, ORDERED, "torch.Size", "torch.device", "torch._utils._rebuild_parameter"),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
)
NAMED = re.compile(r"torch\.(\w+Storage|storage\.UntypedStorage|b?float\d+\w*|u?int\d+|complex\d+|bool)")
LITERALS = ("NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
LITERALS += ("BININT", "BININT1", "BININT2", "LONG1")
REFUSED = ", where a checkpoint has none"  # how an UnpicklingError of ours ends
MOST_OPCODES = 1_000_000  # 1,700 tensors take some 53,000
MAGIC = dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
LEGACY_HEAD = 3  # pickles before the one that matters: a magic number, a version, the system


def unpickle(path: Path, zipped: bool) -> object:
    """What a file holds, its tensors on the CPU. Any exception may come of a file that is damaged or hostile."""
    with path.open("rb") as file:
        if zipped:
            _check(torch._C.PyTorchFileReader(file).get_record("data.pkl"), path)
        else:
            if file.read(len(MAGIC)) != MAGIC:
                _refuse("another beginning than torch's")
            file.seek(0)
            for _ in range(LEGACY_HEAD):
                _check(file, path, plain=True)
            _check(file, path)
            _check(file, path, plain=True)  # the storages' keys
        file.seek(0)
        # torch maps zips alone, and takes the extension's word for it where it is given a path
        mapped = zipped and path.suffix != ".safetensors"
        with torch.serialization.safe_globals([(Ignored, name) for name in IGNORED]):
            return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)


class _Global:
    """A function or class that a pickle names."""

    def __init__(self, name: str):
        self.name = name


class _Made:
    """What a pickle makes, of which no more matters than how."""

    def __init__(self, by: str = ""):
        self.by = by


def _check(pickle: bytes | BinaryIO, path: Path, plain: bool = False) -> None:
    """UnpicklingError for a pickle that does more than a checkpoint's. Follows torch's stack, and does nothing.

    plain: whether it must be without tuples and names, as those around a legacy checkpoint are.
    """
    size = path.stat().st_size
    stack: list[Any] = []  # literals and tuples as they are, _Global and _Made for the rest; nothing of it is hashed
    below: list[list[Any]] = []  # the stacks under the marks
    memo: dict[int, Any] = {}
    for count, (opcode, told, _) in enumerate(genops(pickle)):
        name = opcode.name
        if count == MOST_OPCODES or (plain and (name == "GLOBAL" or "TUPLE" in name)):
            _refuse(f"{name} after {count} others")
        if name in LITERALS:
            stack.append(told)
            continue
        match name:
            case "PROTO":
                pass
            case "STOP":
                return
            case "GLOBAL":
                stack.append(_known(told.replace(" ", ".")))
            case "MARK":
                below.append(stack)
                stack = []
            case "BINPUT" | "LONG_BINPUT":
                memo[told] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[told])
            case "TUPLE":
                items, stack = stack, below.pop()
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(name[-1])
                stack[-length:] = [tuple(stack[-length:])]
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                stack.append(_Made())
            case "APPEND":
                stack.pop()
            case "APPENDS":
                stack = below.pop()
            case "SETITEM":
                _check_keys(stack[-2:-1])
                del stack[-2:]
            case "SETITEMS":
                items, stack = stack, below.pop()
                _check_keys(items[::2])
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack[-1] = _called(stack[-1], arguments)
            case "BUILD":
                stack.pop()
                if not (isinstance(stack[-1], _Made) and stack[-1].by in (ORDERED, *IGNORED)):
                    _refuse("a state for what has none")
            case "BINPERSID":
                stack[-1] = _storage(stack[-1], size)
            case _:
                _refuse(f"the opcode {name}")


def _known(name: str) -> _Global:
    if name not in CALLED and not NAMED.fullmatch(name):
        _refuse(f"GLOBAL {name}")
    return _Global(name)


def _called(function: Any, arguments: Any) -> _Made:
    """What comes of a call."""
    name = function.name if isinstance(function, _Global) else "no function"
    if name not in CALLED or not isinstance(arguments, tuple):
        _refuse(f"a call of {name}")
    if name == ORDERED and arguments:
        _refuse(f"arguments of {name}")
    if name in (ENCODE, "torch.device") and not all(isinstance(argument, str | int) for argument in arguments):
        _refuse(f"other arguments of {name} than text")
    if name == ENCODE and arguments[1:] != ("latin1",):
        _refuse("another encoding than latin1")
    return _Made(name)


def _check_keys(keys: list[Any]) -> None:
    """Of dicts: those that are quick to hash, and cannot be chosen so that many have the same hash."""
    for key in keys:
        short = isinstance(key, int) and key.bit_length() <= 64
        if not (short or isinstance(key, str | float | _Global | None)):
            _refuse("a key that is neither text nor number")


def _storage(told: Any, size: int) -> _Made:
    """What a tensor's numbers lie in: ("storage", type, key, device, count), in legacy files and a view's place."""
    match told:
        case ("storage", _Global(), str(), str(), int(count), *_) if 0 <= count <= size:
            return _Made()
    _refuse("a storage that is none, or larger than the file")


def _refuse(what: str) -> NoReturn:
    raise UnpicklingError(f"{what}{REFUSED}")
