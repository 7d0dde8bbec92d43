"""Cars on the side roads: they come to the road, wait, and drive straight on when nobody is in their way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gwm.shards.motion import WHEELBASE
from gwm.shards.schema import Floats
from gwm.shards.world.drive import Drive, Traffic
from gwm.shards.world.junctions import LANE, Arm, Junction
from gwm.shards.world.order import Footprints, overlapping
from gwm.shards.world.polygons import Bools
from gwm.shards.world.traffic import BRAKE, DT, EGO_SIZE, LENGTHS, PUSH

SPEED = 8.0  # m/s, at which side roads are driven
WIDTH = 1.82  # m, of the cars
STOP = 1.6  # m from where the side road leaves the road to the front of a waiting car
PATIENCE = 1.5  # s, free time that drivers want before and after they cross
GONE = -1.0  # arc length of a car that has left the scene


def add_crossing(rng: np.random.Generator, driven: Drive, junctions: Sequence[Junction]) -> Traffic:
    """The traffic of `driven`, and after it the cars of the side roads.

    These give way to everybody on the road, whose drives are the same with and without them.
    """
    road = _everybody(driven)
    frames = len(driven.traffic.pose)
    cars = [
        _car(rng, frames, junction, arm, road)
        for junction in junctions
        for arm in junction.arms
        if rng.random() < 0.75  # Our choice: so many side roads have a car
    ]
    return _join([driven.traffic, *cars])


def _everybody(driven: Drive) -> Footprints:
    """The footprints (T * n,) of the ego and all cars on the road, frame by frame."""
    assert driven.ego.pose is not None
    ego = driven.ego.pose @ np.array([WHEELBASE / 2, 0.0, 0.0, 1.0])
    yaw = np.arctan2(driven.ego.pose[:, 1, 0], driven.ego.pose[:, 0, 0])
    poses = np.concatenate([np.stack([ego[:, 0], ego[:, 1], yaw], axis=-1)[:, None], driven.traffic.pose], axis=1)
    size = np.concatenate([[EGO_SIZE], driven.traffic.size])
    half = np.broadcast_to(size / 2, (len(poses), *size.shape))
    return Footprints(poses[..., :2].reshape(-1, 2), poses[..., 2].reshape(-1), half.reshape(-1, 2))


def _car(rng: np.random.Generator, frames: int, junction: Junction, arm: Arm, road: Footprints) -> Traffic:
    """One car that comes along `arm`: it crosses as soon as it can, or waits to the end."""
    length = float(rng.choice(LENGTHS))
    begin = float(rng.uniform(arm.near + STOP + length / 2, arm.far))
    stop, end = (
        arm.near + STOP + length / 2,
        -max((other.far for other in junction.arms if other is not arm), default=0),
    )
    path = _drive(begin, stop, end, None, frames)
    if junction.crossing:
        half = np.array([[arm.near + STOP, WIDTH / 2 + 0.8]])  # its way over the road
        way = Footprints(arm.point(0.0, LANE)[None], np.array([arm.yaw]), half)
        taken = overlapping(way, road).reshape(frames, -1).any(axis=1)
        for go in range(int(rng.integers(0, 20)), frames):
            crossed = _drive(begin, stop, end, go, frames)
            if not (taken & _soon(crossed, stop, -stop)).any():
                path = crossed
                break
    here = arm.point(path, LANE)
    pose = np.column_stack([here, np.full(frames, arm.yaw + np.pi)])
    slower = np.diff(np.diff(path, prepend=begin), append=0.0) / DT**2 > 0.6  # u falls: it brakes where that slows down
    s = np.where(path > end, junction.s, GONE)
    return Traffic(pose[:, None], (slower | (path == stop))[:, None], np.array([[length, WIDTH]]), s[:, None])


def _soon(path: Floats, stop: float, beyond: float) -> Bools:
    """(T,) whether a car on `path` is between `stop` and `beyond`, was so or will be so within PATIENCE."""
    there = np.flatnonzero((path < stop) & (path > beyond))
    out = np.zeros(len(path), bool)
    if len(there):
        around = round(PATIENCE / DT)
        out[max(there[0] - around, 0) : there[-1] + around + 1] = True
    return out


def _drive(begin: float, stop: float, end: float, go: int | None, frames: int) -> Floats:
    """(T,) u of a car's middle: from `begin` inwards to `stop`; from frame `go` on through to `end`, never beyond."""
    path = np.empty(frames)
    u, speed = begin, min(SPEED, float(np.sqrt(2 * BRAKE * (begin - stop))))
    for i in range(frames):
        path[i] = u
        free = go is not None and i >= go
        most = SPEED if free else min(SPEED, float(np.sqrt(2 * BRAKE * (u - stop))))
        speed = min(speed + PUSH * DT, most)
        u = max(u - speed * DT, end if free else stop)
        if not free and u - stop < 0.01:
            u, speed = stop, 0.0
    return path


def _join(parts: Sequence[Traffic]) -> Traffic:
    return Traffic(
        np.concatenate([part.pose for part in parts], axis=1),
        np.concatenate([part.braking for part in parts], axis=1),
        np.concatenate([part.size for part in parts]),
        np.concatenate([part.s for part in parts], axis=1),
    )
