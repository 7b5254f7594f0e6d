"""Loading: streamed, strict, with every disagreement named."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import forms
import pytest
import torch

from emoe.assemble import assemble
from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.load_text import load_text
from emoe.checkpoint.load_unet import load_mixture, load_unet
from emoe.checkpoint.open import open_checkpoint
from emoe.config import read_weights
from emoe.errors import EmoeError
from emoe.moe import alike, mixed_layers, origin
from emoe.pipeline import EMoE
from emoe.unet import UNet

CPU = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def states() -> list[forms.State]:
    return [forms.state(seed) for seed in (1, 2, 3)]


def write(folder: Path, *states: forms.State) -> list[Path]:
    return [forms.safetensors(folder / f"{i}.safetensors", state) for i, state in enumerate(states)]


def weights(folder: Path, base: Path, *experts: Path, extra: str = "", keys: str = "") -> Path:
    texts = ("photo", "drawing"), ("anime", "photo"), ("painting", "blurry"), ("x", "y")
    tables = "".join(
        f'[[expert]]\nsource = "{e}"\npositive = "{p}"\nnegative = "{n}"\n{keys}\n'
        for e, (p, n) in zip(experts, texts, strict=False)
    )
    path = folder / "weights.toml"
    path.write_text(f'base = "{base}"\n{extra}\n{tables}', encoding="utf-8")
    return path


@pytest.fixture
def read(monkeypatch) -> list[tuple[str, str]]:
    """Every tensor that is read from a file: (file, name)."""
    seen: list[tuple[str, str]] = []
    original = WeightsFile.read
    monkeypatch.setattr(
        WeightsFile, "read", lambda self, name: seen.append((self.path.name, name)) or original(self, name)
    )
    return seen


def test_of_other_experts_only_the_mixed_tensors_are_read(states, tmp_path, read):
    paths = write(tmp_path, *states)
    EMoE.from_toml(weights(tmp_path, paths[0], *paths))
    with torch.device("meta"):
        layers = tuple(layer + "." for layer in mixed_layers(UNet(), "all"))
    mixed = {name for name in forms.unet(states[0]) if name.startswith(layers)}
    for path in paths[1:]:
        names = [forms.names.unet_from_ldm(n[len(forms.UNET) :]) for file, n in read if file == path.name]
        assert set(names) == mixed
    assert len(read) == len(set(read))  # and nothing twice, base and first expert included
    assert sum(file == paths[0].name for file, _ in read) == 686 + 36


def test_what_is_neither_base_nor_mixed_is_not_read(states, tmp_path, read):
    """A base that is no expert keeps its own mixed layers to itself."""
    paths = write(tmp_path, *states)
    EMoE.from_toml(weights(tmp_path, paths[0], *paths[1:]))
    names = [n for file, n in read if file == paths[0].name]
    assert not any("attn2.to_q" in n for n in names if "middle_block" not in n)
    assert len(names) < 686


def test_values_arrive_where_they_belong(states, tmp_path):
    paths = write(tmp_path, *states)
    base, *others = (open_checkpoint(str(path)) for path in paths)
    unet = load_mixture(base, [base, *others], "all", dtype=torch.float32)
    files = [forms.unet(state) for state in states]
    for name, tensor in unet.state_dict().items():
        expert, original = origin(name)
        assert torch.equal(tensor, files[expert or 0][original].float()), name


def test_nothing_keeps_the_files_open_or_mapped(states, tmp_path):
    path = write(tmp_path, states[0])[0]
    unet = load_unet(open_checkpoint(str(path)), dtype=torch.float16)
    before = unet.conv_in.weight.clone()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(100_000))
    assert torch.equal(unet.conv_in.weight, before)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert path.name not in maps.read_text()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_agree(states, tmp_path, dtype):
    paths = write(tmp_path, *states)
    toml = weights(tmp_path, paths[0], *paths)
    full = EMoE.from_toml(toml).score(["a red bus"], size=64)
    half = EMoE.from_toml(toml, dtype=str(dtype).removeprefix("torch.")).score(["a red bus"], size=64)
    assert half.eu.dtype == torch.float32
    assert torch.equal(half.weights, full.weights)
    assert torch.allclose(half.eu, full.eu, rtol={torch.float16: 0.01, torch.bfloat16: 0.1}[dtype])


# What does not go together ------------------------------------------------------------------------------------------


def fails(toml: Path) -> str:
    with pytest.raises(EmoeError) as caught:
        assemble(read_weights(toml), *CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(state: forms.State, **tensors: torch.Tensor | None) -> forms.State:
    """UNet tensors replaced, or taken away."""
    state = dict(state)
    for name, tensor in tensors.items():
        state.pop(forms.UNET + name)
        if tensor is not None:
            state[forms.UNET + name] = tensor
    return state


def test_a_missing_tensor(states, tmp_path):
    broken = changed(states[1], **{"input_blocks.5.0.in_layers.2.bias": None})
    paths = write(tmp_path, states[0], broken)
    message = fails(weights(tmp_path, paths[0], *paths))
    assert f"{paths[1]}: its UNet is not like the base's: it lacks down_blocks.1.resnets.1.conv1.bias;" in message
    assert "not like SD1.5's" in fails(weights(tmp_path, paths[1], *paths))


def test_a_tensor_too_many(states, tmp_path):
    paths = write(tmp_path, states[0], states[1] | {forms.UNET + "extra.weight": torch.zeros(2)})
    assert "it has extra.weight besides;" in fails(weights(tmp_path, paths[0], *paths))


def test_another_width(states, tmp_path):
    other = changed(states[1], **{"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3).half()})
    paths = write(tmp_path, states[0], other)
    message = fails(weights(tmp_path, paths[0], *paths))
    assert "it has conv_in.weight in the shape [32, 6, 3, 3], not [32, 4, 3, 3]" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(states, tmp_path, value):
    name = "output_blocks.5.1.transformer_blocks.0.attn2.to_k.weight"
    tensor = states[1][forms.UNET + name].clone()
    tensor[3, 3] = value
    paths = write(tmp_path, states[0], changed(states[1], **{name: tensor}))
    assert f"{name} holds weights that are not finite" in fails(weights(tmp_path, paths[0], *paths))


def test_almost_the_same_experts_are_a_warning(states, tmp_path, caplog):
    twin = {n: t + 1e-4 * t.std() * torch.randn_like(t) if t.numel() > 1 and t.is_floating_point() else t
            for n, t in forms.wide(states[0]).items()}  # fmt: skip
    paths = write(tmp_path, forms.wide(states[0]), twin, states[1])
    assemble(read_weights(weights(tmp_path, paths[0], *paths)), *CPU)
    assert "almost the same" in caplog.text
    assert caplog.text.rstrip().endswith(": expert 1 and expert 2")


def test_how_alike_is_almost_the_same():
    from conftest import mixture_of, random_unet

    base = random_unet(0)

    def moved(by):
        unet = random_unet(0)
        for parameter in unet.parameters():
            parameter += by * parameter.square().mean().sqrt() * torch.randn_like(parameter)
        return unet

    unet = mixture_of(base, [base, moved(5e-4), moved(2e-3), base])
    assert alike(unet) == [(0, 1), (0, 3), (1, 3)]


def test_predictions_that_differ_are_a_warning(states, tmp_path, caplog):
    paths = write(tmp_path, states[0], states[1] | {"v_pred": torch.zeros(0)})
    assemble(read_weights(weights(tmp_path, paths[0], *paths)), *CPU)
    assert "predicts v, the base epsilon" in caplog.text


def test_sha256_is_enforced(states, tmp_path):
    paths = write(tmp_path, *states[:2])
    assert "is another file: its hash is" in fails(weights(tmp_path, paths[0], *paths, keys=f'sha256 = "{"0" * 64}"'))
    right = hashlib.sha256(paths[0].read_bytes()).hexdigest()
    toml = weights(tmp_path, paths[0], paths[0], paths[0], keys=f'sha256 = "{right.upper()}"')
    assemble(read_weights(toml), *CPU)


def test_all_sources_are_tried_before_a_file_is_opened(states, tmp_path, monkeypatch):
    paths = write(tmp_path, states[0])
    monkeypatch.setattr(WeightsFile, "__init__", lambda self, path, inner="": pytest.fail(f"{path} was opened"))
    toml = weights(tmp_path, paths[0], paths[0], Path("gone.safetensors"))
    assert "expert 2: there is no file or folder" in fails(toml)


# Text encoders ------------------------------------------------------------------------------------------------------


def text_part(tmp_path: Path, state: forms.State, **tensors: torch.Tensor | None):
    text = forms.text(state)
    for name, tensor in tensors.items():
        text.pop(name, None)
        if tensor is not None:
            text[name] = tensor
    path = forms.safetensors(
        tmp_path / "text.safetensors", forms.below(state, forms.UNET) | forms.prefixed("te.", text)
    )
    return open_checkpoint(str(path)).parts["text_encoder"]


def test_baked_in_embeddings_are_left_out(states, tmp_path, caplog):
    name = "embeddings.token_embedding.weight"
    rows = torch.cat([forms.text(states[0])[name], torch.ones(3, 64).half()])
    text = load_text(text_part(tmp_path, states[0], **{name: rows}), None)
    assert text.model.config.vocab_size == 49408
    assert "3 baked-in embeddings are left out" in caplog.text
    whole = load_text(text_part(tmp_path, states[0]), None)
    assert torch.equal(text(["a red bus"]).states, whole(["a red bus"]).states)


def test_other_text_encoders_are_refused(states, tmp_path):
    cases = {
        "is LongCLIP": {"embeddings.position_embedding.weight": torch.zeros(248, 64)},
        "knows 60000 tokens": {"embeddings.token_embedding.weight": torch.zeros(60_000, 64)},
        "it lacks final_layer_norm.bias;": {"final_layer_norm.bias": None},
        "is incomplete": {"embeddings.token_embedding.weight": None},
        r"the tokenizer \(49408 tokens, the last one 49407\) does not go with the text encoder \(100 tokens\)": {
            "embeddings.token_embedding.weight": torch.zeros(100, 64)
        },
    }
    for sentence, tensors in cases.items():
        with pytest.raises(EmoeError, match=sentence):
            load_text(text_part(tmp_path, states[0], **tensors), None)


def test_fewer_layers_in_the_config_are_clip_skip(states, tmp_path):
    part = text_part(tmp_path, states[0])
    part.config["num_hidden_layers"] = 1
    whole = load_text(text_part(tmp_path, states[0]), None)
    skipped = load_text(part, None)
    assert len(skipped.model.encoder.layers) == 1
    assert not torch.equal(skipped(["a"]).states, whole(["a"]).states)


def test_a_base_without_a_text_encoder(states, tmp_path):
    path = forms.safetensors(tmp_path / "a.safetensors", forms.below(states[0], forms.UNET))
    assert "base: " + f"{path} has no text encoder; name one that is 64 wide under text_encoder" in fails(
        weights(tmp_path, path, path, path, extra="top=2")
    )


def test_a_text_encoder_of_another_width(states, tmp_path):
    wide = {n: torch.zeros(*(128 if s == 64 else s for s in t.shape)).half() for n, t in forms.text(states[0]).items()}
    other = forms.safetensors(tmp_path / "text_encoder" / "model.safetensors", wide)
    path = write(tmp_path, states[0])[0]
    message = fails(weights(tmp_path, path, path, path, extra=f'top = 2\ntext_encoder = "{other.parent}"'))
    assert f"text_encoder: the text encoder of {other.parent} is 128 wide, the base's UNet reads 64" in message


def test_a_tokenizer_of_ones_own(states, tmp_path):
    from emoe.text import clip_tokenizer

    path = write(tmp_path, states[0])[0]
    folder = tmp_path / "words"
    clip_tokenizer().save_pretrained(folder)
    toml = weights(tmp_path, path, path, path, extra='top = 2\ntokenizer = "words"')
    EMoE.from_toml(toml).text(["a red bus"])
    (folder / "tokenizer.json").write_text("{}")
    assert "cannot be read" in fails(toml)
    (folder / "tokenizer.json").unlink()
    assert "holds no tokenizer" in fails(toml)


# config.json --------------------------------------------------------------------------------------------------------


def test_configs_that_ask_for_another_network(states, tmp_path):
    folder = forms.hub(tmp_path / "a", forms.unet(states[0]), {}, {})
    config = folder / "unet" / "config.json"
    cases = {
        '{"act_fn": "gelu"}': "sets act_fn to 'gelu'",
        '{"attention_head_dim": [5, 10, 20, 20]}': "other heads on every level",
        '{"attention_head_dim": "8"}': "must be a positive whole number",
        '{"norm_num_groups": 0}': "must be a positive whole number",
        "[]": "is not a JSON object",
        "{": "is not JSON",
    }
    for text, sentence in cases.items():
        config.write_text(text)
        with pytest.raises(EmoeError, match=sentence):
            load_unet(open_checkpoint(str(folder), parts=()))


def test_sample_sizes(states, tmp_path):
    folder = forms.hub(tmp_path / "a", forms.unet(states[0]), {}, {})
    config = folder / "unet" / "config.json"
    cases = {
        '"_diffusers_version": "0.6.0", "sample_size": 32': 64,  # wrong in configs of that age
        '"_diffusers_version": "0.20.1", "sample_size": 32': 32,
        '"sample_size": 96': 96,
        '"x": 0': 64,
    }
    for text, size in cases.items():
        config.write_text("{" + text + "}")
        assert load_unet(open_checkpoint(str(folder), parts=())).config.sample_size == size


# Shards -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/../../x", "..", "", "a\\b", "gone.safetensors"])
def test_an_index_names_files_of_its_own_folder_alone(states, tmp_path, name):
    folder = forms.hub_sharded(tmp_path, states[0])
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(
        index.read_text().replace("diffusion_pytorch_model-00001-of-00002.safetensors", name.replace("\\", "\\\\"))
    )
    with pytest.raises(EmoeError, match=r"own folder|which .* names"):
        open_checkpoint(str(folder))


def test_an_index_without_a_map(states, tmp_path):
    folder = forms.hub_sharded(tmp_path, states[0])
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(EmoeError, match="has no weight_map"):
        open_checkpoint(str(folder))


# SegMoE folders -----------------------------------------------------------------------------------------------------


def segmoe(folder: Path, states: list[forms.State], layers: str = "all") -> Path:
    """A folder in SegMoE's form, gates included."""
    from conftest import mixture_of

    def unet(state):
        found = UNet(load_config)
        found.load_state_dict(
            {n: t.float().reshape(found.get_parameter(n).shape) for n, t in forms.unet(state).items()}
        )
        return found

    path = forms.safetensors(folder / "x.safetensors", states[0])
    load_config = load_unet(open_checkpoint(str(path)), dtype=torch.float32).config
    path.unlink()
    mixed = mixture_of(unet(states[0]), [unet(state) for state in states], layers, gated=True)
    forms.hub(folder, mixed.state_dict(), forms.text(states[0]), {})
    config = folder / "unet" / "config.json"
    experts = [{"source_model": f"{i}", "positive_prompt": f"p{i}", "negative_prompt": f"n{i}"} for i in range(3)]
    told = {"experts": experts, "num_experts_per_tok": 2, "moe_layers": layers, "type": "sd"}
    config.write_text(config.read_text().replace("{", '{"segmoe_config": ' + forms.json.dumps(told) + ",", 1))
    return folder


