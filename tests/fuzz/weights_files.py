"""Files of weights, safetensors and pickles: what `emoe inspect` does with them, and every tensor in them."""

from __future__ import annotations

import io
import json
import math
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pieces
from target import JSON_WORDS, Target
from watch import Run, check_message

from emoe.errors import EmoeError

TO_K = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
EMBEDDING = "embeddings.token_embedding.weight"
UNET = {f"down_blocks.{i}.resnets.0.conv1.weight": (32, 32, 3, 3) for i in range(4)}
UNET |= {"conv_in.weight": (32, 4, 3, 3), f"{TO_K}.weight": (32, 64)}
TEXT = {EMBEDDING: (9, 64), "embeddings.position_embedding.weight": (7, 64), "encoder.layers.0.mlp.fc1.weight": (2, 64)}
VAE = {f"encoder.down_blocks.{i}.resnets.0.conv1.weight": (32, 32, 3, 3) for i in range(4)}
VAE |= {"decoder.conv_in.weight": (32, 4, 3, 3)}


def reader() -> Callable[[Path], None]:
    """What `emoe inspect` does with a file; and every tensor in it is read, also those of no use."""
    import emoe.checkpoint.load_text  # noqa: F401 (which a report imports when it meets a text encoder)
    from emoe.checkpoint.describing import describe
    from emoe.checkpoint.file import WeightsFile
    from emoe.checkpoint.parts import Part

    def read_all(path: Path) -> None:
        if refused := describe(str(path))["refused"]:
            check_message(EmoeError(refused))
        file = WeightsFile(path)
        for name, entry in file.entries.items():
            part = Part("a part", {name: (file, name)})
            if math.prod(entry.shape) and not part.problems({name: entry.shape}):
                part.read(name, entry.shape)

    return read_all


def sniffing(folder: Path) -> Run:
    from emoe.checkpoint.file import sniff

    path = folder / "a.safetensors"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        sniff(path)

    return run


def heads() -> Iterator[bytes]:
    yield from (b"", bytes(600), b"<!DOCTYPE html>", b'{"error": "no"}', b"GGUF\3\0\0\0", b"version https://git-lfs")
    yield from (with_header(b'{"a":{}}')[:30], zipped(b"\x80\x02N."), legacy(b"\x80\x02N."), b"PK\3\4", b"\x80\x02")


def with_header(header: bytes) -> bytes:
    """A safetensors file: the header's length, the header, as many zeros as it promises, within reason."""
    try:
        ends = [int(entry["data_offsets"][1]) for entry in json.loads(header).values() if "data_offsets" in entry]
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, OverflowError):
        ends = []
    zeros = max([end for end in ends if 0 <= end <= 2**20], default=0)
    return len(header).to_bytes(8, "little") + header + bytes(zeros)


def safetensors(folder: Path) -> Run:
    path, read_all = folder / "a.safetensors", reader()

    def run(data: bytes) -> None:
        path.write_bytes(with_header(data[1:]) if data[:1] == b"h" else data[1:])
        read_all(path)

    return run


def header(shapes: dict[str, tuple[int, ...]], dtype: str = "F16", size: int = 2, **metadata: str) -> bytes:
    table: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + size * math.prod(shape)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    return json.dumps(table, separators=(",", ":")).encode()


def headers() -> Iterator[bytes]:
    prefix = "model.diffusion_model."
    block = "input_blocks.1.1.transformer_blocks.0"
    experts = {f"{TO_K.replace('to_k', leaf)}.experts.{i}.weight": (1, 2) for leaf in ("to_k", "to_q") for i in (0, 1)}
    to_out = {f"down_blocks.{i}.attn2.to_out.0.weight": (1, 1) for i in range(16)}
    small = {name: tuple(min(n, 2) for n in shape) for name, shape in (UNET | TEXT | VAE).items()}
    yield b"r" + with_header(header({"a": (2, 3), "b": ()}, "F32", 4, format="pt"))
    yield b"h" + header({"a": (2, 3), "b": ()}, "F32", 4, **{"modelspec.prediction_type": "v"})
    yield b"h" + header(small | to_out)
    yield b"h" + header(small | to_out | experts)
    yield b"h" + header(
        {f"{prefix}input_blocks.0.0.weight": (2, 9, 1, 1), f"{prefix}{block}.attn2.to_k.weight": (1, 2)}
    )
    yield b"h" + header({"lora_unet_down.lora_up.weight": (2, 2), "v_pred": (0,)}, "BF16")
    query = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    kohya = f"lora_unet_{query.replace('.', '_')}"
    pair = {f"{kohya}.lora_down.weight": (2, 320), f"{kohya}.lora_up.weight": (320, 2), f"{kohya}.alpha": ()}
    yield b"h" + header(pair | {"lora_te_x.lora_up.weight": (2, 2)})
    peft = {"unet.lora_alpha": 2, "unet.alpha_pattern": {query: 3}, "unet.use_rslora": True}
    names = {f"unet.{query}.lora_A.weight": (2, 320), f"unet.{query}.lora_B.weight": (320, 2)}
    yield b"h" + header(names, lora_adapter_metadata=json.dumps(peft))
    yield b"h" + header({"first_stage_model.decoder.conv_in.weight": (2, 4, 1, 1), "loss.logvar": (1,)})
    yield b"h" + header({f"text_model.{name}": (2, 2) for name in TEXT} | {"text_model.final_layer_norm.bias": (2,)})
    yield b"h" + header({"a": (2**62, 0), "b": (0, 2**64 - 1)})
    yield b"h" + header({"emb_params": (1, 768)}, "F8_E4M3", 1)


