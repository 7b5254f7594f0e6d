"""`EMoE` as a program of one's own uses it: shapes, arguments, and what is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict

import numpy
import pandas
import pytest
import torch

from emoe import EMoE, EmoeError, Recipe

pytestmark = pytest.mark.usefixtures("loaded_once")

PROMPTS = ["a red bus", "punainen bussi", "a cat"]


def test_shapes(weights):
    scores = EMoE.from_toml(weights).score(PROMPTS, size=128, seeds=2, batch_size=2)
    assert scores.eu.shape == scores.uncertainty.shape == scores.relative.shape == scores.aleatoric.shape == (3,)
    assert scores.map.shape == (3, 2, 2)
    assert scores.weights.shape == (3, 4)
    assert torch.allclose(scores.map.mean(dim=(1, 2)), scores.eu)
    assert torch.allclose(scores.uncertainty, (128 * 2 * 2) ** 0.5 * scores.eu)
    assert scores.records()[2]["eu"] == float(f"{scores.eu[2]:.6g}") != scores.eu[2].item()


@pytest.mark.slow
def test_the_default_size_is_the_checkpoints_own(weights):
    assert EMoE.from_toml(weights).score("a cat").map.shape == (1, 8, 8)


def test_wrong_arguments(weights):
    model = EMoE.from_toml(weights)
    for arguments, sentence in (
        (([],), "no prompts"),
        (({"prompt": ["a"]},), "prompts is {'prompt': .*; give a text, or a list of them"),
        (({"a", "b"},), "give a text, or a list of them"),
        ((pandas.DataFrame({"prompt": ["a"]}),), "of a table, one column"),
        ((5,), "prompts is 5"),
        ((None,), "prompts is None"),
        ((["a"], 5), "negative is 5"),
        ((["a"], [3]), "prompt 3 is not text"),
        (([3],), "prompt 3 is not text"),
        ((["a", "b"], ["x"]), r"differ in number \(2, 1\)"),
    ):
        with pytest.raises(EmoeError, match=sentence):
            model.score(*arguments)
    for settings, sentence in (
        ({"read_out": "end"}, "read_out is 'end'"),
        ({"estimator": "best"}, "estimator is 'best'"),
        ({"seed": 5, "seeds": 0}, "seeds is 0"),
        ({"seeds": True}, "seeds is True"),
        ({"seed": 2**63 - 1, "seeds": 2}, "seed is 9223372036854775807"),
        ({"size": 72}, "size is 72"),
        ({"size": 8256}, "size is 8256"),
        ({"timestep": -1}, "timestep is -1"),
        ({"timestep": 1000}, "timestep is 1000"),
    ):
        with pytest.raises(EmoeError, match=sentence):
            model.score(["a"], **settings)
    with pytest.raises(EmoeError, match="dtype is 'float8'"):
        EMoE.from_toml(weights, dtype="float8")
    with pytest.raises(EmoeError, match="no prompts to draw"):
        model.generate([])


def test_prompts_at_a_time(weights):
    model = EMoE.from_toml(weights)
    assert [model.batch_size(size, 16) for size in (None, 1, 7)] == [1, 1, 7]  # on a CPU
    both = model.score(["a cat", "a dog"], ["blurry photo", ""], size=64, batch_size=2).uncertainty
    alone = [model.score(*pair, size=64).uncertainty.item() for pair in (("a cat", "blurry photo"), ("a dog", ""))]
    assert both.tolist() == pytest.approx(alone, rel=1e-4)
    one, three = (model.score(PROMPTS, size=64, batch_size=size) for size in (1, 3))
    assert one.shares.shape == (3, 4)
    assert torch.allclose(one.shares, three.shares, rtol=1e-3)
    assert model.score("a", size=64, timestep=0).uncertainty > 0


def test_three_long_prompts_are_named(weights, caplog):
    model = EMoE.from_toml(weights)
    model.encode([f"{i} " + "word " * 80 for i in range(5)])
    model.encode(["0 " + "word " * 80, "(a red:1.2) bus", "(a red:1.2) cat"])
    said = [record.getMessage() for record in caplog.records]
    assert ["longer than 77 tokens" in line for line in said] == [True] * 3 + [False]
    assert "if there are others" in said[2]
    assert "'(a red:1.2) bus'" in said[3]


def test_numpys_numbers_are_numbers(weights):
    model, seed = EMoE.from_toml(weights), numpy.arange(4)[3]
    ours, theirs = (model.score(pandas.Series(["a"]), seed=x, size=64).records() for x in (3, seed))
    assert ours == theirs
    recipe = Recipe(seed=seed, steps=numpy.int64(3), guidance=numpy.float32(2.5))
    assert json.dumps(asdict(recipe)) == json.dumps(asdict(Recipe(seed=3, steps=3, guidance=2.5)))


def test_a_score_is_of_the_dtype_that_was_loaded(weights):
    model = EMoE.from_toml(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(EmoeError, match="autocast is on"):
        model.score("a", size=64)
    model.unet = copy.deepcopy(model.unet).half()
    with pytest.raises(EmoeError, match="was converted"):
        model.score("a", size=64)


def test_overflow_is_an_error_not_a_number(weights, monkeypatch):
    model = EMoE.from_toml(weights)
    last = model.unet.mid_block.resnets[1].conv2
    monkeypatch.setattr(last, "bias", torch.nn.Parameter(last.bias / 0, requires_grad=False))
    with pytest.raises(EmoeError, match="activations are not finite"):
        model.score(["a cat"], size=64)
