"""The miniature's world: what training sees of it, how captions tell it, how pictures show it."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy
import pytest

from emoe.miniature.languages import LANGUAGES, caption
from emoe.miniature.render import BACKGROUNDS as GROUNDS
from emoe.miniature.render import COLOURS as PAINTS
from emoe.miniature.render import PLACES, render
from emoe.miniature.train.clip import ALIKE, alike
from emoe.miniature.train.data import captions, draw
from emoe.miniature.train.experts import bootstrap_family, style_family
from emoe.miniature.train.tokenizer import train_tokenizer
from emoe.miniature.world import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    SHAPES,
    SIZES,
    STYLES,
    Mention,
    Scene,
    Thing,
    World,
)

WORLD = World()
STAR = Scene((Thing("star", "orange", "small", "left"),), "white", "striped")
TWO = Scene((Thing("pizza", "green", "large", "top"), Thing("square", "yellow", "small", "bottom")), "black", "flat")
ALL = {"size": True, "position": True, "background": True, "style": True}


def scenes(count: int, seed: int = 0, **how) -> list[Scene]:
    return list(islice(WORLD.scenes(numpy.random.default_rng(seed), **how), count))


def test_what_is_held_out_is_never_seen():
    things = [thing for scene in scenes(5000) for thing in scene.things]
    seen = {(thing.colour, thing.shape) for thing in things}
    assert not seen & set(WORLD.held_out_pairs)
    assert WORLD.held_out_shape not in {shape for _, shape in seen}
    assert seen == {(c, s) for c in COLOURS for s in SHAPES if WORLD.covers(c, s)}  # and all else is
    for colour, shape in WORLD.held_out_pairs:  # either of a pair is
        assert {c for c, s in seen if s == shape}
        assert {s for c, s in seen if c == colour}


def test_the_rare_is_rare():
    things = [thing for scene in scenes(5000) for thing in scene.things]
    shapes, colours = Counter(t.shape for t in things), Counter(t.colour for t in things)
    assert shapes["heart"] < 0.2 * shapes["circle"]
    assert colours["pink"] < 0.2 * colours["red"]


def test_languages_come_as_often_as_they_are_covered():
    rng = numpy.random.default_rng(0)
    count = Counter(WORLD.mention(rng).language for _ in range(20_000))
    for language, coverage in WORLD.languages.items():
        assert count[language] / count["English"] == pytest.approx(coverage, abs=0.02)
    assert not count["Turkish"]
    assert not count["Hungarian"]
    assert set(WORLD.languages) == set(LANGUAGES)


def test_a_seed_is_a_world():
    assert scenes(50, 3) == scenes(50, 3) != scenes(50, 4)
    assert (draw(WORLD, 5, 1).images == draw(WORLD, 5, 1).images).all()


def test_an_expert_sees_its_own_part():
    assert {scene.style for scene in scenes(200, styles={"outline": 1.0})} == {"outline"}
    only = {(c, s): float((c, s) == ("red", "star")) for c in COLOURS for s in SHAPES}
    assert {(t.colour, t.shape) for scene in scenes(100, keep=only) for t in scene.things} == {("red", "star")}


@pytest.mark.parametrize(
    ("language", "star", "two"),
    [
        (
            "English",
            "a small orange star on the left, on a white background, striped drawing",
            "a green pizza and a yellow square",
        ),
        (
            "Spanish",
            "una estrella pequeña naranja a la izquierda, sobre fondo blanco, dibujo rayado",
            "una pizza verde y un cuadrado amarillo",
        ),
        (
            "German",
            "ein kleiner orangefarbener Stern links, auf weißem Grund, gestreifte Zeichnung",
            "eine grüne Pizza und ein gelbes Quadrat",
        ),
        (
            "French",
            "une petite étoile orange à gauche, sur fond blanc, dessin rayé",
            "une pizza verte et un carré jaune",
        ),
        (
            "Finnish",
            "pieni oranssi tähti vasemmalla, valkoisella taustalla, raidallinen piirros",
            "vihreä pizza ja keltainen neliö",
        ),
        (
            "Turkish",
            "küçük turuncu bir yıldız solda, beyaz arka planda, çizgili çizim",
            "yeşil bir pizza ve sarı bir kare",
        ),
        (
            "Hungarian",
            "egy kis narancssárga csillag balra, fehér háttéren, csíkos rajz",
            "egy zöld pizza és egy sárga négyzet",
        ),
    ],
)
def test_captions_agree_in_gender_and_order(language, star, two):
    assert caption(STAR, Mention(language, **ALL)) == star
    assert caption(TWO, Mention(language)) == two


def test_articles_before_vowels():
    assert caption(Scene((Thing("star", "orange", "small", "left"),), "white", "flat"), Mention()) == "an orange star"


def test_every_word_of_every_language_is_there():
    for language in LANGUAGES.values():
        for words, keys in (
            (language.shapes, SHAPES),
            (language.colours, COLOURS),
            (language.sizes, SIZES),
            (language.positions, POSITIONS),
            (language.backgrounds, BACKGROUNDS),
            (language.styles, STYLES),
        ):
            assert tuple(words) == keys
            assert all(words.values())
            assert len({word.partition(":")[0] for word in words.values()}) == len(keys)  # no two are told alike
        assert "pizza" in language.shapes["pizza"].lower()  # the word that all share


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("style", STYLES)
def test_things_are_where_they_should_be(shape, style):
    for position, (x, y) in PLACES.items():
        scene = Scene((Thing(shape, "red", "large", position),), "white", style)
        picture = numpy.asarray(render(scene, numpy.random.default_rng(0))).astype(int)
        changed = numpy.abs(picture - numpy.array(GROUNDS["white"])).sum(axis=-1) > 30
        rows, columns = changed.nonzero()
        assert abs(columns.mean() - x) < 7  # a crescent hangs to one side
        assert abs(rows.mean() - y) < 5
        red, green, blue = picture[changed].mean(axis=0)
        assert red > 1.5 * max(green, blue)
        assert 0.02 < changed.mean() < 0.25


def test_styles_sizes_and_colours_differ():
    def picture(**change):
        thing = {"shape": "circle", "colour": "blue", "size": "large", "position": "centre"}
        ground = {"background": change.pop("background", "grey"), "style": change.pop("style", "flat")}
        return numpy.asarray(render(Scene((Thing(**thing | change),), **ground), numpy.random.default_rng(0)))

    for key, values in (("style", STYLES), ("size", SIZES), ("colour", COLOURS), ("background", BACKGROUNDS)):
        seen = [picture(**{key: value}) for value in values]
        assert all((a != b).any() for i, a in enumerate(seen) for b in seen[:i])
    assert set(PAINTS) == set(COLOURS)


def test_the_tokenizer_knows_the_words_of_all_languages():
    rng = numpy.random.default_rng(0)
    some = scenes(400)
    told = [text for name in LANGUAGES for text in captions(WORLD, some, rng, name)]
    tokenizer = train_tokenizer(told, 1000)
    assert tokenizer.get_vocab() == train_tokenizer(told, 1000).get_vocab()
    for text in told[::50]:
        pieces = tokenizer.tokenize(text)
        assert len(pieces) == len(text.replace(",", " ,").split())  # one token a word, whatever its coverage
        assert (
            tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).replace(" ,", ",") == text.lower()
        )
    assert len(tokenizer.tokenize("zebra crossing")) > 2  # other words fall into pieces


def test_lessons():
    style = style_family()
    assert [lesson.name for lesson in style] == list(STYLES)
    bootstrap = bootstrap_family(WORLD, seed=7)
    assert bootstrap == bootstrap_family(WORLD, seed=7)
    for lessons in (style, bootstrap):
        assert len({(lesson.positive, lesson.negative) for lesson in lessons}) == 4  # the gate can tell them apart
    for lesson in bootstrap:
        assert sum(lesson.keep.values()) == len(lesson.keep)
        assert 0.2 < sum(count == 0 for count in lesson.keep.values()) / len(lesson.keep) < 0.5
        assert not any(WORLD.covers(*concept) is False for concept in lesson.keep)


def test_scenes_alike_differ_in_places_at_most():
    scenes = list(islice(WORLD.scenes(numpy.random.default_rng(3)), 4000))
    families = alike(scenes)
    assert len(families) > 50
    for rows in families:
        assert len(rows) >= ALIKE
        told = {(tuple((t.shape, t.colour, t.size) for t in scenes[i].things), scenes[i].background, scenes[i].style)
                for i in rows}  # fmt: skip
        assert len(told) == 1
    assert len({scenes[i].things[0].position for i in families[0]}) > 1