def zipped(data_pkl: bytes, **more: bytes) -> bytes:
    """The archive that torch.save would make around a pickle, with one storage of 64 bytes."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        parts = {"data.pkl": data_pkl, "byteorder": b"little", "data/0": bytes(range(64)), "version": b"3\n"} | more
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)
    return memory.getvalue()


def legacy(pickle: bytes) -> bytes:
    """The older form around the same pickle."""
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    version, system = b"\x80\x02M\xe9\x03.", b"\x80\x02}."
    keys = b"\x80\x02]" + pieces.text("0") + b"a."
    return magic + version + system + pickle + keys + struct.pack("<q", 16) + bytes(range(64))


def pickles(wrap: Callable[[bytes], bytes]) -> Callable[[Path], Run]:
    """`p`, a pickle, `o`, a program of pieces; in capitals, in a file that is named like a safetensors file."""

    def begin(folder: Path) -> Run:
        read_all = reader()
        warnings.simplefilter("ignore")  # torch's, of deprecated storages

        def run(data: bytes) -> None:
            kind, rest = data[:1].lower(), data[1:]
            path = folder / ("a.ckpt" if kind == data[:1] else "a.safetensors")
            inner = pieces.pickled(rest) if kind == b"o" else rest
            path.write_bytes(wrap(inner) if kind in (b"o", b"p") else rest)
            read_all(path)

        return run

    return begin


def programs(wrap: Callable[[bytes], bytes], old: bool) -> Iterator[bytes]:
    """Valid checkpoints, and hostile ideas."""
    text, number, called, program = pieces.text, pieces.number, pieces.called, pieces.program
    tensor, named, ordered = pieces.tensor(old), pieces.named(old), called("collections OrderedDict") + b")R"
    yield b"r" + wrap(b"\x80\x02}" + named + b".")
    yield b"p\x80\x02}" + text("state_dict") + b"}" + named + b"sq\x00" + text("epoch") + number(3) + b"s."
    yield b"p\x80\x02](" + tensor + tensor + b"e."
    yield b"o" + program(b"}", text("state_dict"), b"}", named, b"s")
    yield b"O" + program(b"}", text("0"), tensor, b"s", text("module.a"), b"]", tensor, b"a", b"s")
    yield b"o" + program(ordered, named, b"}", text("items"), number(3), b"s", b"b")
    yield b"o" + program(called("os system"), text("x" * 400), b"\x85", b"R")
    yield b"o" + program(called("__builtin__ bytearray"), number(10**18), b"\x85", b"R")
    yield b"o" + program(called("_codecs encode"), text("cpu"), text("latin1"), b"\x86", b"R")
    yield b"o" + program(b"}", b"q\x00", text("model"), b"h\x00", b"s")
    yield b"o" + program(called("numpy.core.multiarray scalar"), called("numpy dtype"), b"\x85", b"R")


PICKLE_WORDS = tuple(name.replace(" ", "\n") + "\n" for name in pieces.GLOBALS)

TARGETS = {
    "sniff": Target(sniffing, heads, ("PK\3\4", "PK\5\6", "\x80\x02", "/data.pkl", "/constants.pkl", "<html")),
    "safetensors": Target(
        safetensors,
        headers,
        (*JSON_WORDS, *UNET, *TEXT, *VAE, "F64", "F8_E5M2", "F4", "18446744073709551615", "lora_up", "alpha_pattern"),
    ),
    "zip-pickle": Target(pickles(zipped), lambda: programs(zipped, old=False), PICKLE_WORDS),
    "legacy-pickle": Target(pickles(legacy), lambda: programs(legacy, old=True), PICKLE_WORDS),
}