@pytest.mark.parametrize("layers", ["all", *(pytest.param(other, marks=pytest.mark.slow) for other in ("attn", "ff"))])
def test_a_segmoe_folder(states, tmp_path, layers):
    folder = segmoe(tmp_path / "mixture", states, layers)
    toml = tmp_path / "weights.toml"
    numbers = {}
    for gate in ("hidden", "prompt", "uniform"):
        toml.write_text(f'segmoe = "mixture"\ngate = "{gate}"\n')
        scores = EMoE.from_toml(toml).score(["a red bus"], size=64)
        numbers[gate] = scores.eu.item()
        assert (scores.weights is None) == (gate == "hidden")
    assert len(set(numbers.values())) == 3
    assert min(numbers.values()) > 1e-5
    toml.write_text('segmoe = "mixture"\n')
    assert EMoE.from_toml(toml).score(["a red bus"], size=64).eu.item() == numbers["hidden"]
    assert folder.exists()


def test_segmoe_mistakes(states, tmp_path):
    segmoe(tmp_path / "mixture", states)
    plain = write(tmp_path, states[0])[0]
    toml = tmp_path / "weights.toml"
    toml.write_text('segmoe = "mixture"\ntop = 4\n')
    assert "top is 4, but there are 3 experts" in fails(toml)
    toml.write_text(f'segmoe = "{plain}"\n')
    assert "segmoe names an SD1.x checkpoint" in fails(toml)
    assert "is a SegMoE mixture already" in fails(weights(tmp_path, plain, plain, tmp_path / "mixture"))


def test_a_segmoe_mixture_without_gates(states, tmp_path, caplog):
    folder = segmoe(tmp_path / "mixture", states)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import load_file

    forms.safetensors(path, {n: t for n, t in load_file(path).items() if not n.endswith("gate.weight")})
    toml = tmp_path / "weights.toml"
    toml.write_text('segmoe = "mixture"\n')
    assert "holds no gate vectors" in fails(toml)
    toml.write_text('segmoe = "mixture"\ngate = "prompt"\n')
    with caplog.at_level(logging.INFO):
        assert EMoE.from_toml(toml).score(["a"], size=64).weights.shape == (1, 3)
