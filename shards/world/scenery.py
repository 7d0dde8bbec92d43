"""Where things stand: the scenery of a road, placed along it at both sides, and never on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import Floats
from gwm.shards.world import buildings, cars, furniture
from gwm.shards.world.looks import Look
from gwm.shards.world.order import Footprints, overlapping
from gwm.shards.world.places import Layout
from gwm.shards.world.polygons import Polygons, Solid, assemble
from gwm.shards.world.road import Road


@dataclass(frozen=True)
class Scenery:
    """All solids that stand still; polygons name their solid by `owner`."""

    faces: Polygons  # (P, 4)
    blobs: Polygons  # (P, BLOB)
    prints: Footprints  # (n,) of the solids
    shadow: Floats  # (n,) m, height of the box over the footprint that casts a shadow; 0 = none
    lamps: Floats  # (L, 3) world positions of street lamps that are on
    drives: tuple[tuple[float, float], ...]  # (s, side) of driveways


class Site:
    """The building site: places solids beside a road unless they would stand on it or in one another."""

    def __init__(self, road: Road, layout: Layout, free: Footprints) -> None:
        """`free`: nothing may stand there."""
        self.road, self.layout, self.free = road, layout, free
        self.solids: list[Solid] = []
        self.places: list[tuple[float, float, float]] = []
        self.rows: list[tuple[float, float, float, float, float, float]] = []  # footprint (5) and shadow
        self.large = np.zeros((0, 6))  # the rows of houses
        self.lamps: list[tuple[float, float, float]] = []
        self.drives: list[tuple[float, float]] = []

    def room(self, s: float, d: float, half: tuple[float, float], yaw: float, small: bool) -> bool:
        """Whether a footprint stands clear of the road everywhere, and of all houses."""
        one = Footprints(self.road.point(s, d)[None], np.array([yaw]), np.array([half]))
        reach = abs(d) + max(half) + 5
        # Near s the offset says it all, unless the road bends; elsewhere the road may come back to this place.
        straight = small and abs(float(self.road.curvature(s))) < 1 / 60
        skip = (s - reach, s + reach) if straight else None
        keep = self.layout.edge if small else self.layout.border - 0.4
        points, margin = (one.centre, max(half)) if small else (one.corners()[0], 0.0)
        if self.road.distance(points, skip).min() < keep + margin:
            return False
        rows = self.large[np.abs(self.large[:, :2] - one.centre).max(axis=1) < 40]
        return not overlapping(one, Footprints(rows[:, :2], rows[:, 2], rows[:, 3:5]), 0.1).any()

    def put(
        self, solid: Solid, s: float, d: float, half: tuple[float, float], turn: float = 0.0, shift: float = 0.0,
        shadow: float = 0.0, large: bool = False, always: bool = False,
    ) -> bool:  # fmt: skip
        """Place a solid at (s, d), turned by `turn` against the road; False if there is no room.

        half: half its extent along and across; shift: how far the footprint's middle lies in front of its own origin
        along its y axis; shadow: height of the box that casts its shadow, if it is one; large: others must
        keep off it; always: it belongs where it is put (parked cars, barriers).
        """
        yaw = float(self.road.heading(s)) + turn
        x, y = self.road.point(s, d)
        cx, cy = x - shift * np.sin(yaw), y + shift * np.cos(yaw)
        sign = 1.0 if abs(turn) < 1.6 else -1.0
        if not always and not self.room(s, d + sign * shift, half, yaw, small=not large):
            return False
        row = (float(cx), float(cy), yaw, *half, shadow)
        one = Footprints(np.array([row[:2]]), np.array([yaw]), np.array([half]))
        if len(self.free.yaw) and overlapping(one, self.free).any():
            return False
        if large:
            self.large = np.vstack([self.large, row])
        self.rows.append(row)
        self.solids.append(solid)
        self.places.append((x, y, yaw))
        return True

    def done(self) -> Scenery:
        """Everything placed so far."""
        rows = np.array(self.rows, float).reshape(-1, 6)
        faces, blobs = assemble(self.solids, np.array(self.places).reshape(-1, 3))
        return Scenery(
            faces, blobs, Footprints(rows[:, :2], rows[:, 2], rows[:, 3:5]),
            rows[:, 5], np.array(self.lamps, float).reshape(-1, 3), tuple(self.drives),
        )  # fmt: skip


def _turn(side: float) -> float:
    """Turn of a solid whose front is to face the road from the given side (1 left, -1 right)."""
    return 0.0 if side > 0 else np.pi


def _houses(rng: np.random.Generator, site: Site, look: Look) -> None:
    """Rows of houses: blocks in towns, gabled houses with gardens and driveways in suburbs, a farm here and there."""
    name = site.layout.place.name
    for side in (-1.0, 1.0):
        s = rng.uniform(0, 20)
        while s < site.road.length:
            if name == "town road":
                w, depth, floors = rng.uniform(10, 22), rng.uniform(9, 13), int(rng.integers(2, 7))
                solid, height, gap = buildings.block(rng, w, depth, floors, look.lamps), floors * 3.0 + 1.2, 0.3
                back, gap = rng.choice([0.3, 0.6, 2.0]), gap + (rng.uniform(3, 14) if rng.random() < 0.35 else 0)
            else:
                w, depth, height = rng.uniform(9, 13), rng.uniform(8, 10), 8.0
                solid = buildings.house(rng, w, depth, look.lamps)
                farm = name != "suburb road"
                back = rng.uniform(14, 45) if farm else rng.uniform(3.5, 8)
                gap = rng.uniform(60, 260) if farm else rng.uniform(4, 14)
            d = side * (site.layout.border + back)
            # In a bend the front is a chord: step back until it clears the sidewalk.
            for step in (0.0, 2.0, 5.0):
                half = (w / 2, depth / 2)
                if site.put(solid, s + w / 2, d + side * step, half, _turn(side), depth / 2, shadow=height, large=True):
                    if name == "suburb road":
                        site.drives.append((s + w / 2 + rng.uniform(-0.3, 0.3) * w, side))
                    break
            s += w + gap


def _towers(rng: np.random.Generator, site: Site, look: Look) -> None:
    """Taller houses behind the first row, for a skyline."""
    for side in (-1.0, 1.0):
        for s in np.arange(rng.uniform(0, 40), site.road.length, 38.0):
            if rng.random() < 0.5:
                w, floors = rng.uniform(14, 24), int(rng.integers(6, 13))
                solid = buildings.block(rng, w, w * 0.7, floors, look.lamps)
                d = side * (site.layout.border + rng.uniform(24, 60))
                site.put(solid, s, d, (w / 2, w * 0.35), _turn(side), w * 0.35, floors * 3.0, large=True)


def _trees(rng: np.random.Generator, site: Site) -> None:
    """Street trees, garden trees, hedgerows and woods."""
    name, layout = site.layout.place.name, site.layout
    density = {"town road": 0.035, "suburb road": 0.09, "country road": 0.13, "highway": 0.07}[name]
    woods = np.repeat(rng.random(int(site.road.length / 60) + 1) < 0.3, 60)
    for side in (-1.0, 1.0):
        street = name == "town road" and rng.random() < 0.6
        if street:
            for s in np.arange(rng.uniform(0, 12), site.road.length, rng.uniform(9, 16)):
                site.put(furniture.tree(rng, rng.uniform(4.5, 7)), s, side * (layout.paved + 0.9), (0.25, 0.25))
        for _ in range(int(site.road.length * density)):
            s = rng.uniform(0, site.road.length)
            near = 1.2 if layout.place.sidewalk else 3.0 + 3.0 * (name == "highway")
            wood = woods[int(s)] and not layout.place.sidewalk
            d = layout.border + near + (rng.exponential(7.0) if wood else rng.exponential(14.0))
            height = rng.uniform(6, 12) if d > layout.border + 4 else rng.uniform(4, 7)
            site.put(furniture.tree(rng, height), s, side * d, (0.3, 0.3))
            if rng.random() < 0.4:
                site.put(furniture.bush(rng, rng.uniform(0.7, 1.8)), s + rng.uniform(2, 8), side * (d - 1), (0.4, 0.4))


def _lamps(rng: np.random.Generator, site: Site, look: Look) -> None:
    """Street lamps at equal distances: on one side or on both; on highways and in the country only sometimes."""
    layout = site.layout
    share = {"town road": 1.0, "suburb road": 0.9, "country road": 0.0, "highway": 0.4}[layout.place.name]
    if rng.random() >= share:
        return
    both, pitch = rng.random() < 0.5, rng.uniform(26, 38)
    arm = 1.6 if layout.place.sidewalk else 2.6
    for k, s in enumerate(np.arange(rng.uniform(0, pitch), site.road.length, pitch)):
        for side in (-1.0, 1.0) if both else ((-1.0, 1.0)[k % 2],):
            d = side * (layout.paved + 0.55)
            if site.put(furniture.lamp(arm, look.lamps > 0), s, d, (0.2, 0.2), _turn(side)) and look.lamps > 0:
                head = site.road.point(s, d - side * (arm + 0.25))
                site.lamps.append((float(head[0]), float(head[1]), furniture.LAMP_HEIGHT - 0.15))


def _signs(rng: np.random.Generator, site: Site) -> None:
    """Traffic signs for both directions, direction boards, sign bridges, marker posts, power poles."""
    layout, length = site.layout, site.road.length
    highway = layout.place.name == "highway"
    for side in (-1.0, 1.0):
        for s in np.arange(rng.uniform(0, 50), length, rng.uniform(40, 80)):
            at = s + rng.uniform(-15, 15)
            if not highway:
                site.put(furniture.sign(rng), at, side * (layout.paved + 0.6), (0.2, 0.4), _turn(-side))
            elif rng.random() < 0.5:
                site.put(furniture.board(rng, 4.5), at, side * (layout.paved + 5), (0.3, 2.2), _turn(-side))
        if not layout.place.sidewalk:
            for s in np.arange(rng.uniform(0, 25), length, 25.0):
                site.put(furniture.post(), s, side * (layout.paved + 0.75), (0.1, 0.1))
    if highway:
        reach = layout.paved + 1.5 - layout.median / 2 + 0.9
        for s in np.arange(rng.uniform(60, 260), length, 260.0):
            d = -(layout.paved + 1.5)
            site.put(furniture.gantry(rng, reach), s, d, (0.3, reach / 2), shift=reach / 2, always=True)
    if layout.place.name in ("country road", "suburb road") and rng.random() < 0.6:
        d = rng.choice([-1.0, 1.0]) * (layout.border + 2.5)
        for s in np.arange(rng.uniform(0, 40), length, 42.0):
            site.put(furniture.power_pole(), s, d, (0.3, 0.3), np.pi / 2)


def _fences(rng: np.random.Generator, site: Site) -> None:
    """Things that run along the road: guard rails, noise walls, hedges and garden walls."""
    layout, name = site.layout, site.layout.place.name

    def run(d: float, start: float, stop: float, kind: str, height: float = 1.0, always: bool = False) -> None:
        step = 6.0
        colour = buildings.pick(rng, furniture.LEAVES if kind == "hedge" else ((176, 170, 158), (150, 148, 142)))
        for s in np.arange(start, stop - step, step):
            # Chords outside a bend are longer than the arc on the centreline, inside they are shorter.
            stretch = step * float(1 - d * site.road.curvature(s))
            if stretch < 1.0:
                continue
            if kind == "rail":
                site.put(furniture.rail(stretch), s, d, (stretch / 2, 0.06), always=always)
            else:
                thick = 0.8 if kind == "hedge" else 0.3
                solid = furniture.wall(stretch, height, thick, colour)
                site.put(solid, s, d, (stretch / 2, thick / 2), shadow=height, always=always)

    length = site.road.length
    if name == "highway":
        barrier = "rail" if rng.random() < 0.5 else "wall"
        run(0.0, 0, length, barrier, 0.85, always=True)
        for side in (-1.0, 1.0):
            if rng.random() < 0.7:
                run(side * (layout.paved + 0.4), 0, length, "rail", always=True)
            elif rng.random() < 0.5:
                run(side * (layout.paved + 2.5), rng.uniform(0, length / 2), length, "wall", 3.2)
    elif name == "suburb road":
        for side in (-1.0, 1.0):
            for s in np.arange(rng.uniform(0, 30), length, 34.0):
                if rng.random() < 0.6:
                    kind, height = ("hedge", rng.uniform(1.0, 1.7)) if rng.random() < 0.6 else ("wall", 0.9)
                    run(side * (layout.border + 0.9), s, s + rng.uniform(12, 32), kind, height)
    elif name == "country road":
        for side in (-1.0, 1.0):
            at = np.flatnonzero(-side * site.road.curvatures > 1 / 90)
            if len(at) and rng.random() < 0.6:  # rails on the outside of bends
                for s in np.unique(at // 24) * 12.0:
                    run(side * (layout.paved + 0.5), s, s + 12.1, "rail", always=True)


def _parked(rng: np.random.Generator, site: Site) -> None:
    """Cars parked in the strips beside the lanes."""
    layout = site.layout
    if not layout.parking:
        return
    for side in (-1.0, 1.0):
        s = rng.uniform(0, 10)
        while s < site.road.length:
            length = float(rng.choice([3.9, 4.3, 4.6]))
            if rng.random() < 0.55:
                d = side * (layout.edge + layout.place.shoulder + layout.parking / 2)
                site.put(cars.car(rng, length, 1.8), s, d, (length / 2, 0.92), _turn(-side), shadow=1.4, always=True)
            s += length + rng.uniform(0.9, 2.0)


def make_scenery(rng: np.random.Generator, road: Road, layout: Layout, look: Look, free: Footprints) -> Scenery:
    """Build everything that stands beside the road, but nothing on the footprints `free`."""
    site = Site(road, layout, free)
    name = layout.place.name
    if name != "highway":
        _houses(rng, site, look)
    if name == "town road":
        _towers(rng, site, look)
    _lamps(rng, site, look)
    _signs(rng, site)
    _fences(rng, site)
    _parked(rng, site)
    _trees(rng, site)
    return site.done()
