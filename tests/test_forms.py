"""One set of experts, in every form, gives the same numbers."""

from __future__ import annotations

import logging
from pathlib import Path

import forms
import pytest
import torch

from emoe.checkpoint.open import open_checkpoint
from emoe.pipeline import EMoE

PROMPTS = ["a red bus", "punainen bussi"]


def score(base: Path, *experts: Path, extra: str = "") -> torch.Tensor:
    """The eu of a mixture whose first expert is the base."""
    descriptors = ("photo, 8K", "drawing"), ("anime", "photo"), ("painting", "blurry")
    tables = "".join(
        f'[[expert]]\nsource = "{source}"\npositive = "{positive}"\nnegative = "{negative}"\n'
        for source, (positive, negative) in zip((base, *experts), descriptors, strict=False)
    )
    path = base.parent / "weights.toml"
    path.write_text(f'base = "{base}"\ntop = 2\n{extra}{tables}', encoding="utf-8")
    return EMoE.from_toml(path).score(PROMPTS, size=64).eu


@pytest.fixture(scope="module")
def other(states, tmp_path_factory) -> Path:
    """The second expert, in one form throughout."""
    return forms.safetensors(tmp_path_factory.mktemp("other") / "b.safetensors", forms.unet(states[1]))


@pytest.fixture(scope="module")
def expected(states, other, tmp_path_factory) -> torch.Tensor:
    eu = score(forms.COMPLETE["ldm-fp16"](tmp_path_factory.mktemp("plain"), states[0]), other)
    assert (eu > 1e-4).all()
    return eu


# one of every kind; the others differ in less
FIRST = (
    "ldm-fp16",
    "ldm-hybrid-vae",
    "ckpt-lightning",
    "ckpt-legacy",
    "prefixed-diffusers",
    "hub-old-names",
    "hub-bin",
)
FIRST = (*FIRST, "hub-shards", "hub-fp16-variant")


@pytest.mark.parametrize(
    "form", [form if form in FIRST else pytest.param(form, marks=pytest.mark.slow) for form in forms.COMPLETE]
)
def test_as_base_and_expert(states, other, expected, tmp_path, form):
    eu = score(forms.COMPLETE[form](tmp_path, states[0]), other)
    assert torch.allclose(eu, expected, rtol=1e-6)


@pytest.mark.parametrize("form", forms.UNET_ONLY)
def test_as_an_expert(states, expected, tmp_path, form):
    base = forms.COMPLETE["ldm-fp16"](tmp_path, states[0])
    eu = score(base, forms.UNET_ONLY[form](tmp_path, states[1]))
    tolerance = {"unet-bf16": 0.02, "unet-fp8": 0.2}.get(form, 1e-6)  # what those dtypes keep of a weight
    assert torch.allclose(eu, expected, rtol=tolerance)


def test_a_unet_alone_as_base_takes_another_text_encoder(states, other, expected, tmp_path):
    base = forms.UNET_ONLY["unet-diffusers"](tmp_path, states[0])
    whole = forms.COMPLETE["ldm-fp32"](tmp_path, states[0])
    eu = score(base, other, extra=f'text_encoder = "{whole}"\n')
    assert torch.allclose(eu, expected, rtol=1e-6)


def test_dtypes_are_read_from_the_header_not_the_name(states, tmp_path):
    forms.hub(tmp_path / "a", forms.wide(forms.unet(states[0])), {}, {}, variant=".fp16")
    assert set(open_checkpoint(str(tmp_path / "a"), parts=()).parts["unet"].dtypes) == {"float32"}


def test_safetensors_before_pickle_and_plain_before_variant(states, tmp_path):
    folder = tmp_path / "a"
    forms.hub(folder, {}, {}, {}, extension="bin")
    forms.hub(folder, forms.unet(states[0]), forms.text(states[0]), {}, variant=".fp16")
    assert [f.path.name for f in open_checkpoint(str(folder), parts=()).files] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    forms.hub(folder, forms.unet(states[0]), forms.text(states[0]), {})
    assert [f.path.name for f in open_checkpoint(str(folder), parts=()).files] == [
        "diffusion_pytorch_model.safetensors"
    ]


def test_junk_is_dropped_with_a_count(states, tmp_path, caplog):
    source = forms.COMPLETE["ldm-junk"](tmp_path, states[0])
    with caplog.at_level(logging.INFO, logger="emoe"):
        found = open_checkpoint(str(source))
    assert found.dropped == {"EMA copy": 688, "noise schedule": 3, "position ids": 1, "CLIP projection": 1}
    assert "left out EMA copy (tensors: 688)" in caplog.text
    assert not found.unknown


def test_names_of_no_known_use_are_a_warning(states, tmp_path, caplog):
    source = forms.safetensors(tmp_path / "a.safetensors", states[0] | {"my_notes": torch.zeros(3)})
    assert open_checkpoint(str(source)).unknown == ["my_notes"]
    assert "my_notes" in caplog.text


@pytest.mark.parametrize("hint", ["marker", "metadata", "sidecar", "scheduler", "none"])
def test_v_prediction_hints(states, tmp_path, hint):
    state = forms.below(states[0], forms.UNET)
    source = tmp_path / "a.safetensors"
    if hint == "scheduler":
        source = forms.hub(tmp_path / "a", forms.unet(states[0]), {}, {})
        (source / "scheduler").mkdir()
        (source / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    elif hint == "marker":
        forms.safetensors(source, state | {"v_pred": torch.zeros(0)})
    elif hint == "metadata":
        forms.safetensors(source, state, **{"modelspec.prediction_type": "v"})
    else:
        forms.safetensors(source, state)
    if hint == "sidecar":
        (tmp_path / "a.yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert open_checkpoint(str(source)).prediction_type == ("epsilon" if hint == "none" else "v")
