"""Side roads: where they join or cross the road, and how they are painted on the ground.

There are two kinds. Beside a straight part a side road joins from the left, from the right or from both. In a narrow
bend the road turns at a crossing: its own direction before and after the bend goes on as a side road.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import Floats
from gwm.shards.world.order import Footprints, overlapping
from gwm.shards.world.paint import CROSSING, WHITE, Painter
from gwm.shards.world.places import Layout
from gwm.shards.world.polygons import Colour
from gwm.shards.world.road import STEP, Road

HALF = 3.4  # m, half the width of a side road's asphalt: one lane each way
WALK = 1.8  # m, width of its sidewalks, where the road has some
LANE = 1.65  # m, offset of the middle of a lane
LENGTH = (25.0, 110.0)  # m, shortest and longest side road
APART = 65.0  # m along the road between two junctions
STRAIGHT = 1 / 200  # 1/m, a road that bends less has side roads
NARROW, TURN = 1 / 30, 1.0  # 1/m and rad: a bend at least so narrow and so far is a turn at a crossing
PIECE = 10.0  # m, longest piece of paint


@dataclass(frozen=True)
class Arm:
    """A straight side road. Its points have coordinates (u, d): metres outwards and to the left of that direction."""

    root: Floats  # (2,) m, on the road's centreline
    yaw: float  # rad, outwards
    near: float  # m, u where it leaves the road
    far: float  # m, u where it ends

    def point(self, u: Floats | float, d: Floats | float) -> Floats:
        """World points (..., 2)."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        u, d = np.broadcast_arrays(u, d)
        return np.stack([self.root[0] + u * c - d * s, self.root[1] + u * s + d * c], axis=-1)

    def prints(self) -> Footprints:
        """What has to be kept free, in pieces (n,)."""
        edges = np.linspace(0.0, self.far, int(self.far / PIECE) + 2)
        half = np.stack([np.diff(edges) / 2, np.full(len(edges) - 1, HALF + WALK + 0.3)], axis=-1)
        return Footprints(self.point((edges[:-1] + edges[1:]) / 2, 0.0), np.full(len(half), self.yaw), half)

    def band(self, u0: float, u1: float, d0: float, d1: float) -> Floats:
        """Quadrilaterals (Q, 4, 2) from u0 to u1 and d0 to d1."""
        u = np.linspace(u0, u1, int((u1 - u0) / PIECE) + 2)
        corners = (u[:-1], d0), (u[1:], d0), (u[1:], d1), (u[:-1], d1)
        return np.stack([self.point(*corner) for corner in corners], axis=1)


@dataclass(frozen=True)
class Junction:
    """Side roads at arc length `s` of the road."""

    s: float
    arms: tuple[Arm, ...]
    left: bool  # beside a straight part: one joins from the left
    right: bool

    @property
    def crossing(self) -> bool:
        """Whether a straight line leads from one side road to the other."""
        return self.left and self.right


def make_junctions(
    rng: np.random.Generator, road: Road, layout: Layout, stops: Iterable[float]
) -> tuple[Junction, ...]:
    """Junctions along a road: behind the `stops` (arc lengths) of the ego, in narrow bends, and here and there.

    A road with a median has none. Side roads keep clear of the road and of each other.
    """
    if layout.median:
        return ()
    halts = [stop + 1.5 + 2 * CROSSING[0] + 1.0 + HALF for stop in stops]
    some = np.arange(rng.uniform(15, APART), road.length, APART) + rng.uniform(-12, 12)
    found: list[Junction] = []
    for one in _candidates(rng, road, layout, [*halts, *some]):
        taken = [arm.prints() for other in found for arm in other.arms]
        free = tuple(arm for arm in one.arms if not any(overlapping(arm.prints(), p).any() for p in taken))
        if len(free) == len(one.arms) > 0 and all(abs(one.s - other.s) > APART for other in found):
            found.append(one)
    return tuple(sorted(found, key=lambda junction: junction.s))


