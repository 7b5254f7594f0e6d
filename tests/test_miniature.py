"""The shipped miniature: its files, its quality, its training, the demo."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy
import pytest
import torch
from PIL import Image

from emoe import EMoE, EmoeError
from emoe.__main__ import main
from emoe.checkpoint.load_unet import load_unet
from emoe.checkpoint.open import open_checkpoint
from emoe.config import read_weights
from emoe.miniature import GUIDANCE, WEIGHTS
from emoe.miniature.clip import load_clip
from emoe.miniature.judge import load_judge
from emoe.miniature.languages import caption
from emoe.miniature.render import render
from emoe.miniature.train import __main__ as training
from emoe.miniature.train import clip, forms, unet
from emoe.miniature.train.judge import EVERYTHING
from emoe.miniature.world import COLOURS, POSITIONS, SIZES, Mention, World
from emoe.shipped import SHIPPED

ALL = {"size": True, "position": True, "background": True, "style": True}


@pytest.fixture(scope="module")
def renders():
    """Real pictures of everything in the world, held out or not."""
    rng = numpy.random.default_rng(99)
    scenes = list(islice(EVERYTHING.scenes(rng), 200))
    return scenes, [render(scene, rng) for scene in scenes]


def covered(count: int, seed: int = 5):
    return list(islice(World().scenes(numpy.random.default_rng(seed)), count))


# The shipped files ----------------------------------------------------------------------------------------------------


def test_they_are_small():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000


@pytest.mark.parametrize("name", SHIPPED)
def test_each_family_scores_through_the_ordinary_loader(name):
    model = EMoE.from_toml(name)
    scores = model.score(["a red circle", "kırmızı bir daire"])
    assert (scores.eu > 0).all()
    assert scores.reading.size == 64
    assert len(model.experts) == 4
    assert scores.map.shape[-2:] == (2, 2)


@pytest.mark.parametrize("name", SHIPPED)
def test_inspect_names_every_file(name, capsys):
    weights = read_weights(name)
    for source in (weights.base, *(expert.source for expert in weights.experts)):
        assert main(["inspect", str(weights.folder / source), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == "an SD1.x checkpoint"


def test_no_two_files_of_a_family_have_the_same_form():
    for name in SHIPPED:
        weights = read_weights(name)
        told = []
        for expert in weights.experts:
            checkpoint = open_checkpoint(expert.source, start=weights.folder, parts=())
            folder = checkpoint.folder is not None
            names = sorted(file.path.name for file in checkpoint.files)
            first = min(theirs for _, theirs in checkpoint.parts["unet"].places.values())
            told.append((first.partition(".")[0], folder, len(names), names[0].removeprefix(expert.name)))
        assert len(set(told)) == 4


# Their quality --------------------------------------------------------------------------------------------------------


def test_the_judge_is_right_about_real_pictures(renders):
    scenes, pictures = renders
    told = [Mention(**ALL)] * len(scenes)
    assert load_judge().accuracy(pictures, scenes, told).mean() > 0.98


def test_the_judge_is_not_fooled(renders):
    scenes, pictures = renders
    others = scenes[1:] + scenes[:1]
    assert load_judge().accuracy(pictures, others, [Mention(**ALL)] * len(scenes)).mean() < 0.5


def test_clip_knows_which_picture_is_meant():
    rng = numpy.random.default_rng(98)
    scenes = covered(100)
    pictures = [render(scene, rng) for scene in scenes]
    texts = [caption(scene, Mention(**ALL)) for scene in scenes]
    clip = load_clip()
    assert (clip.score(pictures, texts) > clip.score(pictures, texts[1:] + texts[:1])).float().mean() > 0.95


@pytest.mark.parametrize(("attribute", "words"), [("position", POSITIONS), ("size", SIZES), ("colour", COLOURS)])
def test_clip_tells_apart_what_differs_in_one_word(attribute, words):
    """A text encoder that says nothing of places leaves the UNet nothing to draw them by."""
    rng = numpy.random.default_rng(97)
    scenes = [scene for scene in covered(60) if len(scene.things) == 1][:30]
    clip, mention = load_clip(), Mention(size=True, position=True)
    pictures = [render(scene, rng) for scene in scenes]
    told = [[caption(_with(scene, attribute, word), mention) for scene in scenes] for word in words]
    scores = torch.stack([clip.score(pictures, texts) for texts in told])
    meant = torch.tensor([words.index(getattr(scene.things[0], attribute)) for scene in scenes])
    assert (scores.argmax(0) == meant).float().mean() > 0.9


def _with(scene, attribute, word):
    return replace(scene, things=(replace(scene.things[0], **{attribute: word}),))


@pytest.mark.slow
def test_covered_prompts_are_drawn():
    """By the base alone, everything told counts."""
    weights = read_weights("miniature")
    model = EMoE.from_toml("miniature")
    model.unet = load_unet(open_checkpoint(weights.base, start=weights.folder), device="cpu", dtype=torch.float32)
    scenes, mention = covered(32), Mention(**ALL)
    drawn = model.generate(
        [caption(scene, mention) for scene in scenes], mode="mixture", guidance=GUIDANCE, batch_size=32
    )
    right = load_judge().accuracy([generation.images[0] for generation in drawn], scenes, [mention] * len(scenes))
    print(f"{right.mean():.3f} of what was told is right")
    assert right.mean() > 0.9


# Training -------------------------------------------------------------------------------------------------------------


FORMS = list(dict.fromkeys([*forms.STYLE, *forms.BOOTSTRAP]))


@pytest.mark.parametrize("write", FORMS[:2] + [pytest.param(write, marks=pytest.mark.slow) for write in FORMS[2:]])
def test_every_form_holds_the_same_weights(write, tmp_path):
    network = unet.new_unet(1)
    torch.nn.init.normal_(network.conv_out.weight)
    source = write(network, tmp_path / "expert")
    checkpoint = open_checkpoint(str(tmp_path / source), parts=())
    assert checkpoint.prediction_type == "v"
    checkpoint.parts["unet"].config |= {"norm_num_groups": 8, "attention_head_dim": 2, "sample_size": 16}
    loaded = load_unet(checkpoint, dtype=torch.float32)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float()), name


@pytest.mark.slow
def test_training_is_repeatable_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "EXAMPLES", 100)
    monkeypatch.setattr(training, "LESSON", 20)
    monkeypatch.setattr(training, "STEPS", dict.fromkeys(training.STEPS, 1))
    monkeypatch.setattr(unet, "train_unet", partial(unet.train_unet, batch=4))
    monkeypatch.setattr(clip, "train_clip", partial(clip.train_clip, batch=8))
    monkeypatch.setattr(clip, "ALIKE", 1)  # among so few scenes, no two are alike
    monkeypatch.setattr(training, "save_samples", lambda *ignored: None)  # 25 steps each
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        training.train(tmp_path / name, World())
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a" / "weights").rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path

    lines = (tmp_path / "a" / "log.jsonl").read_text()
    (tmp_path / "a" / "base.safetensors").unlink()
    training.train(tmp_path / "a", World())
    again = (tmp_path / "a" / "log.jsonl").read_text()[len(lines) :]
    assert {json.loads(line)["stage"] for line in again.splitlines()} == {"base"}  # all else was there
    with pytest.raises(EmoeError, match="another with --work"):
        training.train(tmp_path / "a", World(told=0.1))


# The demo -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_demo(tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert main(["demo", "--out", str(path)]) == 0
    out, err = capsys.readouterr()
    languages = {line.split()[0]: float(re.search(r"(?:most|English|none) +([\d.e+-]+) ", line)[1])
                 for line in out.splitlines()[1:]}  # fmt: skip
    assert list(languages) == list(World().languages)
    never = {name for name, share in World().languages.items() if not share}
    assert min(languages[name] for name in never) > max(u for name, u in languages.items() if name not in never)
    assert str(path) in err
    with Image.open(path) as sheet:
        assert len(json.loads(sheet.info["emoe"])["rows"]) == 30 * 7


def test_the_demo_replaces_nothing_else(tmp_path, capsys):
    path = tmp_path / "holiday.png"
    Image.new("RGB", (8, 8)).save(path)
    before = path.read_bytes()
    assert main(["demo", "--out", str(path)]) == 2
    assert "not of emoe's making" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main(["demo", "--out", str(tmp_path / "sheet.jpg")]) == 2
    assert ".png" in capsys.readouterr().err
