"""Small networks with the real topology: a forward takes milliseconds."""

from __future__ import annotations

import copy
import importlib
import logging.handlers
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import forms
import pytest
import torch
import watch
from civitai_world import World
from random_experts import write_mixture
from server import serve
from targets import TARGETS
from transformers import CLIPConfig, CLIPModel

from emoe import assemble, pipeline
from emoe.__main__ import main
from emoe.checkpoint import civitai, download, hub
from emoe.config import Weights
from emoe.gate import PromptGate, UniformGate
from emoe.moe import mix, origin
from emoe.pipeline import EMoE
from emoe.text import TextEncoder
from emoe.tokenizer import clip_tokenizer
from emoe.unet import UNet, UNetConfig
from emoe.vae import VAE, VAEConfig

TINY = UNetConfig(channels=(32, 64, 64, 64), text_dim=64, sample_size=16)
TINY_VAE = VAEConfig(channels=(32, 64, 128, 128))  # as forms.state writes
THREE_LEVELS = VAEConfig(channels=(32, 64, 128))
DATA = Path(__file__).parent / "data"

needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder in which even root can make nothing")


torch.set_num_threads(1)  # networks this small only lose by more
os.environ["OMP_NUM_THREADS"] = "1"  # and so in the processes that tests start


def hear_sigint() -> None:
    """In a process that a test starts: a shell's background job, where tests may run, passes on that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Nothing of the user's is read or written."""
    monkeypatch.setenv("EMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def random_unet(seed: int, config: UNetConfig = TINY) -> UNet:
    torch.manual_seed(seed)
    return UNet(config).eval().requires_grad_(False)


def random_vae(config: VAEConfig = TINY_VAE, seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    return VAE(config).eval().requires_grad_(False)


def mixture_of(base: UNet, experts: list[UNet], layers: str = "all", gated: bool = False) -> UNet:
    """A mixed UNet put together in memory, sharing its parts' tensors; gates, if any, are random."""
    unet = mix(copy.deepcopy(base), len(experts), layers, gated)
    owners = {i: expert.state_dict() for i, expert in enumerate(experts)} | {None: base.state_dict()}
    state = {}
    for name, tensor in unet.state_dict().items():
        expert, original = origin(name)
        state[name] = torch.randn_like(tensor) if name.endswith(".gate.weight") else owners[expert][original]
    unet.load_state_dict(state, assign=True)
    return unet.requires_grad_(False)


def of_expert(unet: UNet, layer: str, i: int) -> UNet:
    """A copy whose first block has expert i, and no other, in all mixtures of a sub-layer: what path i sees there."""
    unet = copy.deepcopy(unet)
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    for mixture in [block.ff] if layer == "ff" else [block.get_submodule(f"{layer}.to_{to}") for to in "qkv"]:
        mixture.experts = torch.nn.ModuleList([mixture.experts[i]] * len(mixture.experts))
    return unet


def random_text(seed: int = 0, width: int = 64) -> TextEncoder:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    config = CLIPTextConfig(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=1)
    return TextEncoder(CLIPTextModel(config).eval(), clip_tokenizer())


POSITIVE = ["photo of a person, 8K", "anime girl, masterpiece", "fantasy concept art", "a grungy woman"]
NEGATIVE = ["cartoon, drawing", "photo, watermark", "blurry, mutated", "nude, low quality"]


@pytest.fixture(scope="session")
def base() -> UNet:
    return random_unet(0)


@pytest.fixture(scope="session")
def experts() -> list[UNet]:
    return [random_unet(seed) for seed in range(1, 5)]


@pytest.fixture(scope="session")
def text() -> TextEncoder:
    return random_text()


@pytest.fixture(scope="session")
def model(base: UNet, experts: list[UNet], text: TextEncoder) -> EMoE:
    """Four experts, two a prompt, the prompt gate."""
    gate = PromptGate(text(POSITIVE), text(NEGATIVE), top=2)
    return EMoE(mixture_of(base, experts), text, gate)


@pytest.fixture(scope="session")
def equal(base: UNet, experts: list[UNet], text: TextEncoder) -> EMoE:
    """Four copies of one expert."""
    gate = PromptGate(text(POSITIVE), text(NEGATIVE), top=2)
    return EMoE(mixture_of(base, experts[:1] * 4), text, gate)


def uniform_model(base: UNet, experts: list[UNet], text: TextEncoder, **settings) -> EMoE:
    return EMoE(mixture_of(base, experts), text, UniformGate(len(experts)), **settings)


def sample(rows: int = 1, seed: int = 7, config: UNetConfig = TINY) -> tuple[torch.Tensor, ...]:
    """Latents, timestep and text states for a forward."""
    generator = torch.Generator().manual_seed(seed)
    size = config.sample_size
    x = torch.randn(rows, config.latent_channels, size, size, generator=generator)
    states = torch.randn(rows, 77, config.text_dim, generator=generator)
    return x, torch.tensor([961]), states


def close(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative error of a tensor: |a - b| / |b|."""
    return float(torch.linalg.vector_norm(a.double() - b.double()) / torch.linalg.vector_norm(b.double()))


def table(name: str) -> dict[str, tuple[int, ...]]:
    """A table of published tensor names and shapes."""
    lines = (DATA / f"{name}.txt").read_text().splitlines()
    rows = (line.split(" ") for line in lines if not line.startswith("#"))
    return {name: tuple(map(int, shape.split("x"))) for name, shape in rows}


# Checkpoints on disk -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def states() -> tuple[forms.State, ...]:
    """Three small checkpoints, to be written in whatever form."""
    return tuple(forms.state(seed) for seed in (1, 2, 3))


@pytest.fixture(scope="session")
def files(states: tuple[forms.State, ...], tmp_path_factory) -> list[Path]:
    """Two of them, written."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return [forms.safetensors(folder / f"{i}.safetensors", state) for i, state in enumerate(states[:2])]


# The command line ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> str:
    """What the README's first command scores with."""
    return str(write_mixture(tmp_path_factory.mktemp("experts")))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> str:
    """A small CLIP with random weights, saved as transformers saves one."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small | {"bos_token_id": 49406, "eos_token_id": 49407}
    config = CLIPConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, '
        '"crop_size": {"height": 32, "width": 32}}'
    )
    return str(folder)


def _on_disk(weights: Weights) -> tuple | None:
    """Name, size and time of all that loading could read; None if it lies elsewhere than here."""
    sources = [weights.folder / source for _, source, _ in assemble._sources(weights)]
    if not all(source.exists() for source in sources):
        return None
    folders = {weights.folder, *(source if source.is_dir() else source.parent for source in sources)}
    stats = {str(file): file.stat() for folder in folders for file in folder.rglob("*") if file.is_file()}
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in sorted(stats.items()))


def _in_memory(loaded: assemble.Assembled) -> list[tuple[int, int]]:
    """Other numbers once a tensor was replaced, or written to."""
    tensors = (tensor for network in (loaded.unet, loaded.text.model) for tensor in network.state_dict().values())
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]


KEPT: dict[tuple, tuple[assemble.Assembled, list]] = {}  # the last few, by all that they depend on


@pytest.fixture(scope="module")
def loaded_once() -> Iterator[None]:
    """For modules of the command line, whose every run reads the same files: nearly all of their time, otherwise.

    The networks that one run has read serve the next one, in a model of its own, if none of these differs: the
    description, device, dtype, the files on disk, the tensors in memory. Loading that says anything is done again,
    to be heard. Tests of loading must not ask for this.
    """
    log, load = logging.getLogger("emoe"), pipeline.assemble

    def assembled(weights: Weights, *to: object) -> assemble.Assembled:
        if (files := _on_disk(weights)) is None:
            return load(weights, *to)
        key = repr(weights), *to, log.getEffectiveLevel(), files
        if key in KEPT and KEPT[key][1] == _in_memory(KEPT[key][0]):
            return KEPT[key][0]
        ear = logging.handlers.MemoryHandler(1000)
        log.addHandler(ear)
        try:
            loaded = load(weights, *to)
        finally:
            log.removeHandler(ear)
        if not ear.buffer:
            KEPT[key] = loaded, _in_memory(loaded)
            for old in [*KEPT][:-3]:  # a hundred megabytes each
                del KEPT[old]
        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "assemble", assembled)
        yield


@pytest.fixture
def run(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


def score(*arguments: str, weights: str) -> list[str]:
    return ["score", "--weights", weights, "--size", "64", *arguments]


def commands(folder: Path, source: str) -> list[list[str]]:
    """Every command that can meet a source."""
    path = folder / "weights.toml"
    tables = "".join(f'[[expert]]\nsource = "{source}"\npositive = "{p}"\nnegative = ""\n' for p in "ab")
    path.write_text(f'base = "{source}"\n{tables}', encoding="utf-8")
    return [["inspect", source], ["inspect", "--json", source], ["score", "a red bus", "--weights", str(path)]]


@pytest.fixture
def world(tmp_path, monkeypatch) -> Iterator[World]:
    """Civitai, as `World` plays it."""
    world = World()
    monkeypatch.setenv("EMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("CIVITAI_TOKEN", "TOKEN")
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    civitai.look_up.cache_clear()
    with serve(world.ask) as site, serve(world.store) as storage:
        world.site, world.storage = site, storage
        monkeypatch.setenv("CIVITAI_ENDPOINT", site.url)
        yield world


@pytest.fixture
def at(monkeypatch, tmp_path):
    """Point the Hub's library at a server, with an empty cache."""

    def point(url: str) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        hub.repository.cache_clear()

    importlib.import_module("huggingface_hub")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return point


# Fuzzing ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> Callable[[str, bytes], None]:
    """(target, input): Find, or another error than EmoeError, if the target does what no input may bring about."""
    begun = {}

    def judge(name: str, data: bytes) -> None:
        if name not in begun:
            folder = tmp_path_factory.mktemp(name)
            begun[name] = TARGETS[name].begin(folder), folder
        watch.judge(begun[name][0], data, begun[name][1])

    return judge