def _candidates(rng: np.random.Generator, road: Road, layout: Layout, places: Sequence[float]) -> Iterator[Junction]:
    for start, end in _turns(road):
        ahead = _arm(road, layout, start, 0.0), _arm(road, layout, end, np.pi)
        yield Junction((start + end) / 2, tuple(arm for arm in ahead if arm), False, False)
    for s in places:
        around = road.curvature(np.linspace(s - 20, s + 20, 17))
        side = rng.random()
        if 20 < s < road.length - 20 and np.abs(around).max() < STRAIGHT:
            left = _arm(road, layout, s, np.pi / 2) if side < 0.75 else None
            right = _arm(road, layout, s, -np.pi / 2) if side > 0.25 else None
            yield Junction(s, tuple(arm for arm in (left, right) if arm), left is not None, right is not None)


def _turns(road: Road) -> Iterator[tuple[float, float]]:
    """Arc lengths where narrow bends begin and end."""
    bent = np.abs(road.curvatures) > 1e-6
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bent, [False]]).astype(int)))
    for first, last in edges.reshape(-1, 2).tolist():
        if last == len(bent):  # the road ends in it
            break
        narrow = np.abs(road.curvatures[first:last]).max() >= NARROW
        if narrow and abs(road.headings[last] - road.headings[first]) >= TURN:
            yield first * STEP, last * STEP


def _arm(road: Road, layout: Layout, s: float, turn: float) -> Arm | None:
    """The side road that leaves the road at `s`, turned by `turn` against it; None where it has no room."""
    u = np.arange(0.0, LENGTH[1], 1.0)
    arm = Arm(road.point(s), float(road.heading(s)) + turn, 0.0, LENGTH[1])
    edges = [road.distance(arm.point(u, d)) for d in (-HALF - WALK, HALF + WALK)]
    clear = np.minimum(*edges) >= layout.border
    near = int(clear.argmax())
    blocked = np.flatnonzero(~clear[near:])
    far = near + int(blocked[0]) - 8 if len(blocked) else len(u) - 1  # where it meets the road again it ends before
    if not clear[near] or far - near < LENGTH[0]:
        return None
    return Arm(arm.root, arm.yaw, float(near), float(far))


def arm_prints(junctions: Sequence[Junction]) -> Footprints:
    """What all side roads have to be kept free of: (n,) footprints."""
    arms = [arm.prints() for junction in junctions for arm in junction.arms]
    arms.append(Footprints(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2))))
    return Footprints(*(np.concatenate([getattr(a, field) for a in arms]) for field in ("centre", "yaw", "half")))


def is_clear(junctions: Sequence[Junction], s: float) -> bool:
    """Whether a zebra crossing may have its middle at arc length `s`: no side road joins there."""
    return all(abs(s - junction.s) > HALF + CROSSING[0] for junction in junctions if junction.left or junction.right)


def pave_junctions(paint: Painter, layout: Layout, junctions: Sequence[Junction], asphalt: Colour) -> None:
    """Paint the asphalt and sidewalks of side roads, before the road's own marks."""
    arms = [arm for junction in junctions for arm in junction.arms]
    for arm in arms if layout.place.sidewalk else ():
        paint.quads(arm.band(arm.near, arm.far, -HALF - WALK, HALF + WALK), (152, 150, 144))
    for arm in arms:
        paint.quads(arm.band(0.0, arm.far, -HALF, HALF), asphalt)


def mark_junctions(paint: Painter, layout: Layout, junctions: Sequence[Junction], asphalt: Colour) -> None:
    """Interrupt the road's marks where side roads join, and paint those of the side roads."""
    for junction in junctions:
        low = -layout.paved if junction.right else layout.edge - 0.1
        high = layout.paved if junction.left else 0.1 - layout.edge
        if low < high:
            paint.strip(low, high, asphalt, junction.s - HALF, junction.s + HALF)
        for arm in junction.arms:
            paint.quads(arm.band(arm.near + 0.8, arm.near + 1.2, 0.15, HALF - 0.2), WHITE)
            for u in np.arange(arm.near + 2.0, arm.far - 3.0, 7.5).tolist():
                paint.quads(arm.band(u, u + 3.0, -0.07, 0.07), WHITE)
