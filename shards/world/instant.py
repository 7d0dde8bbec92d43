"""The world between its frames: where everything is at any time, and exactly the frame's values at the frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.motion import STEERING_RATIO, WHEELBASE, planar_pose
from gwm.shards.schema import FRAME_RATE, Floats, Motion
from gwm.shards.world.drive import Traffic
from gwm.shards.world.order import Footprints
from gwm.shards.world.polygons import Bools, Ints

SNAP = 1e-6  # of a frame; a time that close to a frame's is that frame's


@dataclass(frozen=True)
class Instant:
    """Everything that moves, at one time: the ego and n cars."""

    time: float  # s since the first frame
    ego: Floats  # (4, 4) ego -> world
    speed: float  # m/s, of the ego; 0 where the motion does not say
    cars: Floats  # (n, 3) x, y, yaw of the middle of each car
    braking: Bools  # (n,)
    size: Floats  # (n, 2) m, length and width
    s: Floats  # (n,) m, arc length

    def prints(self) -> Footprints:
        """The footprints of the cars."""
        return Footprints(self.cars[:, :2], self.cars[:, 2], self.size / 2)


def frames_before(times: Floats | float, frames: int) -> tuple[Ints, Floats]:
    """The frame at or before each of `times` (s), and how far on (0 .. 1) towards the next.

    The times must lie between the first and the last of the `frames` frames.
    """
    at = np.asarray(times, float) * FRAME_RATE
    at = np.where(np.abs(at - np.rint(at)) < SNAP, np.rint(at), at)
    last = (frames - 1) / FRAME_RATE
    assert at.size == 0 or (at.min() >= 0 and at.max() <= frames - 1), f"times {times}: a scene of 0 .. {last} s"
    i = np.floor(at).astype(np.int64)
    return i, at - i


def values_at(values: Floats, times: Floats | float) -> Floats:
    """`values` (T,) of the frames at `times` (s), linear in between."""
    i, share = frames_before(times, len(values))
    after = np.minimum(i + 1, len(values) - 1)
    out: Floats = values[i] + share * (values[after] - values[i])
    return out


def poses_at(motion: Motion, times: Floats) -> Floats:
    """Ego poses (N, 4, 4) at `times` (N,) s: between two frames the speed is linear and the curvature constant.

    This is the bicycle of `motion.integrate`, stopped on its way: a whole step leads to the next frame.
    """
    assert motion.pose is not None
    i, share = frames_before(times, len(motion.pose))
    if not share.any():  # no speed needed, and the frame's own bytes
        return motion.pose[i]
    assert motion.speed is not None
    assert motion.steering is not None
    v, wheel = motion.speed, motion.steering
    after = np.minimum(i + 1, len(v) - 1)
    path = (v[i] * share + (v[after] - v[i]) * share**2 / 2) / FRAME_RATE
    yaw = path * np.tan((wheel[i] + wheel[after]) / 2 / STEERING_RATIO) / WHEELBASE
    out: Floats = motion.pose[i] @ planar_pose(path * np.cos(yaw / 2), path * np.sin(yaw / 2), yaw)
    return out


def instant_at(motion: Motion, traffic: Traffic, time: float) -> Instant:
    """Where the ego and the others are at `time` (s): the others on straight lines between two frames."""
    at, part = frames_before(time, len(traffic.pose))
    i, share = int(at), float(part)
    cars, s = traffic.pose[i], traffic.s[i]
    if share > 0:
        cars = cars + share * (traffic.pose[i + 1] - cars)
        s = s + share * (traffic.s[i + 1] - s)
    speed = 0.0 if motion.speed is None else float(values_at(motion.speed, time))
    return Instant(time, poses_at(motion, np.array([time]))[0], speed, cars, traffic.braking[i], traffic.size, s)
