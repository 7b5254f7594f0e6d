"""The autoencoder is the published architecture, loads from every form, and decodes large images without seams."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import forms
import pytest
import torch
import torch.nn.functional as F
from conftest import THREE_LEVELS, TINY_VAE, close, random_vae, table
from twins import vae_twin

from emoe.checkpoint.file import WeightsFile
from emoe.checkpoint.load_vae import load_vae
from emoe.checkpoint.open import examine, open_checkpoint
from emoe.checkpoint.parts import Part
from emoe.errors import EmoeError
from emoe.vae import VAE, VAEConfig
from emoe.vae.tiles import starts, tiled

OTHERS = [
    TINY_VAE,
    VAEConfig(channels=(16, 32, 32, 64), groups=8, scaling=0.5),
    VAEConfig(channels=(24, 24, 48, 48), groups=12, latent_channels=3),
    VAEConfig(channels=(16, 32, 32), groups=8),
    VAEConfig(channels=(16, 32), groups=8),
]


def random(*shape: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Architecture -------------------------------------------------------------------------------------------------------


def test_names_and_shapes_are_those_published():
    with torch.device("meta"):
        vae = VAE()
    found = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    assert found == table("sd15_vae_diffusers")
    assert len(found) == 248
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


@pytest.mark.parametrize("config", OTHERS, ids=lambda c: "-".join(map(str, c.channels)))
@pytest.mark.parametrize("size", [(64, 64), (40, 72)], ids=str)
@torch.inference_mode()
def test_equals_diffusers(config, size):
    torch.manual_seed(0)
    theirs = vae_twin(config)
    ours = VAE(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)

    image = random(2, 3, *size)
    expected = theirs.encode(image).latent_dist.mean * config.scaling
    found = ours.encode(image)
    assert found.shape == (2, config.latent_channels, size[0] // config.downsampling, size[1] // config.downsampling)
    assert close(found, expected) < 1e-5

    latents = random(*found.shape)
    expected = theirs.decode(latents / config.scaling).sample
    found = ours.decode(latents)
    assert found.shape == image.shape
    assert close(found, expected) < 1e-5


@torch.inference_mode()
def test_scaling_multiplies_on_the_way_in_and_divides_on_the_way_out():
    once, twice = random_vae(), random_vae(replace(TINY_VAE, scaling=2 * TINY_VAE.scaling))
    image, latents = random(1, 3, 32, 32), random(1, 4, 4, 4)
    assert torch.equal(twice.encode(image), 2 * once.encode(image))
    assert torch.equal(twice.decode(2 * latents), once.decode(latents))


@torch.inference_mode()
def test_answers_in_its_own_dtype():
    vae, latents = random_vae(), random(1, 4, 4, 4).half()
    assert torch.equal(vae.decode(latents), vae.decode(latents.float()))
    half = random_vae().bfloat16()
    assert half.encode(random(1, 3, 32, 32)).dtype == torch.bfloat16
    image = half.decode(latents)
    assert image.dtype == torch.bfloat16
    assert close(image, vae.decode(latents)) < 0.05


# Tiles --------------------------------------------------------------------------------------------------------------


def test_tiles_cover_an_axis():
    for size, overlap in ((64, 16), (16, 4), (5, 2)):
        for length in range(1, 300):
            first = starts(length, size, overlap)
            assert first[0] == 0
            assert first[-1] == max(0, length - size)
            steps = [b - a for a, b in pairwise(first)]
            assert all(0 < step <= size - overlap for step in steps)
            assert max(steps, default=0) - min(steps, default=0) <= 1
            assert len(first) == 1 or (len(first) - 2) * (size - overlap) < length - size  # none too many
    assert starts(97, 64, 16) == [0, 33]
    assert starts(128, 64, 16) == [0, 32, 64]


@pytest.mark.parametrize("shape", [(40, 72), (64, 17), (7, 100), (16, 16)], ids=str)
def test_tiles_of_a_local_decoder_are_put_together_exactly(shape):
    z = random(2, 3, *shape)

    def enlarge(x):
        return F.interpolate(x, scale_factor=8.0, mode="nearest")

    assert close(tiled(enlarge, z, 8, size=16, overlap=4), enlarge(z)) < 1e-6
    assert tiled(enlarge, z.half(), 8, size=16, overlap=4).dtype == torch.float16


def test_tiles_that_disagree_fade_into_each_other():
    """As tiles do whose norms saw different things: 0, 1, 2, ... here."""
    count = iter(range(100))

    def disagree(x):
        return torch.full((1, 3, 8 * x.shape[-2], 8 * x.shape[-1]), float(next(count)))

    row = tiled(disagree, torch.zeros(1, 4, 8, 40), 8, size=16, overlap=4)[0, 0, 0]
    assert starts(40, 16, 4) == [0, 12, 24]
    assert row.unique_consecutive(return_counts=True)[1].max() == 12 * 8  # the first and the last tile, unmixed
    assert (row[0], row[-1]) == (0, 2)
    fade = torch.arange(1, 33) / 33
    assert torch.allclose(row[12 * 8 : 16 * 8], fade, atol=1e-5)
    assert torch.allclose(row[24 * 8 : 28 * 8], 1 + fade, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (12, 16), (3, 5)], ids=str)
@torch.inference_mode()
def test_one_tile_is_the_whole(shape):
    vae, z = random_vae(), random(1, 4, *shape)
    assert close(tiled(vae._decode, z, 8, size=16, overlap=4), vae._decode(z)) < 1e-6


@pytest.mark.slow
@torch.inference_mode()
def test_no_seams():
    """No step between neighbouring pixels of the tiled image is larger than those of the image in one piece."""
    vae, z = random_vae(), random(1, 4, 40, 56)
    whole, found = vae._decode(z), tiled(vae._decode, z, 8, size=24, overlap=8)
    assert found.shape == whole.shape
    assert close(found, whole) < 0.3  # random weights see far; what is near agrees
    for axis, length in ((-2, 40), (-1, 56)):
        ordinary, steps = (
            image.diff(dim=axis).abs().mean(dim=[d for d in range(4) if d != 4 + axis]) for image in (whole, found)
        )
        edges = [8 * start - 1 for start in starts(length, 24, 8)[1:]]
        edges += [8 * (start + 24) - 1 for start in starts(length, 24, 8)[:-1]]
        assert (steps[edges] < 1.2 * ordinary.max()).all()
        assert steps.max() < 1.2 * ordinary.max()


@pytest.mark.parametrize("levels", [3, 4])
@pytest.mark.parametrize("shape", [(96, 8), (8, 104), (104, 72)], ids=str)
@torch.inference_mode()
def test_large_images_are_decoded_in_tiles(shape, levels):
    vae = random_vae(VAEConfig(channels=(8,) * levels, groups=4))
    seen = []
    vae.decoder.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[-2:])))
    latents = random(1, 4, *shape)
    image = vae.decode(latents)
    assert image.shape == (1, 3, vae.config.downsampling * shape[0], vae.config.downsampling * shape[1])
    assert seen == {(96, 8): [(96, 8)], (8, 104): [(8, 64)] * 2, (104, 72): [(64, 64)] * 4}[shape]


# Loading ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state() -> forms.State:
    return forms.state(1)


@pytest.mark.parametrize("form", [form for form in forms.COMPLETE if form != "ldm-no-vae"])
def test_every_form_holds_the_same_tensors(state, tmp_path, form):
    checkpoint = open_checkpoint(str(forms.COMPLETE[form](tmp_path, state)))
    vae = load_vae(checkpoint.parts["vae"])
    assert vae.config == TINY_VAE
    expected = forms.vae(state)
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, expected[name].float().reshape(tensor.shape)), name
    assert not any(parameter.requires_grad for parameter in vae.parameters())


def part(folder: Path, state: forms.State, config: dict | None = None, **tensors: torch.Tensor | None) -> Part:
    """A VAE alone, some tensors replaced or taken away."""
    vae = forms.vae(state) | tensors
    path = forms.safetensors(folder / "vae.safetensors", {n: t for n, t in vae.items() if t is not None})
    file = WeightsFile(path)
    return Part("x.safetensors", {name: (file, name) for name in file.entries}, config or {})


@pytest.mark.parametrize("axes", [(), (1,), (1, 1)], ids=["2", "3", "4"])
def test_attention_weights_of_any_rank(state, tmp_path, axes):
    names = [name for name in forms.vae(state) if ".attentions." in name and forms.vae(state)[name].ndim == 2]
    changed = {name: forms.vae(state)[name].reshape(128, 128, *axes) for name in names}
    assert len(names) == 8
    vae = load_vae(part(tmp_path, state, **changed))
    assert torch.equal(vae.get_parameter(names[0]), forms.vae(state)[names[0]].float())


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
    ],
    ids=str,
)
def test_never_in_float16(state, tmp_path, asked, found):
    vae = load_vae(part(tmp_path, state), "cpu", asked)
    assert {parameter.dtype for parameter in vae.parameters()} == {found}
    assert torch.isfinite(vae.decode(torch.zeros(1, 4, 4, 4, dtype=asked))).all()


def fails(part: Part) -> str:
    with pytest.raises(EmoeError) as caught:
        load_vae(part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_networks_are_refused(state, tmp_path):
    like = "x.safetensors: its VAE is not like SD1.5's: it "
    cases = {
        like + "lacks decoder.conv_out.bias; use another file": {"decoder.conv_out.bias": None},
        like + "lacks post_quant_conv.weight;": {"post_quant_conv.weight": None},
        like + "has extra.weight besides;": {"extra.weight": torch.zeros(2)},
        like + "has quant_conv.weight in the shape [8, 4, 1, 1], not [8, 8, 1, 1];": {
            "quant_conv.weight": torch.zeros(8, 4, 1, 1)
        },
        like + "has decoder.conv_out.bias in torch.int32,": {"decoder.conv_out.bias": torch.zeros(3, dtype=torch.int)},
        "its VAE lacks decoder.conv_in.weight; the file is damaged": {"decoder.conv_in.weight": None},
        "its VAE's tensors have other shapes": {"decoder.conv_in.weight": torch.zeros(128)},
        "its VAE has a layer 0 wide; the file is broken": {"decoder.conv_in.weight": torch.zeros(128, 0, 3, 3)},
        "x.safetensors: its VAE has 12 levels, not 2 to 6; use another file": {
            f"encoder.down_blocks.{i}.resnets.0.conv1.weight": torch.zeros(32, 32, 3, 3) for i in range(4, 12)
        },
        "its VAE lacks encoder.down_blocks.2.resnets.0.conv1.weight; the file is damaged": {
            "encoder.down_blocks.2.resnets.0.conv1.weight": None
        },
        "a VAE 40 wide does not divide into 32 groups": {
            "encoder.down_blocks.0.resnets.0.conv1.weight": torch.zeros(40, 40, 3, 3)
        },
    }
    for sentence, tensors in cases.items():
        assert sentence in fails(part(tmp_path, state, **tensors))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(state, tmp_path, value):
    tensor = forms.vae(state)["decoder.conv_in.weight"].clone()
    tensor[3, 3, 1, 1] = value
    message = fails(part(tmp_path, state, **{"decoder.conv_in.weight": tensor}))
    assert "decoder.conv_in.weight holds weights that are not finite" in message


def test_configs(state, tmp_path):
    config = {"norm_num_groups": 16, "scaling_factor": 0.5, "act_fn": "silu", "shift_factor": None, "sample_size": 256}
    assert load_vae(part(tmp_path, state, config)).config == replace(TINY_VAE, groups=16, scaling=0.5)
    assert load_vae(part(tmp_path, state, {"norm_num_groups": None, "scaling_factor": None})).config == TINY_VAE


def test_configs_that_ask_for_another_network(state, tmp_path):
    cases = {
        "does not divide into 48 groups": {"norm_num_groups": 48},
        "sets norm_num_groups to '32'; it must be a positive whole number": {"norm_num_groups": "32"},
        "sets scaling_factor to 'x'; it must be a number like SD1.5's 0.18215": {"scaling_factor": "x"},
        "sets scaling_factor to 0;": {"scaling_factor": 0},
        "sets scaling_factor to True;": {"scaling_factor": True},
        "sets scaling_factor to nan;": {"scaling_factor": float("nan")},
        "sets act_fn to 'gelu'; only 'silu' is SD1.5": {"act_fn": "gelu"},
        "sets shift_factor to 0.1; only None is SD1.5": {"shift_factor": 0.1},
        "sets latents_mean to [0, 0, 0, 0];": {"latents_mean": [0, 0, 0, 0]},
    }
    for sentence, config in cases.items():
        assert sentence in fails(part(tmp_path, state, config))


def ldm_names(levels: int) -> list[str]:
    """Of a VAE that is SD1.5's without its lowest levels, from the published table."""
    below = [name.removeprefix(forms.VAE) for name in table("sd15_ldm") if name.startswith(forms.VAE)]
    gone = [f"encoder.down.{levels - 1}.downsample."]
    gone += [f"{side}.{i}." for side in ("encoder.down", "decoder.up") for i in range(levels, 4)]
    return [name for name in below if not name.startswith(tuple(gone))]


