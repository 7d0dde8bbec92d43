"""How the ego drives: a kinematic bicycle that follows its lane, slows down, stops, weaves and changes lanes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.motion import STEERING_RATIO, WHEELBASE, integrate, planar_pose
from gwm.shards.schema import Floats, Motion
from gwm.shards.world.places import Layout
from gwm.shards.world.polygons import Bools
from gwm.shards.world.road import STEP, Road
from gwm.shards.world.traffic import DT, EGO_SIZE, Cars, spawn, speed_profile

START = 60.0  # m, where on the road the ego begins unless it is told
SETTLE = 20  # frames driven before the first recorded one
EGO_CENTRE = WHEELBASE / 2  # m, the car's middle ahead of the rear axle
MAX_STEERING = 8.0  # rad at the wheel
MAX_STEERING_RATE = 7.0  # rad/s at the wheel


@dataclass(frozen=True)
class Traffic:
    """The other cars over T frames: n cars that stay on their lanes."""

    pose: Floats  # (T, n, 3) x, y, yaw of the middle of each car
    braking: Bools  # (T, n)
    size: Floats  # (n, 2) m, length and width
    s: Floats  # (T, n) m, arc length, to hide those that have left the road


@dataclass(frozen=True)
class Drive:
    """What happened: the ego motion, the other cars, and where the ego stopped."""

    ego: Motion
    traffic: Traffic
    stops: tuple[float, ...]  # arc length of the front bumper at every stop that no car ahead caused


class Pace:
    """The driver's mood: the share of the possible speed wanted at any time, with slow-downs and stops."""

    def __init__(self, rng: np.random.Generator, highway: bool) -> None:
        self.rng = rng
        self.shares = (0.5, 0.75, 0.9, 1.0, 1.08) if highway else (0.45, 0.75, 0.9, 1.0, 1.0, 1.08)
        self.stop_chance = 0.05 if highway else 0.22
        self.brisk = float(rng.uniform(0.85, 1.05))
        self.left, self.share = 0.0, 1.0

    def next(self, speed: float) -> float:
        """The share wanted in the next 0.1 s, given the speed in m/s; 0 means stop."""
        if self.share == 0.0 and speed > 0:
            return 0.0  # a stop's time runs from standstill
        self.left -= DT
        if self.left <= 0:
            if self.share > 0 and self.rng.random() < self.stop_chance:
                self.share, self.left = 0.0, self.rng.uniform(1.0, 3.0)
            else:
                self.share, self.left = self.brisk * self.rng.choice(self.shares), self.rng.uniform(2.0, 6.0)
        return self.share


class Wish:
    """Where in the road the driver wants to be: lane changes, and a slow weave within the lane."""

    def __init__(self, rng: np.random.Generator, layout: Layout) -> None:
        self.rng, self.layout = rng, layout
        self.lane = int(rng.integers(layout.lanes))
        self.old, self.done, self.takes = self.target, 1.0, 4.0
        self.wait = rng.uniform(1.0, 6.0)
        self.amplitude = float(rng.choice([0.08, 0.2, 0.42]))
        self.length = rng.uniform(25.0, 80.0)
        self.phase = rng.uniform(0, 2 * np.pi)

    @property
    def target(self) -> float:
        """Offset of the lane the driver is in or on the way to."""
        return float(self.layout.centre(self.lane, 1))

    def next(self, s: float, bend: float, cars: Cars) -> float:
        """The offset wanted in the next 0.1 s at arc length `s`, where the road's curvature is `bend`."""
        self.wait -= DT
        if self.wait <= 0 and self.done >= 1 and cars.speed[0] > 4 and self.layout.lanes > 1:
            lane = self.lane + int(self.rng.choice([-1, 1]))
            if 0 <= lane < self.layout.lanes and cars.room(float(self.layout.centre(lane, 1))):
                self.old, self.lane, self.done = self.target, lane, 0.0
                self.takes, self.wait = self.rng.uniform(2.5, 5.0), self.rng.uniform(4.0, 9.0)
        self.done = min(1.0, self.done + DT / self.takes)
        blend = self.done**2 * (3 - 2 * self.done)
        calm = min(1.0, 1 / (60 * abs(bend) + 1e-9))  # in a narrow bend there is no room to weave
        weave = calm * self.amplitude * float(np.sin(2 * np.pi * s / self.length + self.phase))
        return self.old + (self.target - self.old) * blend + weave


