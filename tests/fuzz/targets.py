"""What reads strangers' bytes, one target a surface: bytes -> nothing, or an EmoeError.

The first byte of many inputs is a letter that says what the rest is: `r`, the file as it is; others, a part of a file
that is put into an otherwise valid one, so that changed bytes get past checksums and lengths.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pieces
from watch import Run, check_message, outside

from emoe.errors import EmoeError

TABLES = Path(__file__).parents[1] / "data"


class Target(NamedTuple):
    begin: Callable[[Path], Run]  # takes a folder for its files
    seeds: Callable[[], Iterator[bytes]]  # small, and most of them valid
    words: tuple[str, ...] = ()  # that mutations may put in


def refusals(*attempts: Callable[[], object]) -> None:
    """Make every attempt, also after one is refused."""
    for attempt in attempts:
        try:
            attempt()
        except EmoeError as error:
            check_message(error)


# Weights files ------------------------------------------------------------------------------------------------------

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
    from emoe.checkpoint.file import WeightsFile
    from emoe.checkpoint.parts import Part
    from emoe.checkpoint.report import report

    def read_all(path: Path) -> None:
        if refused := report(str(path))["refused"]:
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


# What comes with the weights ----------------------------------------------------------------------------------------

INDEX = "diffusion_pytorch_model.safetensors.index.json"
SHARD = "diffusion_pytorch_model-00001-of-00002.safetensors"


def shards(folder: Path) -> Run:
    """A folder with two shards, links of all kinds, a pipe, and an index that the input writes.

    `OUTSIDE` in an input is the path of a folder that no index may reach.
    """
    from emoe.checkpoint.open import examine

    place = folder / "model" / "unet"
    place.mkdir(parents=True)
    secret = outside(folder) / "secret.safetensors"
    secret.parent.mkdir()
    (place / "inner").mkdir()
    for path in (secret, place / SHARD, place / "b.safetensors", place / "inner" / "c.safetensors"):
        path.write_bytes(with_header(header({path.name: (2,)})))
    links = {"link": place / "b.safetensors", "outward": secret, "loop": place / "loop", "gone": place / "nothing"}
    for name, goal in links.items():
        (place / name).symlink_to(goal)
    os.mkfifo(place / "pipe")

    def run(data: bytes) -> None:
        kind, rest = data[:1], data[1:].replace(b"OUTSIDE", bytes(secret.parent))
        if kind == b"n":
            names = rest.decode(errors="surrogateescape").split("\n")
            rest = json.dumps({"weight_map": {f"t{i}": name for i, name in enumerate(names)}}).encode()
        (place / INDEX).write_bytes(rest)
        examine(str(folder / "model"), parts=("unet",))

    return run


def indexes() -> Iterator[bytes]:
    yield b"r" + json.dumps({"metadata": {}, "weight_map": {"a": SHARD, "b": "b.safetensors"}}).encode()
    yield from (b'r{"weight_map": []}', b'r{"weight_map": {"a": 3}}', b"r[]", b"r" + b"[" * 5000)
    for names in (
        SHARD,
        "b.safetensors\nlink",
        "../unet/b.safetensors",
        "OUTSIDE/secret.safetensors",
        "outward",
        "loop",
    ):
        yield b"n" + names.encode()
    for names in (
        "gone",
        "pipe",
        "inner",
        "inner/c.safetensors",
        "..",
        ".",
        "",
        "a\\b",
        "~",
        "a\0b",
        "../../../x",
        "/etc",
    ):
        yield b"n" + names.encode()


def settings(folder: Path) -> Run:
    """A config.json beside valid weights, as every network reads it."""
    from emoe.checkpoint.architecture import tells_all, unet_config
    from emoe.checkpoint.load_text import text_config
    from emoe.checkpoint.load_vae import pixels_told, vae_config
    from emoe.checkpoint.settings import positive, read_json

    path = folder / "config.json"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        config = read_json(path)
        refusals(
            lambda: unet_config(UNET, config, "unet"),
            lambda: text_config(TEXT, config, "text"),
            lambda: vae_config(VAE, config, "vae"),
            lambda: pixels_told(config, VAE, "vae"),
            lambda: tells_all(UNET, config),
            lambda: positive(config, "num_experts_per_tok", 2, "unet"),
        )

    return run


SETTINGS = {
    "act_fn": "silu", "norm_eps": 1e-5, "flip_sin_to_cos": True, "attention_head_dim": 8, "norm_num_groups": 32,
    "num_attention_heads": 1, "sample_size": 64, "_diffusers_version": "0.6.0", "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5, "num_hidden_layers": 1, "block_out_channels": [32, 64], "scaling_factor": 0.18215,
    "shift_factor": None, "time_embedding_act_fn": None, "num_experts_per_tok": 2,
}  # fmt: skip


def configs() -> Iterator[bytes]:
    yield json.dumps(SETTINGS).encode()
    for key, value in SETTINGS.items():
        for changed in (value, None, [8, 8], {"a": [1]}, -1, 10**18, "8"):
            yield json.dumps({key: changed}).encode()
        yield f'{{"{key}": {"[" * 60}{"]" * 60}}}'.encode()


# What users write ---------------------------------------------------------------------------------------------------


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


PROMPT_FILES = {b"t": "txt", b"c": "csv", b"l": "jsonl", b"j": "json"}


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


# What is read again -------------------------------------------------------------------------------------------------


def records(folder: Path) -> Run:
    from emoe.records import RecordFile

    path = folder / "scores.jsonl"
    rows = [{"id": i, "prompt": text, "negative_prompt": ""} for i, text in enumerate("ab")]

    def run(data: bytes) -> None:
        path.write_bytes(data)
        file = RecordFile(path, rows)
        refusals(lambda: file.check({"seed": 0, "mixture": "12345678"}))
        file.keep(1)

    return run


def scores() -> Iterator[bytes]:
    record = {"id": 0, "prompt": "a", "negative_prompt": "", "eu": 1.5, "seed": 0, "mixture": "12345678"}
    whole = json.dumps(record, separators=(",", ":")).encode()
    other = whole.replace(b'0,"prompt":"a"', b'1,"prompt":"b"')
    yield from (
        b"",
        whole + b"\n",
        whole + b"\n" + other + b"\n",
        whole + b"\n" + other[:50],
        whole[:20],
        b"hello",
        b"[1]\n",
    )
    for value in (None, [[1]], "x\\ny", 10**30, {}):
        yield json.dumps(record | {"seed": value}).encode() + b"\n"


def references(folder: Path) -> Run:
    from emoe.reference import load_reference

    path = folder / "reference.json"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        reference = load_reference(path)
        reference.percentile(1.5)
        reference.check("x", reference.reading)

    return run


def calibrated() -> Iterator[bytes]:
    told = {"emoe": "reference", "mixture": "x", "seed": 0, "seeds": 1, "timestep": 961, "size": 64}
    told |= {"read_out": "post", "estimator": "eu", "uncertainty": [0.5, 1.0, 2.0]}
    yield json.dumps(told).encode()
    for key in told:
        for value in (None, 10**400, [[1]], "x", {}):
            yield json.dumps(told | {key: value}).encode()
    yield json.dumps(told).replace("2.0", "1e999").encode()


def civitais(folder: Path) -> Run:
    """What Civitai says of a model version."""
    from emoe.checkpoint import civitai
    from emoe.checkpoint.source import Civitai

    look_up = civitai.look_up.__wrapped__  # without its memory of what was asked before

    def run(data: bytes) -> None:
        try:
            told = {"host": "https://civitai.com", "version": json.loads(data)}
        except (ValueError, RecursionError):
            return
        with mock.patch.object(civitai, "_metadata", return_value=told), mock.patch.dict(os.environ, cache):
            look_up(Civitai(1, wanted=(("fp", "fp16"),)))
            look_up(Civitai(1))

    cache = {"EMOE_CACHE": str(folder / "cache")}
    return run


def versions() -> Iterator[bytes]:
    file = {"id": 5, "name": "a.safetensors", "type": "Model", "sizeKB": 2.5, "hashes": {"SHA256": "0" * 64}}
    file |= {"metadata": {"format": "SafeTensor", "size": "pruned", "fp": "fp16"}}
    version = {"id": 1, "baseModel": "SD 1.5", "baseModelType": "Standard", "files": [file]}
    version |= {"model": {"name": "x", "type": "Checkpoint"}}
    yield json.dumps(version).encode()
    for value in (None, 10**400, [[1]], "x\ny", {}, -1):
        for key in version:
            yield json.dumps(version | {key: value}).encode()
        for key in file:
            yield json.dumps(version | {"files": [file | {key: value}]}).encode()


JSON_WORDS = ('{"', '":', "null", "true", "1e999", "-1", "[[[[", "]]]]", "NaN", "\\ud800", "\\n", "0" * 40)

TARGETS = {
    "sniff": Target(sniffing, heads, ("PK\3\4", "PK\5\6", "\x80\x02", "/data.pkl", "/constants.pkl", "<html")),
    "safetensors": Target(
        safetensors,
        headers,
        (*JSON_WORDS, *UNET, *TEXT, *VAE, "F64", "F8_E5M2", "F4", "18446744073709551615", "lora_up"),
    ),
    "zip-pickle": Target(pickles(zipped), lambda: programs(zipped, old=False), PICKLE_WORDS),
    "legacy-pickle": Target(pickles(legacy), lambda: programs(legacy, old=True), PICKLE_WORDS),
    "shards": Target(
        shards, indexes, ("../", "/", "OUTSIDE", "secret.safetensors", "outward", "loop", SHARD, "\\u0000")
    ),
    "config": Target(settings, configs, (*JSON_WORDS, *SETTINGS)),
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
    "records": Target(records, scores, (*JSON_WORDS, "mixture", "seed")),
    "reference": Target(references, calibrated, (*JSON_WORDS, "uncertainty", "size", "seeds")),
    "civitai": Target(civitais, versions, (*JSON_WORDS, "SHA256", "sizeKB", "PickleTensor", "Pruned Model")),
}
