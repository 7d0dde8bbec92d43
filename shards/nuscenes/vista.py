"""Vista's annotations of nuScenes: clips of 25 front images with the actions of two seconds, as a JSON list.

An element has `frames`, `traj` (5 x, y), `speed` (5, km/h), `angle` (5, degrees at the steering wheel), `goal` (u, v in
pixels), `z` (m, depth of the goal) and `cmd`. The five values are those at 0, 0.5 .. 2 s, the clip's key frames.
`traj` is where LIDAR_TOP is, in its own axes at the first key frame: x right, y forward.

Checked: the fields, units and axes follow Vista's code and the lidar's axes. Not checked, as the published file was
not at hand: the sign of its stored x, and that of its angles. We write and read x as right positive and angles as left
positive; a file whose x is left positive would come out mirrored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gwm.shards.files import json_list
from gwm.shards.motion import command_of
from gwm.shards.nuscenes.can_bus import KMH, CanBus, Signal, read_can_bus
from gwm.shards.nuscenes.scene import Micros, Scene, Shots
from gwm.shards.nuscenes.table import inner_file, numbers, read_list, whole
from gwm.shards.schema import Floats
from gwm.shards.storage import AnyPath

FRAMES = 25  # of a clip
STRIDE = 6  # images from key frame to key frame
KEYS = 5  # key frames of a clip
IMAGE = (1600, 900)  # pixels, in which goals are given
MONITOR = "vehicle_monitor"


@dataclass(frozen=True, eq=False)
class Clip:
    """One element, in our conventions; None where it is empty."""

    number: int  # place in the list
    files: tuple[str, ...]  # 25
    trajectory: Floats  # (5, 2) m, x forward, y left, at 0, 0.5 .. 2 s
    speed: Floats | None  # (5,) m/s
    angle: Floats | None  # (5,) rad at the steering wheel, left positive
    goal: Floats | None  # (2,) of the last waypoint in the first image, / (width, height), in [0, 1]
    command: int | None  # 0 turn right, 1 turn left, 2 stop, 3 go straight


@dataclass(frozen=True)
class Exported:
    """What was written."""

    clips: int
    without_lidar: int  # of them: their trajectory is that of the ego origin, as the lidar's poses are missing


def clip_starts(scene: Scene) -> list[int]:
    """Vista's rule, which gives 5369 clips of the validation split: the front images that clips begin with.

    A clip begins at a key frame with four more key frames after it in the scene; it is the 25 images from there on;
    it is rejected where the images end before, or where an image that is a multiple of six after the first is no key
    frame, as some are missing from the scene.
    """
    if "front" not in scene.cameras:
        return []
    key = scene.cameras["front"].shots.key
    starts = np.flatnonzero(key)[: max(0, int(key.sum()) - (KEYS - 1))]
    return [int(i) for i in starts if i + FRAMES <= len(key) and key[i : i + FRAMES : STRIDE].all()]


def write_clips(path: AnyPath, folder: AnyPath, scenes: Iterable[Scene]) -> Exported:
    """Write the clips of `scenes` of the dataset in `folder`, in Vista's order, to the file `path`."""
    count, without = 0, 0
    with json_list(path) as append:
        for scene in sorted(scenes, key=lambda scene: scene.token):
            can_bus = read_can_bus(folder, scene.name)
            for start in clip_starts(scene):
                fields, lidar = _describe(scene, can_bus, start)
                append(fields)
                count, without = count + 1, without + (not lidar)
    return Exported(count, without)


