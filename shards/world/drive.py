"""How the cars drive: the ego car by a kinematic bicycle that follows its lane, the others along their lanes.

Cars keep their distance by the intelligent driver model (Treiber et al. 2000), the ego car included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.motion import STEERING_RATIO, WHEELBASE, integrate, planar_pose
from gwm.shards.schema import FRAME_RATE, Floats, Motion
from gwm.shards.world.places import Layout
from gwm.shards.world.road import STEP, Road

DT = 1 / FRAME_RATE
EGO_SIZE = (4.5, 1.84)  # m, length and width
EGO_CENTRE = WHEELBASE / 2  # m, the car's middle ahead of the rear axle
SETTLE = 20  # frames driven before the first recorded one
MAX_STEERING = 8.0  # rad at the wheel
MAX_STEERING_RATE = 7.0  # rad/s at the wheel
LATERAL = 2.6  # m/s^2, sideways acceleration that drivers accept in bends
BRAKE = 2.0  # m/s^2, comfortable
GAP = 2.5  # m, to the car ahead at standstill
HEADWAY = 1.1  # s


@dataclass(frozen=True)
class Traffic:
    """The other cars over T frames: n cars that stay on their lanes."""

    pose: Floats  # (T, n, 3) x, y, yaw of the middle of each car
    braking: np.ndarray[tuple[int, int], np.dtype[np.bool_]]  # (T, n)
    size: Floats  # (n, 2) length, width in m
    s: Floats  # (T, n) arc length, to hide those that have left the road


@dataclass(frozen=True)
class Drive:
    """What happened: the ego motion, the other cars, and where the ego car stopped."""

    ego: Motion
    s: Floats  # (T,) arc length of the ego's rear axle
    traffic: Traffic
    stops: tuple[float, ...]  # arc length of the front bumper at every stop that no car ahead caused


def speed_profile(road: Road, limit: float) -> Floats:
    """(N,) the speed in m/s at which every sample of the road can be passed when one brakes in time for its bends."""
    allowed = np.minimum(limit, np.sqrt(LATERAL / np.maximum(np.abs(road.curvatures), 1e-6)))
    squared = allowed**2
    for i in range(len(squared) - 2, -1, -1):
        squared[i] = min(squared[i], squared[i + 1] + 2 * 0.8 * BRAKE * STEP)
    return np.sqrt(squared)


class Pace:
    """The driver's mood: the share of the possible speed wanted at any time, with slow-downs and stops."""

    def __init__(self, rng: np.random.Generator, stop_share: float) -> None:
        self.rng, self.stop_share = rng, stop_share
        self.left, self.share = 0.0, 1.0

    def next(self, speed: float) -> float:
        """The share wanted in the next 0.1 s, given the speed in m/s; 0 means stop."""
        if self.share == 0.0 and speed > 0:
            return 0.0  # a stop's time runs from standstill
        self.left -= DT
        if self.left <= 0:
            if self.share > 0 and self.rng.random() < self.stop_share:
                self.share, self.left = 0.0, self.rng.uniform(1.0, 3.0)
            else:
                self.share, self.left = self.rng.choice([0.35, 0.6, 0.8, 1.0, 1.0, 1.08]), self.rng.uniform(2.0, 6.0)
        return self.share


class Wish:
    """Where in the road the driver wants to be: lane changes, and a slow weave within the lane."""

    def __init__(self, rng: np.random.Generator, layout: Layout) -> None:
        self.rng, self.layout = rng, layout
        self.lane = int(rng.integers(layout.lanes))
        self.old = self.offset = float(layout.centre(self.lane, 1))
        self.done, self.wait = 1.0, rng.uniform(1.0, 6.0)
        self.takes = 4.0
        self.amplitude = rng.choice([0.08, 0.2, 0.42])
        self.length = rng.uniform(25.0, 80.0)
        self.phase = rng.uniform(0, 2 * np.pi)

    def next(self, s: float, speed: float, free: list[bool]) -> float:
        """The offset wanted at arc length `s`; `free[k]` says whether lane k has room beside the car."""
        self.wait -= DT
        if self.wait <= 0 and self.done >= 1 and speed > 4 and self.layout.lanes > 1:
            lane = self.lane + int(self.rng.choice([-1, 1]))
            if 0 <= lane < self.layout.lanes and free[lane]:
                self.old, self.lane, self.done = float(self.layout.centre(self.lane, 1)), lane, 0.0
                self.takes, self.wait = self.rng.uniform(2.5, 5.0), self.rng.uniform(4.0, 9.0)
        self.done = min(1.0, self.done + DT / self.takes)
        blend = self.done**2 * (3 - 2 * self.done)
        self.offset = self.old + (float(self.layout.centre(self.lane, 1)) - self.old) * blend
        return self.offset + self.amplitude * float(np.sin(2 * np.pi * s / self.length + self.phase))


