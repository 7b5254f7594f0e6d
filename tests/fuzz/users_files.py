"""What users write: a weights.toml, the sources in it, lists of prompts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

from target import JSON_WORDS, Target, refusals
from watch import Run


def toml(folder: Path) -> Run:
    from emoe.checkpoint.source import parse
    from emoe.config import read_weights

    path = folder / "weights.toml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        weights = read_weights(path)
        named = [weights.base, weights.segmoe, weights.vae, *(expert.source for expert in weights.experts)]
        refusals(*(lambda text=text: parse(text, weights.folder, weights.revision) for text in named if text))

    return run


TOML = """base = "a/b"
gate = "prompt"
top = 1
layers = "all"
split = "attn2"
temperature = 0.5
vae = "x.safetensors"
[[expert]]
source = "civitai:128713"
positive = "a"
negative = ""
sha256 = "%s"
[[expert]]
source = "owner/name@main/a.ckpt"
positive = "b"
negative = "c"
""" % ("0" * 64)


def tomls() -> Iterator[bytes]:
    yield TOML.encode()
    yield (TOML + f'[sha256]\n"owner/name@main/a.ckpt" = "{"F" * 64}"\n').encode()
    yield from (b"", b'segmoe = "a/b"\ngate = "hidden"', b'base = "a"\nexpert = 3', b"\xef\xbb\xbf" + TOML.encode())
    yield from (b"top = 0xffff", b"temperature = inf", b"base.a.a = 1979-05-27T07:32:00Z", b'"a b" = [[[{}]]]')


SOURCES = (
    "models/red.safetensors", "owner/name@main/inner/a.ckpt", "https://huggingface.co/a/b/resolve/main/c.ckpt",
    "civitai:128713", "https://civitai.com/models/4384?modelVersionId=128713", "urn:air:sd1:checkpoint:civitai:4384@1",
    "https://civitai.com/api/download/models/1?fp=fp16&token=x", "~nobody/x", "http://[::1", "../../etc/passwd", "a\0b",
)  # fmt: skip


def sources(folder: Path) -> Run:
    from emoe.checkpoint.source import parse, plain

    def run(data: bytes) -> None:
        text = data.decode(errors="surrogateescape")
        plain(text)
        parse(text, folder, "main")

    return run


PROMPT_FILES = {b"t": "txt", b"c": "csv", b"s": "tsv", b"l": "jsonl", b"j": "json"}


def prompts(folder: Path) -> Run:
    """The first letter is the kind of file."""
    from emoe.prompts import read_prompts

    def run(data: bytes) -> None:
        path = folder / f"list.{PROMPT_FILES.get(data[:1], 'txt')}"
        path.write_bytes(data[1:])
        read_prompts(path)

    return run


def lists() -> Iterator[bytes]:
    row = {"prompt": "a", "negative_prompt": "", "id": 3, "group": 2, "size": 2.5, "reference": "b", "image": "c.png"}
    yield b"ta red bus\r\n\n  two \n"
    yield b"c" + ",".join(row).encode() + b'\n"a, ""b""\nc",,x,,1,,\n\n'
    yield b"s" + "\t".join(row).encode() + b'\na, "b"\tc\t\tx\t\t1\n\n'
    yield b"sa red bus\thttps://x.example/1.jpg\r\n\thttp://x\n"
    yield b"l" + json.dumps(row).encode() + b'\n{"prompt": "\\ud800"}\n[1]\n'
    yield b"j" + json.dumps([row, "b", 3]).encode()
    yield b'j{"annotations": [{"id": 48, "caption": "A bathroom. "}, {}, 3]}'
    for key in row:
        for value in ("", "x", None, -1, 10**400, 1e308, [[]], {"a": {}}, True):
            yield b"l" + json.dumps({"prompt": "a", key: value}).encode()


def tables(folder: Path) -> Run:
    """Parquet: `r`, the file as it is; `b`, a column of the bytes between zeros, said to be text."""
    import pyarrow
    from pyarrow import parquet

    from emoe.prompts import read_prompts

    path = folder / "list.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["a"]}), path)
    read_prompts(path)  # pyarrow imports more of itself when it first reads

    def run(data: bytes) -> None:
        path.write_bytes(data[1:])
        if data[:1] == b"b":
            column = pyarrow.array(data[1:].split(b"\0"), pyarrow.binary()).view(pyarrow.string())
            parquet.write_table(pyarrow.table({"prompt": column, "id": column}), path)
        read_prompts(path)

    return run


def parquets() -> Iterator[bytes]:
    import pyarrow
    from pyarrow import parquet

    columns = (
        {"prompt": ["a", "b"], "id": [1, None], "group": ["x", None], "size": [2.5, 1.0], "other": [None, 1]},
        {"prompt": ["a"] * 50, "negative_prompt": [None] * 50, "image": ["a.png"] * 50},
        {"prompt": ["a"], "id": pyarrow.array([2**62], pyarrow.timestamp("us"))},
        {"prompt": ["a"], "size": pyarrow.array([2**60], pyarrow.duration("s"))},
        {"prompt": [{"a": [1]}]},
    )
    for compression in ("none", "snappy", "gzip", "zstd"):
        for table in columns:
            memory = io.BytesIO()
            parquet.write_table(pyarrow.table(table), memory, compression=compression)
            yield b"r" + memory.getvalue()
    yield b"ba\0b\xc3\xa4\0c"


TARGETS = {
    "weights-toml": Target(
        toml, tomls, ("[[expert]]", "[sha256]", "source", "base", "segmoe", "0x", "'''", "1e999", "\\n", "\\u0000")
    ),
    "source": Target(
        sources, lambda: (text.encode() for text in SOURCES), ("civitai", "huggingface.co", "://", "@", "?")
    ),
    "prompts": Target(
        prompts, lists, (*JSON_WORDS, "prompt", "negative_prompt", "annotations", "caption", "size", '""')
    ),
    "parquet": Target(tables, parquets, ("PAR1", "prompt", "ARROW:schema", "\x7f\x7f")),
}
