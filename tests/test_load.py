"""Loading: streamed, strict, with every disagreement named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import forms
import numpy
import pytest
import torch
from folders import CPU, fails, weights, write

from emoe.assemble import assemble
from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.load_unet import load_mixture, load_unet
from emoe.checkpoint.open import open_checkpoint
from emoe.config import read_weights
from emoe.errors import EmoeError
from emoe.moe import alike, apart, mixed_layers, origin
from emoe.pipeline import EMoE
from emoe.unet import UNet


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
    EMoE.from_toml(weights(tmp_path, paths[0], *paths, Path("2.safetensors")))  # the last two are one file
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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_agree(states, tmp_path, dtype):
    paths = write(tmp_path, *states)
    toml = weights(tmp_path, paths[0], *paths)
    full = EMoE.from_toml(toml).score(["a red bus"], size=64)
    half = EMoE.from_toml(toml, dtype=str(dtype).removeprefix("torch.")).score(["a red bus"], size=64)
    assert half.eu.dtype == torch.float32
    assert torch.equal(half.weights, full.weights)
    assert torch.allclose(half.eu, full.eu, rtol={torch.float16: 0.01, torch.bfloat16: 0.1}[dtype])


# What does not go together --------------------------------------------------------------------------------------------


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


@pytest.mark.slow
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
    for parameter in unet.parameters():
        parameter.data *= 3e4 / parameter.abs().max()  # whose squares are beyond float16
    assert alike(unet.half()) == [(0, 1), (0, 3), (1, 3)]
    assert apart(unet).isfinite().all()


def test_how_far_experts_are_apart():
    """Beside numpy, from the experts as they were before they were mixed."""
    from conftest import mixture_of, random_unet

    def flat(unet):
        layers = tuple(layer + "." for layer in mixed_layers(unet, "all"))
        return numpy.concatenate([p.numpy().ravel() for n, p in unet.named_parameters() if n.startswith(layers)])

    experts = [random_unet(1), random_unet(2), random_unet(1)]
    for parameter in experts[2].parameters():
        parameter.data *= -3
    found = apart(mixture_of(random_unet(0), experts))
    a, b, c = map(flat, experts)
    norm = numpy.linalg.norm
    expected = [norm(x - y) / (norm(x) * norm(y)) ** 0.5 for x, y in ((a, b), (a, c), (b, c))]
    assert found[[0, 0, 1], [1, 2, 2]].tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(found, found.T)
    assert not found.diagonal().any()
    assert found[0, 2] == pytest.approx(4 / 3**0.5, rel=1e-5)


def test_predictions_that_differ_are_a_warning(states, tmp_path, caplog):
    paths = write(tmp_path, states[0], states[1] | {"v_pred": torch.zeros(0)})
    assemble(read_weights(weights(tmp_path, paths[0], *paths)), *CPU)
    assert "predicts v, the base epsilon" in caplog.text


def test_what_the_base_predicts_and_where_paths_part(states, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("emoe.assemble.gate_vectors", lambda *of: told.append(of[-1]))
    paths = write(tmp_path, states[0] | {"v_pred": torch.zeros(0)}, states[1])
    for more, split in (('split = "ff"', "ff"), ("", "attn2"), ('layers = "ff"', "ff")):
        toml = weights(tmp_path, paths[0], *paths, extra=f'gate = "hidden"\n{more}')
        found = assemble(read_weights(toml), *CPU)
        assert (found.prediction_type, found.split, told.pop()) == ("v", split, "v")


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


# config.json ----------------------------------------------------------------------------------------------------------


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


# Shards ---------------------------------------------------------------------------------------------------------------


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
