"""What comes with weights: an index of shards, a config.json, and what Civitai says of a version."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from target import JSON_WORDS, Target, refusals
from watch import Run, outside
from weights_files import TEXT, UNET, VAE, header, with_header

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
    from emoe.checkpoint.load_vae import downsampling_told, vae_config
    from emoe.checkpoint.settings import positive, read_json

    path = folder / "config.json"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        config = read_json(path)
        refusals(
            lambda: unet_config(UNET, config, "unet"),
            lambda: text_config(TEXT, config, "text"),
            lambda: vae_config(VAE, config, "vae"),
            lambda: downsampling_told(config, VAE, "vae"),
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


TARGETS = {
    "shards": Target(
        shards, indexes, ("../", "/", "OUTSIDE", "secret.safetensors", "outward", "loop", SHARD, "\\u0000")
    ),
    "config": Target(settings, configs, (*JSON_WORDS, *SETTINGS)),
    "civitai": Target(civitais, versions, (*JSON_WORDS, "SHA256", "sizeKB", "PickleTensor", "Pruned Model")),
}
