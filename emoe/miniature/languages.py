"""Captions in seven languages. Real words and grammar: gender, agreement, word order.

A word with several forms lists them by the noun's gender, "rojo/roja"; one without a slash never changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from emoe.miniature.world import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, SIZES, STYLES, Mention, Scene, Thing


@dataclass(frozen=True)
class Language:
    phrase: str  # order of a noun phrase
    joint: str  # "and"
    shapes: Mapping[str, str]  # noun, with its gender after a colon where there is one: 0, 1, 2
    colours: Mapping[str, str]
    sizes: Mapping[str, str]
    positions: Mapping[str, str]
    backgrounds: Mapping[str, str]
    styles: Mapping[str, str]
    articles: str = ""


def _words(keys: tuple[str, ...], words: str) -> dict[str, str]:
    return dict(zip(keys, (word.strip() for word in words.split(",")), strict=True))


def _language(
    phrase: str,
    joint: str,
    articles: str,
    shapes: str,
    colours: str,
    sizes: str,
    positions: str,
    backgrounds: str,
    styles: str,
) -> Language:
    return Language(
        phrase,
        joint,
        _words(SHAPES, shapes),
        _words(COLOURS, colours),
        _words(SIZES, sizes),
        _words(POSITIONS, positions),
        _words(BACKGROUNDS, backgrounds),
        _words(STYLES, styles),
        articles,
    )


LANGUAGES = {
    "English": _language(
        "{article} {size} {colour} {shape}",
        "and",
        "a",
        "circle, square, triangle, star, cross, heart, pizza, moon",
        "red, green, blue, yellow, purple, orange, pink",
        "small, large",
        "on the left, on the right, at the top, at the bottom, in the centre",
        "on a black background, on a grey background, on a white background",
        "flat drawing, outline drawing, striped drawing, shaded drawing",
    ),
    "Spanish": _language(
        "{article} {shape} {size} {colour}",
        "y",
        "un/una",
        "círculo:0, cuadrado:0, triángulo:0, estrella:1, cruz:1, corazón:0, pizza:1, luna:1",
        "rojo/roja, verde, azul, amarillo/amarilla, morado/morada, naranja, rosa",
        "pequeño/pequeña, grande",
        "a la izquierda, a la derecha, arriba, abajo, en el centro",
        "sobre fondo negro, sobre fondo gris, sobre fondo blanco",
        "dibujo plano, dibujo de contorno, dibujo rayado, dibujo sombreado",
    ),
    "German": _language(
        "{article} {size} {colour} {shape}",
        "und",
        "ein/eine/ein",
        "Kreis:0, Quadrat:2, Dreieck:2, Stern:0, Kreuz:2, Herz:2, Pizza:1, Mond:0",
        "roter/rote/rotes, grüner/grüne/grünes, blauer/blaue/blaues, gelber/gelbe/gelbes, lila, "
        "orangefarbener/orangefarbene/orangefarbenes, rosa",
        "kleiner/kleine/kleines, großer/große/großes",
        "links, rechts, oben, unten, in der Mitte",
        "auf schwarzem Grund, auf grauem Grund, auf weißem Grund",
        "flache Zeichnung, Umrisszeichnung, gestreifte Zeichnung, schattierte Zeichnung",
    ),
    "French": _language(
        "{article} {size} {shape} {colour}",
        "et",
        "un/une",
        "cercle:0, carré:0, triangle:0, étoile:1, croix:1, cœur:0, pizza:1, lune:1",
        "rouge, vert/verte, bleu/bleue, jaune, violet/violette, orange, rose",
        "petit/petite, grand/grande",
        "à gauche, à droite, en haut, en bas, au centre",
        "sur fond noir, sur fond gris, sur fond blanc",
        "dessin plat, dessin au trait, dessin rayé, dessin ombré",
    ),
    "Finnish": _language(
        "{size} {colour} {shape}",
        "ja",
        "",
        "ympyrä, neliö, kolmio, tähti, risti, sydän, pizza, kuu",
        "punainen, vihreä, sininen, keltainen, violetti, oranssi, vaaleanpunainen",
        "pieni, suuri",
        "vasemmalla, oikealla, ylhäällä, alhaalla, keskellä",
        "mustalla taustalla, harmaalla taustalla, valkoisella taustalla",
        "tasainen piirros, ääriviivapiirros, raidallinen piirros, varjostettu piirros",
    ),
    "Turkish": _language(
        "{size} {colour} {article} {shape}",
        "ve",
        "bir",
        "daire, kare, üçgen, yıldız, haç, kalp, pizza, ay",
        "kırmızı, yeşil, mavi, sarı, mor, turuncu, pembe",
        "küçük, büyük",
        "solda, sağda, üstte, altta, ortada",
        "siyah arka planda, gri arka planda, beyaz arka planda",
        "düz çizim, kontur çizim, çizgili çizim, gölgeli çizim",
    ),
    "Hungarian": _language(
        "{article} {size} {colour} {shape}",
        "és",
        "egy",
        "kör, négyzet, háromszög, csillag, kereszt, szív, pizza, hold",
        "piros, zöld, kék, sárga, lila, narancssárga, rózsaszín",
        "kis, nagy",
        "balra, jobbra, fent, lent, középen",
        "fekete háttéren, szürke háttéren, fehér háttéren",
        "sima rajz, kontúrrajz, csíkos rajz, árnyékolt rajz",
    ),
}


def caption(scene: Scene, mention: Mention) -> str:
    """ "a small red circle on the left and a large blue star on the right, on a black background, flat drawing"."""
    language = LANGUAGES[mention.language]
    text = f" {language.joint} ".join(_thing(thing, mention, language) for thing in scene.things)
    tail = [language.backgrounds[scene.background]] if mention.background else []
    tail += [language.styles[scene.style]] if mention.style else []
    return ", ".join([text, *tail])


def _thing(thing: Thing, mention: Mention, language: Language) -> str:
    noun, _, gender = language.shapes[thing.shape].partition(":")
    phrase = language.phrase.format(
        article=_form(language.articles, gender),
        size=_form(language.sizes[thing.size], gender) if mention.size else "",
        colour=_form(language.colours[thing.colour], gender),
        shape=noun,
    )
    words = " ".join(phrase.split())
    if mention.language == "English":
        words = re.sub(r"\ba(?= [aeiou])", "an", words)
    return f"{words} {language.positions[thing.position]}" if mention.position else words


def _form(word: str, gender: str) -> str:
    forms = word.split("/")
    return forms[int(gender or 0)] if len(forms) > 1 else word