class Bicycle:
    """The ego as a kinematic bicycle: its pose on the road, and the steering wheel."""

    def __init__(self, road: Road, s: float, d: float) -> None:
        x, y = road.point(s, d)
        self.road, self.s, self.d = road, s, d
        self.pose = planar_pose(np.array([x]), np.array([y]), road.heading(s)[None])[0]
        self.steering = self._steer(d, 0.0)

    @property
    def yaw(self) -> float:
        """Direction in the world, rad."""
        return float(np.arctan2(self.pose[1, 0], self.pose[0, 0]))

    def _steer(self, wish: float, speed: float) -> float:
        """Steering-wheel angle in rad that leads to the offset `wish`, damped over arc length and not over time."""
        reach = 5.0 + 0.7 * speed
        psi = float(np.angle(np.exp(1j * (self.yaw - float(self.road.heading(self.s))))))
        bend = float(self.road.curvature(self.s + speed * DT))
        curvature = bend / (1 - bend * self.d) - (self.d - wish) / reach**2 - 1.8 * psi / reach
        return float(np.arctan(WHEELBASE * curvature) * STEERING_RATIO)

    def step(self, speeds: tuple[float, float], wish: float) -> None:
        """Drive one frame, from the first speed to the second, steering towards the offset `wish`."""
        limit = MAX_STEERING_RATE * DT
        turn = float(np.clip(self._steer(wish, speeds[1]) - self.steering, -limit, limit))
        steering = float(np.clip(self.steering + turn, -MAX_STEERING, MAX_STEERING))
        self.pose = self.pose @ integrate(np.array(speeds), np.array([self.steering, steering]))[1]
        self.steering = steering
        self.s, self.d = self.road.locate(self.pose[0, 3], self.pose[1, 3], near=self.s)


@dataclass(frozen=True)
class _Moment:
    """What is recorded of one frame."""

    ego: tuple[float, ...]  # speed, steering, share wanted, s, x, y, yaw
    s: Floats
    d: Floats
    acceleration: Floats


def drive(
    rng: np.random.Generator, road: Road, layout: Layout, limit: float, spacing: float | None, frames: int,
    start: float = START,
) -> Drive:  # fmt: skip
    """Drive `frames` frames at 10 Hz, starting `start` metres after the beginning of `road`.

    limit: the speed at which people drive here, m/s; spacing: mean distance between cars of a lane, None for no cars.
    """
    wish, pace = Wish(rng, layout), Pace(rng, layout.median > 0)
    bicycle = Bicycle(road, start, wish.target)
    cars = spawn(rng, road, layout, spacing, start + EGO_CENTRE, wish.target)
    lane = 0.75 * layout.edge * np.array([[-1.0], [1.0]])  # bends are narrower on their inside
    along, against = road.curvatures / (1 - road.curvatures * lane)
    profiles = speed_profile(along, limit), speed_profile(against[::-1], limit)[::-1]
    cars.speed = (
        _possible(cars, profiles) * cars.share * rng.choice([0.8, 0.9, 1.0] if layout.median else [0.0, 0.7, 1.0])
    )
    moments: list[_Moment] = []
    for _ in range(frames + SETTLE):
        speed = float(cars.speed[0])
        cars.share[0] = pace.next(speed)
        ego = (speed, bicycle.steering, cars.share[0], bicycle.s, *bicycle.pose[:2, 3], bicycle.yaw)
        moments.append(_Moment(ego, cars.s[1:].copy(), cars.d[1:], cars.acceleration[1:]))
        cars.accelerate(_possible(cars, profiles))
        cars.move(road)
        bicycle.step((speed, float(cars.speed[0])), wish.next(bicycle.s, float(road.curvature(bicycle.s)), cars))
        cars.s[0], cars.d[0], cars.target[0] = bicycle.s + EGO_CENTRE, bicycle.d, wish.target
    return _record(road, cars, moments[SETTLE:])


def _possible(cars: Cars, profiles: tuple[Floats, Floats]) -> Floats:
    """(n,) m/s: the speed at which each car can pass where it is, by the profiles along and against the road."""
    i = np.clip((cars.s / STEP).astype(np.int64), 0, len(profiles[0]) - 1)
    return np.where(cars.direction > 0, profiles[0][i], profiles[1][i])


def _record(road: Road, cars: Cars, moments: list[_Moment]) -> Drive:
    """The moments as a Drive. The pose is the bicycle's own, moved to where the first frame stands."""
    speed, steering, share, s, x, y, yaw = np.array([m.ego for m in moments]).T
    pose = planar_pose(x[:1], y[:1], yaw[:1])[0] @ integrate(speed, steering)
    at, d = np.stack([m.s for m in moments]), np.stack([m.d for m in moments])
    heading = road.heading(at) + np.where(cars.direction[1:] > 0, 0.0, np.pi)
    length = cars.length[1:]
    size = np.stack([length, np.where(length > 6, 2.4, 1.82)], axis=-1)
    braking = np.stack([m.acceleration for m in moments]) < -0.6
    traffic = Traffic(np.dstack([road.point(at, d), heading]), braking, size, at)
    halts = np.flatnonzero((speed[1:] == 0) & (speed[:-1] > 0) & (share[:-1] == 0))
    stops = tuple(float(s[i + 1]) + EGO_CENTRE + EGO_SIZE[0] / 2 for i in halts)
    return Drive(Motion(pose, speed.copy(), steering.copy()), traffic, stops)