@dataclass
class Cars:
    """The state of n cars; car 0 is the ego. `p` is the progress in the own direction, so that ahead means larger."""

    s: Floats  # arc length of the middle
    d: Floats
    speed: Floats
    acceleration: Floats
    direction: Floats  # 1 along s, -1 against
    length: Floats
    share: Floats  # of the possible speed
    target: Floats  # the offset a car is on its way to; a car counts in both lanes while it changes

    def gaps(self) -> tuple[Floats, Floats]:
        """Free distance in m to the car ahead (inf if none) and that car's speed in m/s, each (n,)."""
        p = self.s * self.direction
        ahead = p[None, :] - p[:, None]
        beside = np.minimum(
            np.abs(self.d[None, :] - self.d[:, None]),
            np.minimum(np.abs(self.target[None, :] - self.d[:, None]), np.abs(self.d[None, :] - self.target[:, None])),
        )
        relevant = (self.direction[None, :] == self.direction[:, None]) & (beside < 2.3) & (ahead > 0)
        free = np.where(relevant, ahead - (self.length[None, :] + self.length[:, None]) / 2, np.inf)
        leader = free.argmin(axis=1)
        return free[np.arange(len(p)), leader], self.speed[leader]

    def accelerate(self, wanted: Floats) -> None:
        """Advance the speeds by one frame towards `wanted` (n,), keeping the distance to the car ahead."""
        gap, leader = self.gaps()
        free = np.clip((wanted - self.speed) / 1.2, -1.3 * BRAKE, 1.8)
        close = self.speed * HEADWAY + self.speed * (self.speed - leader) / (2 * np.sqrt(1.8 * BRAKE))
        follow = 1.8 * (1 - ((GAP + np.maximum(close, 0.0)) / np.maximum(gap, 0.1)) ** 2)
        a = np.clip(np.minimum(free, follow), -8.0, 1.8)
        # Jerk is bounded for comfort, except that an emergency may brake at once.
        a = np.where(a < -4.0, a, np.clip(a, self.acceleration - 0.5, self.acceleration + 0.5))
        speed = self.speed + a * DT
        speed = np.where((speed < 0.12) & ((wanted < 0.3) | (gap < GAP + 0.5)), 0.0, np.maximum(speed, 0.0))
        self.acceleration = (speed - self.speed) / DT
        self.speed = speed


def _spawn(rng: np.random.Generator, road: Road, layout: Layout, spacing: float | None, start: float) -> Cars:
    """The ego at arc length `start` (its middle), and other cars on every lane about `spacing` metres apart."""
    s, lane, direction = [start], [0], [1.0]
    for k in range(layout.lanes if spacing else 0):
        for way in (1.0, -1.0):
            at = rng.uniform(0, spacing or 0.0)
            while at < road.length:
                if way < 0 or abs(at - start) > 16:
                    s.append(at), lane.append(k), direction.append(way)
                at += 11.0 + rng.exponential(max((spacing or 0.0) - 11.0, 1.0))
    n = len(s)
    way = np.array(direction)
    d = layout.centre(np.array(lane), way) + np.concatenate([[0.0], rng.uniform(-0.15, 0.15, n - 1)])
    length = np.concatenate([[EGO_SIZE[0]], rng.choice([3.9, 4.3, 4.6, 4.8, 9.5], n - 1, p=[0.2, 0.3, 0.25, 0.15, 0.1])])
    share = rng.uniform(0.75, 1.05, n)
    return Cars(np.array(s), d, np.zeros(n), np.zeros(n), way, length, share, d.copy())


def _steer(road: Road, pose: Floats, at: tuple[float, float], wish: float, speed: float) -> float:
    """Steering-wheel angle in rad that brings the bicycle to the offset `wish`, critically damped over arc length."""
    s, d = at
    reach = 5.0 + 0.7 * speed
    heading = float(np.arctan2(pose[1, 0], pose[0, 0]))
    psi = float(np.angle(np.exp(1j * (heading - float(road.heading(s))))))
    bend = float(road.curvature(s + speed * DT))
    curvature = bend / (1 - bend * d) - (d - wish) / reach**2 - 1.8 * psi / reach
    return float(np.arctan(WHEELBASE * curvature) * STEERING_RATIO)


