"""Paint on the ground: quadrilaterals in road coordinates, later ones on earlier ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import Floats
from gwm.shards.world.polygons import Colour
from gwm.shards.world.road import Road

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
