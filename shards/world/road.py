"""The road's centreline: a clothoid-like curve, and coordinates along it.

A road is described by its curvature over arc length: straights, and bends whose curvature rises and falls linearly.
Points beside it have coordinates (s, d): arc length in metres and offset to the left in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import Floats
from gwm.shards.world.polygons import Ints

STEP = 0.5  # m between samples of the centreline


@dataclass(frozen=True)
class Bends:
    """How a kind of place bends its roads. Lengths in metres, angles in radians."""

    radius: tuple[float, float]  # smallest and largest radius of a bend
    turn: tuple[float, float]  # smallest and largest change of heading in one bend
    straight: tuple[float, float]  # shortest and longest straight between two bends
    ease: float  # length over which curvature rises from zero, per radian of turn at the smallest radius
    clearance: float  # the road stays this far from its own earlier parts


class Road:
    """A centreline sampled every `STEP` metres, s = 0 .. length."""

    def __init__(self, curvature: Floats, x: float = 0.0, y: float = 0.0, heading: float = 0.0) -> None:
        """`curvature` (N,) in 1/m at every sample, left positive; the road starts at (x, y) in direction `heading`."""
        between = (curvature[:-1] + curvature[1:]) / 2
        self.curvatures = curvature
        self.headings = heading + np.concatenate([[0.0], np.cumsum(between) * STEP])
        middle = (self.headings[:-1] + self.headings[1:]) / 2
        self.xs = x + np.concatenate([[0.0], np.cumsum(np.cos(middle)) * STEP])
        self.ys = y + np.concatenate([[0.0], np.cumsum(np.sin(middle)) * STEP])
        self.length = (len(curvature) - 1) * STEP
        self._coarse = np.stack([self.xs, self.ys, np.arange(len(self.xs)) * STEP], axis=-1)[:: int(2.0 / STEP)]

    def _between(self, s: Floats | float) -> tuple[Ints, Floats]:
        """The samples before arc lengths `s`, and how far on (0 .. 1) towards the next; the ends hold beyond them."""
        at = np.minimum(np.maximum(np.asarray(s, float) / STEP, 0.0), len(self.xs) - 1.000001)
        i = at.astype(np.int64)
        return i, at - i

    def curvature(self, s: Floats | float) -> Floats:
        """Curvature in 1/m at arc lengths `s`, left positive."""
        return _blend(self.curvatures, *self._between(s))

    def heading(self, s: Floats | float) -> Floats:
        """Direction in rad at arc lengths `s`, continuous (not wrapped)."""
        return _blend(self.headings, *self._between(s))

    def point(self, s: Floats | float, d: Floats | float = 0.0) -> Floats:
        """World points (..., 2) at arc lengths `s` and offsets `d`, broadcast against each other."""
        i, share = self._between(s)
        heading = _blend(self.headings, i, share)
        x = _blend(self.xs, i, share) - d * np.sin(heading)
        y = _blend(self.ys, i, share) + d * np.cos(heading)
        return np.stack([x, y], axis=-1)

    def locate(self, x: float, y: float, near: float, reach: float = 12.0) -> tuple[float, float]:
        """Coordinates (s, d) of a world point whose arc length is within `reach` metres of `near`."""
        low = max(int((near - reach) / STEP), 0)
        high = min(int((near + reach) / STEP) + 2, len(self.xs))
        i = low + int(np.argmin((self.xs[low:high] - x) ** 2 + (self.ys[low:high] - y) ** 2))
        c, n = np.cos(self.headings[i]), np.sin(self.headings[i])
        dx, dy = x - self.xs[i], y - self.ys[i]
        along, d = dx * c + dy * n, dy * c - dx * n
        return i * STEP + float(along / (1 - self.curvatures[i] * d)), float(d)

    def stations(self, start: float, stop: float) -> Floats:
        """Arc lengths from `start` to `stop`, denser where the road bends: at most 10 m and 4 degrees apart."""
        grid = np.arange(start, stop, STEP)
        pace = np.maximum(np.abs(self.curvature(grid)) / np.radians(4.0), 1 / 10.0) * STEP
        marks = np.floor(np.cumsum(pace))
        keep = np.concatenate([[True], marks[1:] > marks[:-1]])
        return np.append(grid[keep], stop)

    def distance(self, points: Floats, skip: tuple[float, float] | None = None) -> Floats:
        """Distances (P,) in metres of `points` (P, 2) to the centreline, leaving out the stretch `skip` of s."""
        x, y, s = self._coarse.T
        if skip is not None:
            use = (s < skip[0]) | (s > skip[1])
            x, y = x[use], y[use]
        squared = (points[:, :1] - x) ** 2 + (points[:, 1:] - y) ** 2
        nearest: Floats = np.sqrt(squared.min(axis=1, initial=np.inf))
        return nearest


def _blend(values: Floats, i: Ints, share: Floats) -> Floats:
    """Linear interpolation between values[i] and values[i + 1]."""
    out: Floats = values[i] + (values[i + 1] - values[i]) * share
    return out


def _bend(rng: np.random.Generator, bends: Bends) -> Floats:
    """Curvature samples of one straight and one bend to the left."""
    low, high = bends.radius
    radius = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    turn = rng.uniform(*bends.turn) * min(1.0, (2.5 * low / radius) ** 0.5)
    straight = np.zeros(int(rng.uniform(*bends.straight) / STEP))
    ramp = max(2, int(bends.ease * (radius / low) ** 0.5 / STEP))
    flat = max(0, int(turn * radius / STEP) - ramp)
    up = np.linspace(0, 1, ramp, endpoint=False)
    return np.concatenate([straight, up / radius, np.full(flat, 1 / radius), (1 - up) / radius])


def make_road(rng: np.random.Generator, bends: Bends, length: float) -> Road:
    """A road of `length` metres that keeps `bends.clearance` metres from its own earlier parts wherever it can.

    Bends to the left and to the right are equally likely; one that would lead the road back to itself is drawn again.
    """
    pieces: list[Floats] = []
    heading = rng.uniform(-np.pi, np.pi)
    total = 0
    while total * STEP <= length:
        for attempt in range(16):
            piece = rng.choice([-1.0, 1.0]) * _bend(rng, bends) * (1.0 if attempt < 12 else 0.3)
            if _clear(np.concatenate([*pieces, piece]), total, bends.clearance):
                break
        else:
            if len(pieces) > 2 and rng.random() < 0.9:  # a dead end: go back and try another way
                total -= len(pieces.pop()) + len(pieces.pop())
                continue
        pieces.append(piece)
        total += len(piece)
    curvature = np.concatenate(pieces)[: int(length / STEP) + 1]
    x, y = rng.uniform(-1000, 1000, 2)
    return Road(curvature, float(x), float(y), heading)


def _clear(curvature: Floats, start: int, clearance: float) -> bool:
    """Whether the part of the road from sample `start` on stays `clearance` metres from everything well before it."""
    road = Road(curvature)
    every = int(5.0 / STEP)
    xy = np.stack([road.xs, road.ys], axis=-1)[::every]
    s = np.arange(len(xy)) * 5.0
    new = s >= max(start * STEP - clearance, 0)
    gaps = np.hypot(*(xy[new, None] - xy[None, :]).transpose(2, 0, 1))
    # Two points of one bend are nearer to each other than along the road; beyond a half circle they must be apart.
    earlier = s[None, :] < s[new, None] - 2.2 * clearance
    return not bool((earlier & (gaps < clearance)).any())