@pytest.mark.parametrize("prefix", ["", forms.VAE])
def test_three_levels_in_ldm_names(tmp_path, prefix):
    vae = random_vae(THREE_LEVELS)
    ours = {name: forms.names.vae_from_ldm(name, levels=3) for name in ldm_names(3)}
    assert set(ours.values()) == vae.state_dict().keys()
    assert ours["decoder.up.2.block.0.norm1.bias"] == "decoder.up_blocks.0.resnets.0.norm1.bias"
    state = {prefix + theirs: vae.state_dict()[name] for theirs, name in ours.items()}
    found = load_vae(examine(str(forms.safetensors(tmp_path / "v.safetensors", state))).parts["vae"])
    assert found.config == THREE_LEVELS
    assert all(torch.equal(tensor, vae.state_dict()[name]) for name, tensor in found.state_dict().items())


def test_a_folders_config_is_read(state, tmp_path):
    folder = forms.hub(tmp_path / "a", forms.unet(state), {}, forms.vae(state))
    (folder / "vae" / "config.json").write_text('{"scaling_factor": 0.25}')
    assert load_vae(open_checkpoint(str(folder)).parts["vae"]).config.scaling == 0.25


def test_tiles_are_blended_in_float32():
    """In bfloat16, weights of two tiles would not add up to one, and seams would show."""
    z = torch.ones(1, 4, 40, 40, dtype=torch.bfloat16)
    found = tiled(lambda t: 0.3 * t[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3), z, 2, 24, 8)
    assert (found.dtype, found.unique().numel()) == (torch.bfloat16, 1)