def drive(
    rng: np.random.Generator, road: Road, layout: Layout, limit: float, spacing: float | None, frames: int
) -> Drive:
    """Drive `frames` frames at 10 Hz, starting 60 m after the beginning of `road`.

    limit: the speed at which people drive here, m/s; spacing: mean distance between cars of a lane, None for no cars.
    """
    wish = Wish(rng, layout)
    cars = _spawn(rng, road, layout, spacing, 60.0 + EGO_CENTRE)
    cars.d[0] = cars.target[0] = wish.offset
    _clear_start(cars)
    pace = Pace(rng, stop_share=0.06 if layout.median else 0.22)
    forward, backward = speed_profile(road, limit), speed_profile(Road(road.curvatures[::-1]), limit)[::-1]
    brisk = rng.uniform(0.8, 1.05)
    start = road.point(60.0, wish.offset)
    pose = planar_pose(start[:1], start[1:], road.heading(60.0)[None])[0]
    at = (60.0, wish.offset)
    steering = _steer(road, pose, at, wish.offset, 0.0)
    cars.speed = _possible(cars, forward, backward) * cars.share * rng.choice([0.0, 0.6, 0.9, 1.0])
    log: list[tuple[float, ...]] = []
    others: list[tuple[Floats, Floats, Floats]] = []
    for _ in range(frames + SETTLE):
        others.append((cars.s[1:].copy(), cars.d[1:].copy(), cars.acceleration[1:].copy()))
        share = pace.next(float(cars.speed[0]))
        log.append((cars.speed[0], steering, at[0], share, *pose[:2, 3], np.arctan2(pose[1, 0], pose[0, 0])))
        cars.share[0] = brisk * share
        cars.accelerate(_possible(cars, forward, backward) * cars.share)
        free = [_room(cars, float(layout.centre(k, 1))) for k in range(layout.lanes)]
        want = _steer(road, pose, at, wish.next(at[0], float(cars.speed[0]), free), float(cars.speed[0]))
        turn = np.clip(want - steering, -MAX_STEERING_RATE * DT, MAX_STEERING_RATE * DT)
        old, steering = steering, float(np.clip(steering + turn, -MAX_STEERING, MAX_STEERING))
        pose = pose @ integrate(np.array([log[-1][0], cars.speed[0]]), np.array([old, steering]))[1]
        at = road.locate(pose[0, 3], pose[1, 3], near=at[0])
        cars.s += cars.direction * cars.speed * DT / (1 - road.curvature(cars.s) * cars.d)
        cars.s[0], cars.d[0], cars.target[0] = at[0] + EGO_CENTRE, at[1], float(layout.centre(wish.lane, 1))
    return _record(road, cars, np.array(log)[SETTLE:], others[SETTLE:])


def _possible(cars: Cars, forward: Floats, backward: Floats) -> Floats:
    """(n,) m/s: the speed at which each car can pass where it is."""
    i = np.clip((cars.s / STEP).astype(np.int64), 0, len(forward) - 1)
    return np.where(cars.direction > 0, forward[i], backward[i])


def _room(cars: Cars, offset: float) -> bool:
    """Whether the lane at `offset` has room for the ego car, ahead and behind."""
    same = (np.abs(cars.d[1:] - offset) < 1.2) & (cars.direction[1:] > 0)
    gap = np.abs(cars.s[1:] - cars.s[0]) - (cars.length[1:] + cars.length[0]) / 2
    return bool((gap[same] > 4.0 + 0.8 * cars.speed[0]).all())


def _clear_start(cars: Cars) -> None:
    """Push apart cars of a lane that would overlap, the long ones, by shortening them to a car's length."""
    gap, _ = cars.gaps()
    cars.length[(gap < 3.0) | (cars.length > 9) & (np.arange(len(gap)) % 2 == 0)] = 4.3
    cars.length[0] = EGO_SIZE[0]


def _record(road: Road, cars: Cars, log: Floats, others: list[tuple[Floats, Floats, Floats]]) -> Drive:
    """The recorded frames as a Drive. The pose is the bicycle's own, moved to where the first frame stands."""
    speed, steering, s, share, x, y, yaw = log.T
    pose = planar_pose(x[:1], y[:1], yaw[:1])[0] @ integrate(speed, steering)
    at = np.stack([s for s, _, _ in others])
    centre = road.point(at, np.stack([d for _, d, _ in others]))
    heading = road.heading(at) + np.where(cars.direction[1:] > 0, 0.0, np.pi)
    braking = np.stack([a for _, _, a in others]) < -0.6
    width = np.where(cars.length[1:] > 6, 2.4, 1.82)
    traffic = Traffic(np.dstack([centre, heading]), braking, np.stack([cars.length[1:], width], axis=-1), at)
    halts = np.flatnonzero((speed[1:] == 0) & (speed[:-1] > 0) & (share[:-1] == 0))
    stops = tuple(float(s[i + 1]) + EGO_CENTRE + EGO_SIZE[0] / 2 for i in halts)
    return Drive(Motion(pose, speed, steering), s, traffic, stops)
