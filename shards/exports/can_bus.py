"""What the ego of the world would say on nuScenes' CAN bus: three messages, at their own rates, moments and units.

What the world does not know (pedals, battery, lights) is not made up: those fields are not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gwm.shards.nuscenes.can_bus import KMH
from gwm.shards.nuscenes.track import quaternion
from gwm.shards.schema import Floats
from gwm.shards.world import Scene

PERIODS = {"pose": (20_000, 3_300), "steeranglefeedback": (10_000, 7_100), "vehicle_monitor": (500_000, 180_000)}
GRAVITY = 9.81  # m/s²
SLOPE = 0.01  # s on either side over which a derivative is taken

Rows = list[dict[str, Any]]


def messages(scene: Scene, start: int) -> dict[str, Rows]:
    """The messages of a scene that begins at `start` (µs), by name."""
    makers = {"pose": _pose, "steeranglefeedback": _angle, "vehicle_monitor": _monitor}
    found = {}
    for name, make in makers.items():
        period, offset = PERIODS[name]
        micros = np.arange(offset, round(scene.duration * 1e6) + 1, period)
        rows = make(scene, micros / 1e6)
        found[name] = [{"utime": start + at, **row} for at, row in zip(micros.tolist(), rows, strict=True)]
    return found


def _pose(scene: Scene, times: Floats) -> Rows:
    """Position in the global frame, m; the others in the ego frame, m/s, m/s² and rad/s."""
    speed, rate = scene.speed_at(times), scene.yaw_rate_at(times)
    ahead = _slope(scene.speed_at, times, scene.duration)
    poses = [scene.pose_at(t) for t in times.tolist()]
    return [
        {"pos": pose[:3, 3].tolist(), "orientation": quaternion(pose[:3, :3]).tolist(), "vel": [v, 0.0, 0.0],
         "accel": [a, v * w, GRAVITY], "rotation_rate": [0.0, 0.0, w]}
        for pose, v, w, a in zip(poses, speed.tolist(), rate.tolist(), ahead.tolist(), strict=True)
    ]  # fmt: skip


def _angle(scene: Scene, times: Floats) -> Rows:
    """Of the steering wheel, rad, left positive."""
    return [{"value": angle} for angle in scene.steering_at(times).tolist()]


def _monitor(scene: Scene, times: Floats) -> Rows:
    """km/h and degrees, left positive, with the digits that the real messages have."""
    columns = {
        "vehicle_speed": (scene.speed_at(times) / KMH).round(2),
        "steering": np.degrees(scene.steering_at(times)).round(1),
        "steering_speed": np.degrees(_slope(scene.steering_at, times, scene.duration)).round(1),
        "yaw_rate": np.degrees(scene.yaw_rate_at(times)).round(2),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _slope(values_at: Callable[[Floats], Floats], times: Floats, end: float) -> Floats:
    """The derivative in time; none is taken outside of 0 .. `end`."""
    before, after = np.maximum(times - SLOPE, 0.0), np.minimum(times + SLOPE, end)
    slope: Floats = (values_at(after) - values_at(before)) / (after - before)
    return slope