def read_clips(path: AnyPath) -> Iterator[Clip]:
    """The clips of a file, streamed. Raises SourceError for what is no such file."""
    number = -1

    def make(row: Any) -> Clip:
        nonlocal number
        number += 1
        files = tuple(inner_file({"file": name}, "file").decode() for name in row["frames"])
        if len(files) != FRAMES:
            raise ValueError(f"frames are {len(files)}, not {FRAMES}")
        right, forward = numbers(row, "traj", 2 * KEYS).reshape(KEYS, 2).T
        speed, angle = (numbers(row, name, KEYS) if row.get(name) else None for name in ("speed", "angle"))
        return Clip(
            number, files, np.stack([forward, -right], axis=1),
            None if speed is None else speed * KMH, None if angle is None else np.deg2rad(angle),
            _goal(row), whole(row, "cmd") if row.get("cmd") is not None else None,
        )  # fmt: skip

    return read_list(path, make)


def _goal(row: Any) -> Floats | None:
    """Vista's own test of whether it counts."""
    if not row.get("goal"):
        return None
    goal = numbers(row, "goal", 2) / IMAGE
    return goal if float(numbers(row, "z")) > 0 and bool(((goal > 0) & (goal < 1)).all()) else None


def _describe(scene: Scene, can_bus: CanBus, start: int) -> tuple[dict[str, object], bool]:
    """The element of the clip that begins with a front image, and whether its trajectory is the lidar's."""
    shots = scene.cameras["front"].shots
    keys = np.arange(start, start + FRAMES, STRIDE)
    poses, lidar = _key_poses(scene, shots, keys)
    in_first = (np.linalg.inv(poses[0]) @ poses)[:, :3, 3]
    right_forward = in_first[:, :2] if lidar else np.stack([-in_first[:, 1], in_first[:, 0]], axis=1)
    goal, depth = _project(scene, start, poses[-1])
    speed, angle = can_bus.speeds.get(MONITOR), can_bus.steering.get(MONITOR)
    micros = shots.micros[keys]
    return {
        "frames": [shots.file(i) for i in range(start, start + FRAMES)],
        "traj": right_forward.ravel().tolist(),
        "cmd": command_of(np.array([right_forward[-1, 1], -right_forward[-1, 0]])),
        "speed": _nearest(speed, micros, 1 / KMH),
        "angle": _nearest(angle, micros, float(np.rad2deg(1))),
        "goal": goal,
        "z": depth,
    }, lidar


def _key_poses(scene: Scene, shots: Shots, keys: np.ndarray[Any, Any]) -> tuple[Floats, bool]:
    """(5, 4, 4) -> global of LIDAR_TOP at the samples of the key frames; of the ego where one of them has no lidar."""
    if scene.lidar is not None:
        own = {bytes(sample): i for i, sample in enumerate(scene.lidar.shots.samples)}
        rows = [own.get(bytes(sample), -1) for sample in shots.samples[keys]]
        if min(rows) >= 0:
            return scene.lidar.shots.ego.poses[rows] @ scene.lidar.extrinsics, True
    return shots.ego.poses[keys], False


def _project(scene: Scene, start: int, last: Floats) -> tuple[list[float], float]:
    """Pixel and depth of the last waypoint in the first front image.

    Not in Vista's description: at which height it lies. Ours is that of the ego's origin there, which is the ground.
    """
    front = scene.cameras["front"]
    camera = front.shots.ego.poses[start] @ front.extrinsics
    ground = np.array([*last[:2, 3], front.shots.ego.translation[start, 2], 1.0])
    x, y, z = (np.linalg.inv(camera) @ ground)[:3]
    if z <= 0:
        return [0.0, 0.0], float(z)
    u, v, _ = front.intrinsics @ np.array([x, y, z]) / z
    return [float(u * IMAGE[0] / front.width), float(v * IMAGE[1] / front.height)], float(z)


def _nearest(signal: Signal | None, micros: Micros, factor: float) -> list[float]:
    """The value of the message nearest to each moment, [] where one has none near enough; digits as the bus has."""
    if signal is None:
        return []
    distance = np.abs(signal.micros[None] - micros[:, None])
    if (distance.min(axis=1) > signal.reach).any():
        return []
    return [round(float(value) * factor, 6) for value in signal.values[distance.argmin(axis=1)]]
