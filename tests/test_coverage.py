"""The coverage bench on a random family: its prompts are what they say, its report survives a stop."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from conftest import NEGATIVE, POSITIVE, mixture_of, random_text, random_unet
from coverage import experiment
from coverage_parts.measure import Family, Judges, Variant
from coverage_parts.prompts import ASK, Ask, draw
from coverage_parts.settings import FULL, SMALL, Setting, choose
from coverage_parts.store import Store

from emoe.errors import EmoeError
from emoe.gate import PromptGate, UniformGate
from emoe.miniature.world import World
from emoe.pipeline import EMoE
from emoe.unet import UNetConfig
from emoe.vae import VAE, VAEConfig

WORLD = World()
SPLITS = {split: dict.fromkeys(ASK, count) for split, count in (("validation", 20), ("test", 40))}

# Prompts ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts() -> dict[str, dict[str, list[Ask]]]:
    return draw(WORLD, SPLITS)


def test_splits_share_no_caption(prompts):
    told = {split: {a.prompt for asks in groups.values() for a in asks} for split, groups in prompts.items()}
    assert told["validation"].isdisjoint(told["test"])
    scenes = {split: {a.reference for asks in groups.values() for a in asks} for split, groups in prompts.items()}
    assert scenes["validation"].isdisjoint(scenes["test"])


def test_the_same_seed_asks_the_same(prompts):
    assert draw(WORLD, SPLITS) == prompts != draw(WORLD, SPLITS, seed=1)


def specs(asks: list[Ask]) -> list[list[Ask]]:
    return [[ask for ask in asks if ask.spec == i] for i in range(1 + max(ask.spec for ask in asks))]


def test_languages_tell_one_scene(prompts):
    for spec in specs(prompts["test"]["languages"]):
        assert [ask.case for ask in spec] == list(WORLD.languages)
        assert len({ask.scene for ask in spec}) == len({ask.reference for ask in spec}) == 1
        assert [ask.case for ask in spec if ask.positive] == ["Turkish", "Hungarian"]


def test_what_training_never_saw_is_where_it_should_be(prompts):
    for groups in prompts.values():
        for ask in (ask for asks in groups.values() for ask in asks):
            hidden = [thing for thing in ask.scene.things if not WORLD.covers(thing.colour, thing.shape)]
            assert bool(hidden) == (ask.case == "held out"), ask


def test_controls_of_pairs_use_the_same_words(prompts):
    asks = prompts["test"]["pairs"]
    held_out, control = (Counter() for _ in range(2))
    for ask in asks:
        (held_out if ask.positive else control).update([ask.scene.things[0].colour, ask.scene.things[0].shape])
    assert control == Counter({word: 3 * count for word, count in held_out.items()})
    for spec in specs(asks):
        assert len({(ask.scene.things[1:], ask.scene.background, ask.mention) for ask in spec}) == 1


def test_rare_and_shared_words(prompts):
    for spec in specs(prompts["test"]["rare"]):
        thing = spec[0].scene.things[0]
        assert WORLD.rare.keys() & {thing.shape, thing.colour}
    for spec in specs(prompts["test"]["shared"]):
        assert {ask.mention.language for ask in spec} == {"English", "Turkish", "Hungarian"}
        assert all(("pizza" in ask.prompt) >= ask.case.endswith("shared") for ask in spec)


# The store ----------------------------------------------------------------------------------------------------------


def test_what_is_known_is_not_measured_again(tmp_path):
    store = Store(tmp_path / "a.jsonl", {"plan": 1})
    assert store("x", lambda: {"eu": [1.0, 2 / 3]})["eu"].tolist() == [1, 0.66666667]
    again = Store(tmp_path / "a.jsonl", {"plan": 1})
    assert again("x", lambda: pytest.fail("measured again"))["eu"].tolist() == [1, 0.66666667]


def test_a_torn_line_is_measured_again(tmp_path):
    path = tmp_path / "a.jsonl"
    store = Store(path, {})
    store("x", lambda: {"eu": [1.0]})
    store("y", lambda: {"eu": [2.0]})
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    again = Store(path, {})
    assert "y" not in again.known
    again("y", lambda: {"eu": [2.0]})
    assert path.read_bytes() == whole


def test_measurements_of_something_else_are_refused(tmp_path):
    Store(tmp_path / "a.jsonl", {"plan": 1})
    with pytest.raises(EmoeError, match="other settings"):
        Store(tmp_path / "a.jsonl", {"plan": 2})


# The choice ---------------------------------------------------------------------------------------------------------


def test_settings_are_chosen_by_their_rank():
    names = [Setting("eu"), Setting("angle", "pre", 481), Setting("relative", "post", 601), Setting("eu", "post", 481)]
    silent, several = Setting("silence"), Setting("angle", "pre", 481, 4)
    ranking = [{"setting": setting} for setting in (silent, several, *names[1:], names[0], Setting(seeds=4))]
    chosen = choose(ranking)
    assert chosen["best"] == names[1]
    assert chosen["best, more seeds"] == several
    assert chosen["silence"] == silent  # a control, never the best
    assert chosen["paper, best timestep"] == names[3]
    assert chosen["relative, best timestep"] == names[2]
    assert chosen["best at the first step"] == chosen["paper"] == names[0]


def test_a_share_of_the_prompts():
    half = FULL.of(0.5)
    assert half.splits["test"]["languages"] == FULL.splits["test"]["languages"] // 2
    assert half.timesteps == FULL.timesteps
    assert FULL.of(1) == FULL
    assert min(FULL.of(1e-9).drawn.values()) == 1


# The whole ----------------------------------------------------------------------------------------------------------

TINY = UNetConfig(channels=(8, 8, 8, 8), depth=1, heads=2, groups=4, text_dim=64, sample_size=16)
PLAN = replace(
    SMALL,
    splits={"validation": {"languages": 2}, "test": dict.fromkeys(ASK, 2)},
    ablated=1,
    steps=2,
    timesteps=(961, 1),
    resamples=5,
)


@cache
def random_family(seed: int) -> tuple:
    return random_unet(seed, TINY), [random_unet(seed + i, TINY) for i in (1, 2, 3)], random_text(seed)


@cache
def load(variant: Variant, seed: int = 0) -> EMoE:
    """As `Variant.load`, of networks in memory."""
    base, experts, text = random_family(seed)
    chosen = variant.experts or (0, 1, 2)
    if variant.gate == "uniform":
        gate = UniformGate(len(chosen))
    else:
        positive, negative = ([told[i] for i in chosen] for told in (POSITIVE, NEGATIVE))
        gate = PromptGate(text(positive), text(negative), min(variant.top or 2, len(chosen)))
    unet = mixture_of(base, [experts[i] for i in chosen])
    return EMoE(unet, text, gate, variant.split or "attn2", load_vae=random_vae, downsampling=4)


@cache
def random_vae() -> VAE:
    torch.manual_seed(0)
    return VAE(VAEConfig(channels=(4, 4, 4), groups=2)).eval().requires_grad_(False)


def random_judges() -> Judges:
    def accuracy(images, scenes, mentions):
        return torch.tensor([scene.things[0].shape == "circle" for scene in scenes]).float()

    return Judges(accuracy, lambda images, texts: torch.tensor([float(len(text)) for text in texts]))


LOADS = {"one": load, "other": partial(load, seed=9)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    return work, *experiment(LOADS, PLAN, work, random_judges)


@pytest.mark.slow
def test_the_report_holds_every_section(run, tmp_path):
    _, report, rows = run
    path = report.write(tmp_path, "2026-01-01-coverage")
    text = path.read_text()
    for title in ("In short", "Languages", "Timesteps", "Other gaps in coverage", "Quartiles", "Side by side"):
        assert f"\n## {title}\n" in text
    for name in ("languages", "timesteps", "samples-one", "samples-other", "risk", "beside"):
        assert (tmp_path / f"2026-01-01-coverage-{name}.png").stat().st_size > 1000
        assert f"(2026-01-01-coverage-{name}.png)" in text
    assert "{stem}" not in text
    assert {row["family"] for row in rows} == {"one", "other"}
    json.dumps(rows)


@pytest.mark.slow
def test_a_setting_is_what_the_model_scores(run):
    work, *_ = run
    family = Family("one", LOADS["one"], draw(WORLD, PLAN.splits), WORLD, Store(work / "again.jsonl", {}), work, 2)
    told = [ask.prompt for ask in family.asks("test", "pairs")]
    scores = family.model(Variant()).score(told, seeds=2, timestep=1, batch_size=4)
    for name in ("eu", "relative"):
        found = Setting(name, timestep=1, seeds=2).of(family, "test", "pairs")
        assert found == pytest.approx(getattr(scores, name).numpy(), rel=1e-4)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_report(run, tmp_path, monkeypatch):
    """Killed after every thirty measurements, started again until it is through."""
    _, report, rows = run
    append = Store._append

    class StopError(Exception):
        pass

    left = 0

    def stop(self, record):
        nonlocal left
        left -= 1
        if left < 0:
            raise StopError
        append(self, record)

    monkeypatch.setattr(Store, "_append", stop)
    stops = 0
    while True:
        left = 30
        try:
            again, rows_again = experiment(LOADS, PLAN, tmp_path, random_judges)
            break
        except StopError:
            stops += 1
    assert stops > 1
    written = [
        one.write(tmp_path / name, "report").read_text() for name, one in (("again", again), ("at once", report))
    ]
    assert written[0] == written[1]
    assert str(rows_again) == str(rows)
