"""Scenes -> pictures of 64x64 pixels."""

from __future__ import annotations

from math import cos, radians, sin

import numpy
from PIL import Image, ImageDraw

from emoe.miniature.world import Scene, Thing

SIDE = 64
FINE = 4  # drawn so many times larger, then reduced: smooth edges

COLOURS = {
    "red": (220, 40, 40),
    "green": (50, 170, 60),
    "blue": (45, 85, 220),
    "yellow": (240, 215, 50),
    "purple": (130, 50, 170),
    "orange": (245, 135, 30),
    "pink": (250, 150, 190),
}
BACKGROUNDS = {"black": (20, 20, 20), "grey": (128, 128, 128), "white": (238, 238, 238)}
RADIUS = {"small": 9, "large": 14}  # pixels
PLACES = {"left": (16, 32), "right": (48, 32), "top": (32, 16), "bottom": (32, 48), "centre": (32, 32)}
JITTER = 1.5  # pixels, either way
LINE = 3  # pixels
STRIPE = 8  # pixels, a dark and a light one
DARK = 0.4


def render(scene: Scene, rng: numpy.random.Generator) -> Image.Image:
    """rng: for what no caption tells, a few pixels of jitter."""
    image = Image.new("RGB", (SIDE * FINE, SIDE * FINE), BACKGROUNDS[scene.background])
    for thing in scene.things:
        x, y = (at + float(rng.uniform(-JITTER, JITTER)) for at in PLACES[thing.position])
        image.paste(_paint(thing, scene.style, y), (0, 0), _mask(thing, scene.style, x, y))
    return image.reduce(FINE)


def _mask(thing: Thing, style: str, x: float, y: float) -> Image.Image:
    """Where the thing is."""
    radius = RADIUS[thing.size]
    points = [(FINE * (x + radius * u), FINE * (y + radius * v)) for u, v in OUTLINES[thing.shape]]
    mask = Image.new("L", (SIDE * FINE, SIDE * FINE))
    if style == "outline":
        ImageDraw.Draw(mask).line([*points, *points[:2]], fill=255, width=LINE * FINE, joint="curve")
    else:
        ImageDraw.Draw(mask).polygon(points, fill=255)
    return mask


def _paint(thing: Thing, style: str, y: float) -> Image.Image:
    """What it is filled with: its colour, darker in places."""
    rows = (numpy.arange(SIDE * FINE) + 0.5) / FINE
    light = numpy.ones_like(rows)
    if style == "striped":
        light = numpy.where(rows % STRIPE < STRIPE / 2, 1.0, DARK)
    if style == "shaded":
        down = (rows - y) / (2 * RADIUS[thing.size]) + 0.5  # 0 at its top, 1 at its bottom
        light = 1 - (1 - DARK / 2) * down.clip(0, 1)
    colour = light[:, None, None] * numpy.array(COLOURS[thing.colour])
    return Image.fromarray(colour.round().astype(numpy.uint8).repeat(SIDE * FINE, axis=1))


def _arc(start: float, end: float, radius: float = 1.0, x: float = 0.0) -> list[tuple[float, float]]:
    """Part of a circle around (x, 0); degrees, clockwise from the right."""
    return [(x + radius * cos(radians(a)), radius * sin(radians(a))) for a in numpy.linspace(start, end, 40)]


def _star(*radii: float) -> list[tuple[float, float]]:
    """Points at even angles, the first at the top."""
    angles = [radians(360 * i / len(radii)) for i in range(len(radii))]
    return [(r * sin(a), -r * cos(a)) for a, r in zip(angles, radii, strict=True)]


def _heart(angle: float) -> tuple[float, float]:
    t = radians(angle)
    return sin(t) ** 3, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 15


# Polygons around the origin; a large thing's radius is 1.
OUTLINES = {
    "circle": _arc(0, 351),
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(u, v + 0.25) for u, v in _star(1.2, 1.2, 1.2)],
    "star": _star(*[1.2, 0.5] * 5),
    "cross": [
        *[(-0.35, -1.05), (0.35, -1.05), (0.35, -0.35), (1.05, -0.35), (1.05, 0.35), (0.35, 0.35)],
        *[(0.35, 1.05), (-0.35, 1.05), (-0.35, 0.35), (-1.05, 0.35), (-1.05, -0.35), (-0.35, -0.35)],
    ],
    "heart": [_heart(angle) for angle in range(0, 360, 6)],
    "pizza": [(0, 0), *_arc(10, 280)],  # a slice has been eaten
    "moon": [*_arc(53.1, 306.9, 1.05), *_arc(278.8, 81.2, 0.85, x=0.5)],  # a crescent
}
