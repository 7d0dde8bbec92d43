"""Cars along lanes: how they keep their speed and their distance.

Distances follow the intelligent driver model (Treiber et al. 2000). The ego is car 0 of the list: the others give way
to it as to any other car.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import FRAME_RATE, Floats
from gwm.shards.world.places import Layout
from gwm.shards.world.road import STEP, Road

DT = 1 / FRAME_RATE
EGO_SIZE = (4.5, 1.84)  # m, length and width
LATERAL = 2.6  # m/s^2, sideways acceleration that drivers accept in bends
BRAKE, PUSH, EMERGENCY = 2.0, 1.8, 8.0  # m/s^2
JERK = 5.0  # m/s^3
GAP = 2.5  # m, to the car ahead at standstill
HEADWAY = 1.1  # s
BESIDE = 2.3  # m, cars whose offsets differ by less are in each other's way
LENGTHS = (3.9, 4.3, 4.6, 4.8)  # m, of cars
BUS = 9.5  # m


def speed_profile(curvatures: Floats, limit: float) -> Floats:
    """(N,) the speed in m/s at which every sample of a path can be passed when one brakes in time for its bends.

    curvatures: (N,) 1/m, `STEP` metres apart.
    """
    squared = np.minimum(limit**2, LATERAL / np.maximum(np.abs(curvatures), 1e-6)).tolist()
    for i in range(len(squared) - 2, -1, -1):
        squared[i] = min(squared[i], squared[i + 1] + 2 * 0.8 * BRAKE * STEP)
    profile: Floats = np.sqrt(np.array(squared))
    return profile


@dataclass
class Cars:
    """The state of n cars; car 0 is the ego. Offsets d are to the left of the road's centreline."""

    s: Floats  # m, arc length of the middle
    d: Floats  # m
    target: Floats  # m, the offset a car is on its way to: while it changes lanes it is in the way in both
    direction: Floats  # 1 along s, -1 against
    length: Floats  # m
    share: Floats  # of the possible speed that the driver wants
    speed: Floats  # m/s
    acceleration: Floats  # m/s^2

    def gaps(self) -> tuple[Floats, Floats]:
        """Free distance in m to the car ahead (inf if none) and that car's speed in m/s, each (n,)."""
        ahead = (self.s[None, :] - self.s[:, None]) * self.direction[:, None]
        apart = np.abs(self.d[None, :] - self.d[:, None])
        apart = np.minimum(apart, np.abs(self.target[None, :] - self.d[:, None]))
        apart = np.minimum(apart, np.abs(self.d[None, :] - self.target[:, None]))
        same = self.direction[None, :] == self.direction[:, None]
        free = ahead - (self.length[None, :] + self.length[:, None]) / 2
        free = np.where(same & (apart < BESIDE) & (ahead > 0), free, np.inf)
        leader = free.argmin(axis=1)
        return free[np.arange(len(self.s)), leader], self.speed[leader]

    def accelerate(self, possible: Floats) -> None:
        """Advance the speeds by one frame towards the wanted share of `possible` (n,), keeping the distance ahead."""
        gap, leader = self.gaps()
        wanted, v = possible * self.share, self.speed
        free = np.clip((wanted - v) / 1.2, -1.3 * BRAKE, PUSH)
        close = GAP + np.maximum(v * HEADWAY + v * (v - leader) / (2 * np.sqrt(PUSH * BRAKE)), 0.0)
        a = np.clip(np.minimum(free, PUSH * (1 - (close / np.maximum(gap, 0.1)) ** 2)), -EMERGENCY, PUSH)
        # Jerk is bounded for comfort, except that an emergency may brake at once.
        calm = np.clip(a, self.acceleration - JERK * DT, self.acceleration + JERK * DT)
        speed = np.maximum(v + np.where(a < -4.0, a, calm) * DT, 0.0)
        halt = (speed < 0.12) & ((wanted < 0.3) | (gap < GAP + 0.5))
        self.speed = np.where(halt, 0.0, speed)
        self.acceleration = (self.speed - v) / DT

    def move(self, road: Road) -> None:
        """Advance all cars but the ego by one frame along their lanes."""
        step = self.direction * self.speed * DT / (1 - road.curvature(self.s) * self.d)
        self.s[1:] += step[1:]

    def room(self, offset: float) -> bool:
        """Whether the lane at `offset` has room for the ego, ahead and behind."""
        same = (np.abs(self.d[1:] - offset) < 1.2) & (self.direction[1:] > 0)
        gap = np.abs(self.s[1:] - self.s[0]) - (self.length[1:] + self.length[0]) / 2
        closing = np.abs(self.speed[1:] - self.speed[0])
        return bool((gap[same] > 4.0 + 0.8 * self.speed[0] + 2.5 * closing[same]).all())


def spawn(
    rng: np.random.Generator, road: Road, layout: Layout, spacing: float | None, start: float, offset: float
) -> Cars:
    """The ego with its middle at (start, offset), and the others on every lane about `spacing` metres apart, at rest.

    spacing: None for no other cars.
    """
    rows = [(start, offset, 1.0)]
    if spacing is not None:
        for lane in range(layout.lanes):
            for way in (1, -1):
                at = float(rng.uniform(0, spacing))
                while at < road.length:
                    if way < 0 or abs(at - start) > 16:
                        rows.append((at, float(layout.centre(lane, way)) + rng.uniform(-0.15, 0.15), float(way)))
                    at += 12.0 + rng.exponential(max(spacing - 12.0, 1.0))
    s, d, direction = np.array(rows).T.copy()
    n = len(rows)
    length = rng.choice(LENGTHS, n)
    if layout.place.bends.radius[0] >= 30:  # a bus would need more than its lane in narrower bends
        length = np.where(rng.random(n) < 0.1, BUS, length)
    length[0] = EGO_SIZE[0]
    return Cars(s, d, d.copy(), direction, length, rng.uniform(0.75, 1.05, n), np.zeros(n), np.zeros(n))
