"""What leaving words out does to a prompt's uncertainty."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import fields, replace

import numpy
import pytest
import torch
from conftest import mixture_of
from scipy.stats import t

from emoe import EMoE, EmoeError
from emoe.explaining import Explanation, _change, explain, student
from emoe.gate import UniformGate
from emoe.scores import Reading

PROMPT = "a red bus  at night"
READING = Reading(seed=3, seeds=3, size=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> EMoE:
    from random_experts import write_mixture

    return EMoE.from_toml(write_mixture(tmp_path_factory.mktemp("experts")))


@pytest.fixture(scope="module")
def found(model):
    return explain(model, PROMPT, reading=READING)


def test_every_word_and_every_pair_of_neighbours(found):
    words = PROMPT.split()
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(words)]
    assert [" ".join(change.words.split()) for change in found.changes] == words + pairs
    assert [change.at for change in found.changes] == [1, 2, 3, 4, 5, 1, 2, 3, 4]


def test_words_without_spaces_between_them(model):
    found = explain(model, "赤いbus と猫", reading=Reading(seeds=2, size=64))
    assert [change.words for change in found.changes[:5]] == ["赤", "い", "bus", "と", "猫"]
    assert [change.words for change in found.changes[5:]] == ["赤い", "いbus", "bus と", "と猫"]
    logs = [model.score(["赤いbus と猫", "赤い と猫"], seed=seed, size=64).uncertainty.log() for seed in (0, 1)]
    assert found.changes[2].times == pytest.approx(math.exp(sum((a - b).item() for a, b in logs) / 2), rel=1e-3)


@pytest.mark.parametrize("asked", [{}, {"estimator": "eu-over-answer", "read_out": "pre"}])
def test_factors_are_those_of_separate_scores(model, asked):
    found = explain(model, PROMPT, reading=replace(READING, **asked))
    runs = [model.score([PROMPT, "a red at night"], seed=seed, size=64, **asked).uncertainty for seed in (3, 4, 5)]
    logs = numpy.log([(run[0] / run[1]).item() for run in runs])
    bus = next(change for change in found.changes if change.words == "bus")
    margin = 4.30 * logs.std(ddof=1) / 3**0.5  # Student's t of three values
    for ours, theirs in ((bus.times, logs.mean()), (bus.low, logs.mean() - margin), (bus.high, logs.mean() + margin)):
        assert ours == pytest.approx(math.exp(theirs), rel=2e-2)
    assert found.spread == pytest.approx(numpy.std([run[0].item() for run in runs], ddof=1), rel=1e-3)
    whole = model.score([PROMPT], seed=3, seeds=3, size=64, **asked)
    assert found.uncertainty == pytest.approx(whole.uncertainty.item(), rel=1e-4)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 11, 40])
def test_few_words_without_effect_are_clear(seeds):
    logs = torch.randn(4000, seeds, generator=torch.Generator().manual_seed(seeds), dtype=torch.float64)
    assert 0.035 < sum(_change("word", 1, one).clear for one in logs) / 4000 < 0.065


def test_student():
    degrees = range(1, 300)
    assert [student(freedom) for freedom in degrees] == pytest.approx(
        [t.ppf(0.975, freedom) for freedom in degrees], rel=2e-3
    )


def test_experts_that_always_agree(base, text, experts):
    """No word is the cause of nothing."""
    same = EMoE(mixture_of(base, [experts[0]] * 2), text, UniformGate(2))
    found = explain(same, PROMPT, reading=READING)
    assert {(change.times, change.clear) for change in found.changes} == {(1, False)}
    json.dumps(found.record(), allow_nan=False)


def test_the_parts_of_the_number(model, found):
    whole = model.score([PROMPT], seed=3, seeds=3, size=64)
    assert found.eu == pytest.approx(whole.eu.item())
    assert found.aleatoric == pytest.approx(whole.aleatoric.item(), rel=1e-4)
    assert torch.allclose(found.map, whole.map[0])
    assert found.weights == pytest.approx(whole.weights[0].tolist())
    assert found.shares == pytest.approx(whole.shares[0].tolist(), rel=1e-4)
    assert sum(found.shares) == pytest.approx(1)
    top = sorted(range(4), key=lambda i: -found.similarities[i])[:2]
    assert {i for i, weight in enumerate(found.weights) if weight} == set(top)


def test_a_negative_prompt_counts_everywhere(model, monkeypatch):
    """In the variants, in the whole prompt's numbers, and in the similarities."""
    found = explain(model, "a bus", "blurry photo", READING)
    runs = [model.score(["a bus", "bus"], "blurry photo", seed=seed, size=64) for seed in (3, 4, 5)]
    whole, without = torch.stack([run.uncertainty for run in runs]).double().T
    assert found.uncertainty == pytest.approx(whole.mean().item(), rel=1e-4)
    assert found.changes[0].times == pytest.approx((whole / without).log().mean().exp().item(), rel=1e-2)
    assert found.eu == pytest.approx(torch.stack([run.eu[0] for run in runs]).mean().item(), rel=1e-4)
    logits = model.gate.logits(model.encode(["a bus"]), model.encode(["blurry photo"]))[0]
    assert found.similarities == pytest.approx(logits.tolist())
    monkeypatch.setattr(model.gate, "temperature", 0.1)
    assert explain(model, "a bus", "blurry photo", READING).similarities == pytest.approx(logits.tolist(), rel=1e-4)


def test_mistakes_are_told_before_weights_are_loaded(run, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("emoe.pipeline.EMoE.from_weights", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "list.csv").write_text("prompt\na\n")
    for prompt, sentence in (("", "no words"), ("a " * 78, "78 words"), (str(tmp_path / "list.csv"), "is a file")):
        code, _, err = run("explain", prompt, "--weights", str(weights))
        assert (code, sentence in err, err.count("\n")) == (2, True, 1)


def test_what_cannot_be_explained(model):
    with pytest.raises(EmoeError, match="two seeds"):
        explain(model, PROMPT, reading=Reading(size=64))
    for prompt in ("a " * 78, " "):
        with pytest.raises(EmoeError, match="words"):
            explain(model, prompt, reading=READING)
    assert explain(model, "bus", reading=READING).changes == []


def test_the_command(run, weights):
    arguments = ("explain", "a red bus", "--weights", str(weights), "--size", "64", "--seeds", "2")
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "with these words it is so many times as uncertain as without" in out
    assert "of eu" in out
    assert "red bus" in out
    assert "similarity" in out
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    names = {field.name for field in fields(Explanation)} - {"reading"} | {field.name for field in fields(Reading)}
    found = json.loads(out)
    assert set(found) == names
    assert found["uncertainty"] == float(f"{found['uncertainty']:.6g}")
    assert set(found["changes"][0]) == {"words", "at", "times", "low", "high", "clear"}
    code, _, err = run("explain", "a red bus", "--weights", str(weights), "--seeds", "1")
    assert code == 2
    assert "two seeds" in err
