"""What is painted on the ground: asphalt, marks, crossings, sidewalks, fields. Later pieces lie on earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gwm.shards.world.junctions import Junction, mark_junctions, pave_junctions
from gwm.shards.world.paint import CROSSING, WHITE, YELLOW, Ground, Painter
from gwm.shards.world.places import Layout
from gwm.shards.world.polygons import Colour
from gwm.shards.world.road import Road

GRASS = ((112, 124, 84), (122, 128, 88), (104, 116, 82), (134, 130, 98))
FIELDS = ((170, 156, 104), (124, 128, 82), (138, 116, 90), (106, 122, 76), (152, 144, 96))


def _fields(rng: np.random.Generator, paint: Painter, layout: Layout, plain: Colour) -> None:
    """Fields or lawns of other colours beside the road, and lighter and darker spots that show how one moves."""
    country = layout.place.name in ("country road", "highway")
    if country:
        for side in (-1.0, 1.0):
            s = rng.uniform(-40, 60)
            while s < paint.road.length:
                length, near = rng.uniform(50, 160), layout.border + rng.uniform(4, 14)
                if rng.random() < 0.65:
                    far = near + rng.uniform(40, 140)
                    # A field bends with the road only on straight parts: in a tight bend it would turn inside out.
                    if np.abs(paint.road.curvature(np.linspace(s, s + length, 20))).max() * far < 0.9:
                        paint.strip(side * near, side * far, _shade(rng, FIELDS), max(s, 0.0), s + length)
                s += length + rng.uniform(5, 40)
    n = int(paint.road.length / 3)
    spots = rng.uniform(0, paint.road.length, n)
    away = (layout.border + rng.exponential(9.0, n)) * rng.choice([-1.0, 1.0], n)
    shade = np.clip(np.array(plain) + rng.uniform(-13, 11, (n, 1)), 0, 255)
    paint.patches(spots, rng.uniform(1, 5, n), away, rng.uniform(0.6, 2.5, n), shade, coarsest=0.8)


def _shade(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    chosen = np.array(colours[int(rng.integers(len(colours)))], float) + rng.uniform(-6, 6)
    return float(chosen[0]), float(chosen[1]), float(chosen[2])


def _surface(rng: np.random.Generator, paint: Painter, layout: Layout) -> Colour:
    """Sidewalks, asphalt, and the patches and covers in it. Gives the asphalt's colour."""
    place, grey = layout.place, rng.uniform(84, 108)
    asphalt = (grey, grey + 1, grey + 3)
    if place.sidewalk:
        stone = float(rng.uniform(140, 164))
        for side in (-1.0, 1.0):
            inner, outer = side * layout.paved, side * layout.border
            paint.strip(inner, outer, (stone, stone - 2, stone - 8))
            s = np.arange(0, paint.road.length, 2.0)
            joint = np.full(len(s), min(inner, outer))
            paint.patches(s, np.full(len(s), 0.05), joint, place.sidewalk, (stone - 14, stone - 16, stone - 20), 0.12)
            paint.strip(inner, inner + side * 0.18, (stone + 18, stone + 17, stone + 12), coarsest=0.7)
    paint.strip(-layout.paved, layout.paved, asphalt)
    if not place.sidewalk:
        for side in (-1.0, 1.0):
            paint.strip(side * layout.paved, side * (layout.paved + 0.6), (138, 130, 112))
    if layout.median:
        paint.strip(-layout.median / 2 + 0.5, layout.median / 2 - 0.5, _shade(rng, GRASS))
    n = int(paint.road.length / 5)
    d = rng.uniform(-layout.edge, layout.edge - 1.2, n)
    tone = grey + rng.uniform(-10, 7, (n, 1)) + np.array([0.0, 1.0, 3.0])
    paint.patches(
        rng.uniform(0, paint.road.length, n), rng.uniform(0.5, 6, n), d, rng.uniform(0.4, 1.4, n), tone, coarsest=0.4
    )
    return asphalt


def _marks(rng: np.random.Generator, paint: Painter, layout: Layout) -> None:
    """Lane marks: between the directions, between lanes, at the edges."""
    place, lines = layout.place, 0.15
    middle = YELLOW if rng.random() < 0.4 else WHITE
    fast = place.name == "highway"
    phase = float(rng.uniform(0, 9))
    mark, gap = (6.0, 9.0) if fast else (3.0, float(rng.choice([4.5, 6.0])))
    if not layout.median:
        if layout.lanes > 1 or rng.random() < 0.3:
            paint.strip(-0.24, -0.09, middle)
            paint.strip(0.09, 0.24, middle)
        else:
            paint.dashes(0.0, lines, mark, gap, phase, middle)
    for side in (-1.0, 1.0):
        for k in range(1, layout.lanes):
            paint.dashes(side * (layout.median / 2 + k * place.lane_width), lines, mark, gap, phase, WHITE)
        if layout.median:
            paint.strip(side * layout.median / 2, side * (layout.median / 2 - lines), middle)
        if not place.sidewalk or layout.parking:
            paint.strip(side * layout.edge, side * (layout.edge + lines), WHITE)


def _zebra(paint: Painter, layout: Layout, s: float) -> None:
    """A zebra crossing over all lanes with its middle at arc length `s`."""
    half, width = CROSSING
    d = np.arange(-layout.paved + 0.3, layout.paved - width, 2 * width)
    n = len(d)
    paint.patches(np.full(n, s - half), np.full(n, 2 * half), d, width, WHITE)


def paint_ground(
    rng: np.random.Generator,
    road: Road,
    layout: Layout,
    crossings: Iterable[float],
    drives: Iterable[tuple[float, float]],
    junctions: Sequence[Junction] = (),
) -> Ground:
    """Paint the ground of a road.

    crossings: arc lengths of zebra crossings; drives: (s, side) where a driveway leads from the sidewalk to a house.
    """
    paint = Painter(road)
    plain = _shade(rng, GRASS)
    _fields(rng, paint, layout, plain)
    for s, side in drives:
        paint.strip(side * layout.paved, side * (layout.border + 8), (146, 142, 136), max(s - 1.5, 0.0), s + 1.5)
    asphalt = _surface(rng, paint, layout)
    pave_junctions(paint, layout, junctions, asphalt)
    _marks(rng, paint, layout)
    mark_junctions(paint, layout, junctions, asphalt)
    for s in crossings:
        _zebra(paint, layout, s)
    return paint.done(plain)
