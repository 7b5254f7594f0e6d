"""Names beside the points of a figure, where they cover nothing. All lengths are in points of print."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from matplotlib.axes import Axes

from emoe.study.statistics import Array

SIDES = numpy.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])  # of a point, for its name
AWAY = numpy.arange(4, 200, 8)  # from the point to its name
ASTRAY, NEVER = 24, 1000  # so much further off is better than nearer to another point; than over something
LONGEST = 30  # letters
STYLE = {"textcoords": "offset points", "ha": "center", "va": "center"}
LINE = {"arrowstyle": "-", "color": "grey", "shrinkA": 0, "shrinkB": 0}


def name_points(ax: Axes, names: Sequence[str], points: Array, radii: Array) -> None:
    """Each name in the best place about its point, one after the other; a line leads to one that is further off.

    points: (n, 2), in the axes' data.  radii: (n,).
    """
    ax.autoscale_view()  # else points are not yet where they will be
    scale = 72 / ax.figure.dpi
    centres, frame = ax.transData.transform(points) * scale, ax.bbox.get_points() * scale
    taken = numpy.stack([centres - radii[:, None], centres + radii[:, None]])  # (2, boxes, 2): low and high corners
    for own, name in enumerate(names):
        text = ax.annotate(plain(name), points[own], xytext=(0, 0), **STYLE)
        half = text.get_window_extent().size * scale / 2
        begins = (radii[own] + AWAY)[:, None, None] * SIDES  # (distances, sides, 2): nearest to the point
        middles = begins + half * SIDES
        boxes = numpy.stack([centres[own] + middles - half, centres[own] + middles + half])

        bad = _covers(boxes, taken) | _outside(boxes, frame)
        astray = _nearest(centres[own] + begins, centres) != own  # looks like another point's name
        cost = AWAY[:, None] + ASTRAY * astray + NEVER * bad
        best = numpy.unravel_index(cost.argmin(), cost.shape)

        text.set_position(middles[best])
        taken = numpy.append(taken, boxes[:, best[0], best[1]][:, None], axis=1)
        if best[0] > 0:
            ax.annotate("", points[own], xytext=begins[best], arrowprops=LINE, **STYLE)


def _covers(boxes: Array, others: Array) -> Array:
    """(2, ..., 2), (2, n, 2) -> (...): whether a box lies over one of the others."""
    low, high = boxes[..., None, :]
    return ((low < others[1]) & (high > others[0])).all(axis=-1).any(axis=-1)


def _outside(boxes: Array, frame: Array) -> Array:
    """(2, ..., 2), (2, 2) -> (...)."""
    return ((boxes[0] < frame[0]) | (boxes[1] > frame[1])).any(axis=-1)


def _nearest(places: Array, centres: Array) -> Array:
    """(..., 2), (n, 2) -> (...): the number of the nearest centre."""
    return numpy.linalg.norm(places[..., None, :] - centres, axis=-1).argmin(axis=-1)


def plain(name: str) -> str:
    """Of a length that a figure has room for; one that holds dollar signs is no formula."""
    name = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return name.replace("$", r"\$")
