"""A dataset in nuScenes' format from drives whose truth is known: 13 tables, images, CAN bus, a map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np

from gwm.shards import SourceError
from gwm.shards.files import json_list, make_folder
from gwm.shards.nuscenes.can_bus import FOLDER, message_file
from gwm.shards.nuscenes.scene import CHANNELS, LIDAR
from gwm.shards.nuscenes.track import quaternion
from gwm.shards.schema import Camera, Floats
from gwm.shards.storage import AnyPath
from gwm.shards.writer import writing

CHANNEL_OF = {view: channel for channel, view in CHANNELS.items()}
PATTERN = (0, 100_000, 150_000, 250_000, 350_000, 400_000)  # µs, when a camera takes images; the first is a key frame
PERIOD = 500_000  # µs between key frames
TABLES = (
    "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene",
    "sample", "sample_data", "sample_annotation", "map",
)  # fmt: skip
# Roughly where the lidar is on the real car: LIDAR_TOP's axes are x right, y forward.
LIDAR_MOUNT = np.array([[0, 1, 0, 0.94], [-1, 0, 0, 0], [0, 0, 1, 1.84], [0, 0, 0, 1]], np.float64)


class Taken(NamedTuple):
    """One image of a recording."""

    view: str
    micros: int
    key: bool
    jpeg: bytes


@dataclass(frozen=True)
class Recording:
    """One scene to be written."""

    name: str  # scene-dddd; an official one, so that it has a split
    description: str
    location: str
    date: str  # YYYY-MM-DD
    cameras: Sequence[Camera]
    pose: Callable[[int], Floats]  # µs -> (4, 4) ego -> global
    images: Iterable[Taken]  # those of a view in time order, every view with as many key frames
    can_bus: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)  # messages by name
    lidar: bool = True  # a file of LIDAR_TOP at each key frame, without points


def shot_times(start: int, duration: int, delay: int = 0) -> list[tuple[int, bool]]:
    """When a camera takes images, and whether they are key frames: from `start` + `delay` for `duration` (all µs).

    About 12 Hz, irregular as in the real data, where steps are multiples of 50 ms; the last is a key frame.
    """
    found = [(start + delay + t + o, o == 0) for t in range(0, duration, PERIOD) for o in PATTERN if t + o < duration]
    while found and not found[-1][1]:
        found.pop()
    return found


def make_token(*name: object) -> str:
    """The token of a row: 32 hex digits that follow from its name."""
    return hashlib.md5("/".join(map(str, name)).encode(), usedforsecurity=False).hexdigest()


def write_nuscenes(folder: AnyPath, recordings: Iterable[Recording], version: str = "v1.0-mini") -> None:
    """Write `recordings` as a dataset into `folder`; each is taken one by one, and its images as well.

    Raises SourceError for a recording that is no scene, ShardError where `folder` cannot be written to.
    """
    make_folder(folder)
    with writing(folder), ExitStack() as files:
        for part in (version, "maps", FOLDER):
            (folder / part).mkdir(exist_ok=True)
        put = {table: files.enter_context(json_list(folder / version / f"{table}.json")) for table in TABLES}
        for channel in (*CHANNELS, LIDAR):
            modality = "lidar" if channel == LIDAR else "camera"
            put["sensor"]({"token": make_token("sensor", channel), "channel": channel, "modality": modality})
        logs = [_write_recording(folder, recording, put) for recording in recordings]
        drawing = np.zeros((16, 16), np.uint8)
        (folder / "maps/empty.png").write_bytes(cv2.imencode(".png", drawing)[1].tobytes())
        put["map"](
            {
                "token": make_token("map"),
                "log_tokens": logs,
                "category": "semantic_prior",
                "filename": "maps/empty.png",
            }
        )


@dataclass(frozen=True)
class _Stored:
    """A file of a sensor that was written."""

    channel: str
    micros: int
    key: bool
    file: str
    size: tuple[int, int]


Put = Mapping[str, Callable[[Mapping[str, object]], None]]


def _write_recording(folder: AnyPath, recording: Recording, put: Put) -> str:
    """One scene. Gives the token of its log."""
    scene = recording.name
    log, logfile = make_token("log", scene), f"world-{recording.date}-{scene}"
    stored = list(_write_images(folder, recording, logfile))
    moments = _key_moments(recording, stored)
    if recording.lidar:
        stored += _write_lidar(folder, moments, logfile)
    put["log"](
        {
            "token": log, "logfile": logfile, "vehicle": "world", "date_captured": recording.date,
            "location": recording.location,
        }
    )  # fmt: skip
    samples = [make_token("sample", scene, micros) for micros in moments]
    put["scene"](
        {
            "token": make_token("scene", scene), "log_token": log, "nbr_samples": len(samples),
            "first_sample_token": samples[0], "last_sample_token": samples[-1], "name": scene,
            "description": recording.description,
        }
    )  # fmt: skip
    for i, micros in enumerate(moments):
        row = {"token": samples[i], "timestamp": micros, "scene_token": make_token("scene", scene)}
        put["sample"]({**row, **_neighbours(samples, i)})
    mounts = {CHANNEL_OF[camera.view]: (camera.extrinsics, camera.intrinsics.tolist()) for camera in recording.cameras}
    for channel, (extrinsics, intrinsics) in (mounts | ({LIDAR: (LIDAR_MOUNT, [])} if recording.lidar else {})).items():
        put["calibrated_sensor"](
            {
                "token": make_token("calibration", scene, channel), "sensor_token": make_token("sensor", channel),
                **_pose(extrinsics), "camera_intrinsic": intrinsics,
            }
        )  # fmt: skip
        _write_rows(scene, [one for one in stored if one.channel == channel], moments, recording.pose, put)
    for message, rows in recording.can_bus.items():
        message_file(folder, scene, message).write_text(json.dumps(list(rows)), encoding="utf-8")
    return log


def _write_images(folder: AnyPath, recording: Recording, logfile: str) -> Iterator[_Stored]:
    sizes = {camera.view: (camera.width, camera.height) for camera in recording.cameras}
    for view, micros, key, jpeg in recording.images:
        if view not in sizes:
            raise SourceError(f"{recording.name} has an image of {view!r}, but no such camera among {sorted(sizes)}")
        channel = CHANNEL_OF[view]
        path = f"{'samples' if key else 'sweeps'}/{channel}/{logfile}__{channel}__{micros}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(jpeg)
        yield _Stored(channel, micros, key, path, sizes[view])


def _key_moments(recording: Recording, stored: Sequence[_Stored]) -> list[int]:
    """When the samples are: at the key frames of the first camera."""
    first = CHANNEL_OF[recording.cameras[0].view] if recording.cameras else ""
    moments = [one.micros for one in stored if one.key and one.channel == first]
    if not moments:
        raise SourceError(f"{recording.name} has no key frame of a first camera")
    return moments


def _write_lidar(folder: AnyPath, moments: Iterable[int], logfile: str) -> Iterator[_Stored]:
    (folder / "samples" / LIDAR).mkdir(parents=True, exist_ok=True)
    for micros in moments:
        path = f"samples/{LIDAR}/{logfile}__{LIDAR}__{micros}.pcd.bin"
        (folder / path).write_bytes(np.zeros(5, "<f4").tobytes())  # one point: x, y, z, intensity, ring
        yield _Stored(LIDAR, micros, True, path, (0, 0))


def _write_rows(
    scene: str, shots: Sequence[_Stored], moments: Sequence[int], pose: Callable[[int], Floats], put: Put
) -> None:
    """The rows of one channel."""
    names = [make_token("image", scene, one.channel, one.micros) for one in shots]
    for i, one in enumerate(shots):
        put["ego_pose"]({"token": names[i], **_pose(pose(one.micros)), "timestamp": one.micros})
        put["sample_data"](
            {
                "token": names[i], "sample_token": make_token("sample", scene, _sample(one, moments)),
                "ego_pose_token": names[i], "calibrated_sensor_token": make_token("calibration", scene, one.channel),
                "timestamp": one.micros, "fileformat": one.file.rpartition(".")[2].replace("bin", "pcd"),
                "is_key_frame": one.key, "height": one.size[1], "width": one.size[0], "filename": one.file,
                **_neighbours(names, i),
            }
        )  # fmt: skip


def _sample(one: _Stored, moments: Sequence[int]) -> int:
    """The moment of the sample that a file belongs to: a key frame to the nearest, a sweep to the following one."""
    if one.key:
        return min(moments, key=lambda micros: abs(micros - one.micros))
    return next((micros for micros in moments if micros >= one.micros), moments[-1])


def _neighbours(names: Sequence[str], i: int) -> dict[str, str]:
    return {"prev": names[i - 1] if i else "", "next": names[i + 1] if i + 1 < len(names) else ""}


def _pose(matrix: Floats) -> dict[str, list[float]]:
    return {"rotation": quaternion(matrix[:3, :3]).tolist(), "translation": matrix[:3, 3].tolist()}
