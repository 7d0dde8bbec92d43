"""What is painted on the ground: asphalt, marks, crossings, sidewalks, fields. Later pieces lie on earlier ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import Floats
from gwm.shards.world.places import Layout
from gwm.shards.world.polygons import Colour
from gwm.shards.world.road import Road

GRASS = ((112, 124, 84), (122, 128, 88), (104, 116, 82), (134, 130, 98))
FIELDS = ((170, 156, 104), (124, 128, 82), (138, 116, 90), (106, 122, 76), (152, 144, 96))
WHITE, YELLOW = (214, 213, 206), (200, 164, 84)
CROSSING = (2.6, 0.5)  # m, half length of a zebra along the road, width of a stripe


@dataclass(frozen=True)
class Ground:
    """Q painted quadrilaterals in drawing order, on a plain of one colour."""

    plain: Colour
    points: Floats  # (Q, 4, 3) m, z = 0
    colour: Floats  # (Q, 3)
    coarsest: Floats  # (Q,) drawn only where a pixel is smaller than this, m


class Painter:
    """Collects pieces of paint given in road coordinates."""

    def __init__(self, road: Road) -> None:
        self.road = road
        self.stations = road.stations(0.0, road.length)
        self._points: list[Floats] = []
        self._colours: list[Floats] = []
        self._coarsest: list[Floats] = []

    def strip(
        self,
        d0: float,
        d1: float,
        colour: Colour,
        start: float = 0.0,
        stop: float | None = None,
        coarsest: float = np.inf,
    ) -> None:
        """A band between the offsets d0 and d1, along the whole road or from `start` to `stop`."""
        stop = self.road.length if stop is None else min(stop, self.road.length)
        inside = self.stations[(self.stations > start) & (self.stations < stop)]
        s = np.concatenate([[start], inside, [stop]])
        low, high = self.road.point(s, d0), self.road.point(s, d1)
        self.quads(np.stack([low[:-1], low[1:], high[1:], high[:-1]], axis=1), colour, coarsest)

    def dashes(self, d: float, width: float, mark: float, gap: float, phase: float, colour: Colour) -> None:
        """A broken line: marks of `mark` metres with gaps of `gap` metres."""
        s = np.arange(phase, self.road.length - mark, mark + gap)
        self.patches(s, np.full(len(s), mark), np.full(len(s), d - width / 2), width, colour)

    def patches(
        self,
        s: Floats,
        length: Floats,
        d: Floats,
        width: float | Floats,
        colour: Colour | Floats,
        coarsest: float = np.inf,
    ) -> None:
        """Many rectangles: each from s to s + length and from d to d + width; see `Ground` for `coarsest`."""
        corners = [(s, d), (s + length, d), (s + length, d + width), (s, d + width)]
        self.quads(np.stack([self.road.point(a, b) for a, b in corners], axis=1), colour, coarsest)

    def quads(self, xy: Floats, colour: Colour | Floats, coarsest: float = np.inf) -> None:
        """Quadrilaterals (Q, 4, 2) in world coordinates."""
        self._points.append(np.concatenate([xy, np.zeros((*xy.shape[:2], 1))], axis=-1))
        self._colours.append(np.broadcast_to(np.asarray(colour, float), (len(xy), 3)))
        self._coarsest.append(np.full(len(xy), coarsest))

    def done(self, plain: Colour) -> Ground:
        """Everything painted so far."""
        return Ground(plain, *(np.concatenate(a) for a in (self._points, self._colours, self._coarsest)))


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


def _surface(rng: np.random.Generator, paint: Painter, layout: Layout) -> None:
    """Sidewalks, asphalt, and the patches and covers in it."""
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
) -> Ground:
    """Paint the ground of a road.

    crossings: arc lengths of zebra crossings; drives: (s, side) where a driveway leads from the sidewalk to a house.
    """
    paint = Painter(road)
    plain = _shade(rng, GRASS)
    _fields(rng, paint, layout, plain)
    for s, side in drives:
        paint.strip(side * layout.paved, side * (layout.border + 8), (146, 142, 136), max(s - 1.5, 0.0), s + 1.5)
    _surface(rng, paint, layout)
    _marks(rng, paint, layout)
    for s in crossings:
        _zebra(paint, layout, s)
    return paint.done(plain)
