"""Pickles from small pieces: every byte of a program is one opcode, or a few that belong together.

Bytes changed at random seldom make a pickle that goes far; a program's always do.
"""

from __future__ import annotations

from pickle import encode_long

GLOBALS = (
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "torch._utils _rebuild_qtensor",
    "torch._utils _rebuild_sparse_tensor",
    "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_nested_tensor",
    "torch._utils _rebuild_wrapper_subclass",
    "torch._utils _rebuild_device_tensor_from_numpy",
    "torch._utils _rebuild_device_tensor_from_cpu_tensor",
    "torch._tensor _rebuild_from_type_v2",
    "torch.nn.parameter Parameter",
    "torch.serialization _get_layout",
    "torch FloatStorage",
    "torch HalfStorage",
    "torch LongStorage",
    "torch.storage UntypedStorage",
    "torch Tensor",
    "torch FloatTensor",
    "torch Size",
    "torch device",
    "torch float32",
    "torch per_tensor_affine",
    "collections OrderedDict",
    "collections Counter",
    "__builtin__ set",
    "__builtin__ bytearray",
    "__builtin__ complex",
    "_codecs encode",
    "numpy.core.multiarray scalar",
    "numpy dtype",
    "pytorch_lightning.callbacks.model_checkpoint ModelCheckpoint",
    "os system",
    "__builtin__ eval",
    "torch load",
)
NUMBERS = (-(2**63), -1, 0, 1, 2, 3, 4, 16, 64, 10**6, 10**10, 10**18, 2**63, 2**64, 2**2000)
TEXTS = (
    "storage",
    "0",
    "1",
    "cpu",
    "meta",
    "cuda",
    "latin1",
    "hex",
    "state_dict",
    "model",
    "conv_in.weight",
    "module.a",
)
TEXTS += (
    "items",
    "get",
    "values",
    "detach",
    "data",
    "grad",
    "__class__",
    "_backward_hooks",
    "",
    "a\nb",
    "\ud800",
    "x" * 400,
)
OPCODES = (
    b"(",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b")",
    b"]",
    b"}",
    b"\x8f",
    b"N",
    b"\x88",
    b"\x89",
    b"a",
    b"e",
    b"s",
    b"u",
)
OPCODES += (b"R", b"b", b"\x81", b"Q", b".", b"0", b"2", b"G?\xf8\0\0\0\0\0\0", b"U\x03abc", b"\x80\x04")


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + len(data).to_bytes(4, "little") + data


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    data = encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def called(name: str) -> bytes:
    module, leaf = name.split(" ")
    return f"c{module}\n{leaf}\n".encode()


SHAPES = number(0) + b"(" + number(4) + number(4) + b"t(" + number(4) + number(1) + b"t"


def storage(old: bool) -> bytes:
    """The one that the archive has; old: as legacy files ask for it, with the place of a view, which is None."""
    told = b"(" + text("storage") + called("torch FloatStorage") + text("0") + text("cpu") + number(16)
    return told + (b"NtQ" if old else b"tQ")


def tensor(old: bool) -> bytes:
    hooks = called("collections OrderedDict") + b")R"
    return called(GLOBALS[0]) + b"(" + storage(old) + SHAPES + b"\x89" + hooks + b"tR"


def named(old: bool) -> bytes:
    return text("a.weight") + tensor(old) + b"s"


PIECES = (
    *(called(name) for name in GLOBALS),
    *map(number, NUMBERS),
    *map(text, TEXTS),
    *OPCODES,
    *(kind + bytes([i]) for i in range(6) for kind in (b"q", b"h")),
    *(piece(old) for old in (False, True) for piece in (storage, tensor, named)),
    *(b"}" + named(old) for old in (False, True)),
    *(b"}" + text("state_dict") + b"}" + named(old) + b"s" for old in (False, True)),
    *(SHAPES, called("collections OrderedDict") + b")R"),
)


def pickled(program: bytes) -> bytes:
    """The pickle that a program spells; STOP is put at its end."""
    return b"\x80\x02" + b"".join(PIECES[byte % len(PIECES)] for byte in program) + b"."


def program(*wanted: bytes) -> bytes:
    """The way back: pieces -> a program."""
    return bytes(PIECES.index(piece) for piece in wanted)
