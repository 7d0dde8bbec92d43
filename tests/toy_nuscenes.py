"""A drive in a circle to the left, written as nuScenes: poses, speed, steering and every picture are known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from gwm.shards.images import encode_jpeg
from gwm.shards.motion import planar_pose
from gwm.shards.nuscenes.scene import VIEWS
from gwm.shards.nuscenes.write import Recording, Taken, shot_times, write_nuscenes
from gwm.shards.schema import Camera, Chunk, Skipped
from gwm.shards.sources.nuscenes import NuScenesSource

START = 1_532_402_927_647_951  # µs
SPEED, YAW_RATE = 7.0, 0.3  # m/s, rad/s: a left turn
STEERING = 1.5  # rad at the wheel
SIZE = (32, 18)
DELAYS = {view: 7_000 * i for i, view in enumerate(VIEWS)}  # µs, of the cameras


def pose(micros: int) -> np.ndarray:
    """(4, 4) of the ego, 1 km from the origin."""
    yaw = YAW_RATE * (micros - START) / 1e6 + 1
    radius = SPEED / YAW_RATE
    x, y = 1000 + radius * np.sin(yaw), -radius * np.cos(yaw)
    return planar_pose(*(np.array([v]) for v in (x, y, yaw)))[0]


def camera(view: str) -> Camera:
    """Where the cameras look does matter only for the front one."""
    k = VIEWS.index(view)
    yaw = -np.pi / 3 * k
    c, s = np.cos(yaw), np.sin(yaw)
    extrinsics = np.eye(4)
    extrinsics[:3, :3] = np.array([[s, 0, c], [-c, 0, s], [0, -1, 0]])
    extrinsics[:3, 3] = 1.5, 0.1 * k, 1.5
    return Camera(view, *SIZE, np.array([[20.0 + k, 0, 16], [0, 20.5, 9], [0, 0, 1]]), extrinsics)


@cache
def picture(view: str, index: int) -> bytes:
    """The JPEG of a camera's image: its number and its camera are in the brightness."""
    level = (40 * VIEWS.index(view) + index) % 256
    return encode_jpeg(np.full((SIZE[1], SIZE[0], 3), level, np.uint8))


def can_bus(seconds: float) -> dict[str, list[dict[str, object]]]:
    """All messages from 0.2 s before the drive to 0.2 s after."""
    poses, angles, monitor = [], [], []
    for t in range(START - 200_000, START + int(seconds * 1e6) + 200_000, 20_000):
        matrix = pose(t)
        half = np.arctan2(matrix[1, 0], matrix[0, 0]) / 2
        poses.append(
            {"utime": t, "pos": matrix[:3, 3].tolist(), "orientation": [np.cos(half), 0, 0, np.sin(half)],
             "vel": [SPEED, 0.25, 0.0], "accel": [0, 0, 9.8], "rotation_rate": [0, 0, YAW_RATE]}
        )  # fmt: skip
        angles.append({"utime": t, "value": STEERING})
        if (t - START) % 500_000 == 300_000:
            monitor.append({"utime": t, "vehicle_speed": SPEED * 3.6 + 1.8, "steering": 90.0})
    return {"pose": poses, "steeranglefeedback": angles, "vehicle_monitor": monitor}


def recording(name: str = "scene-0103", seconds: float = 4.0, views: tuple[str, ...] = VIEWS) -> Recording:
    """One scene."""
    images = [
        Taken(view, micros, key, picture(view, i))
        for view in views
        for i, (micros, key) in enumerate(shot_times(START, round(seconds * 1e6) + 1, DELAYS[view]))
    ]
    cameras = tuple(camera(view) for view in views)
    return Recording(
        name, "Rain, left turn", "singapore-onenorth", "2018-07-24", cameras, pose, images, can_bus(seconds)
    )


def without(scene: Recording, view: str, begin: float, end: float) -> Recording:
    """The scene without the images of a camera between two times (s)."""
    images = tuple(
        taken for taken in scene.images if taken.view != view or not begin <= (taken.micros - START) / 1e6 < end
    )
    return replace(scene, images=images)


def write(folder: Path, *scenes: Recording, version: str = "v1.0-mini") -> Path:
    """A dataset of them."""
    write_nuscenes(folder, scenes or (recording(),), version)
    return folder


def read(source: NuScenesSource) -> tuple[list[Chunk], list[Skipped]]:
    """All chunks of a source, and all that it leaves out."""
    found = [p for item in source.items() for p in ([item] if isinstance(item, Skipped) else source.chunks(item))]
    return [c for c in found if isinstance(c, Chunk)], [s for s in found if isinstance(s, Skipped)]
