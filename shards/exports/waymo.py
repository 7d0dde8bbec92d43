"""The world as Waymo's perception dataset, version 1 (TFRecord) and 2 (Parquet): the same frames in both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from gwm.shards.exports.takes import Advance, Take, cameras_of, duration, scene_of, takes
from gwm.shards.images import encode_jpeg
from gwm.shards.schema import FRAME_RATE, Camera, Floats
from gwm.shards.sources.world import WorldSource
from gwm.shards.storage import AnyPath
from gwm.shards.tfrecord import frame_record
from gwm.shards.waymo import v1, v2
from gwm.shards.waymo.frame import AXES, VIEWS, Calibration, Frame, Image
from gwm.shards.world import Renderer, Scene, Stage

STEP = round(1e6 / FRAME_RATE)  # µs
POSE = 50_000  # µs after a frame's timestamp, where its pose is: it is that of the middle of the lidar's turn
# When a camera takes its picture, µs after the frame's timestamp: the front two as in a real record, the others so
# that the beam goes round clockwise at that pace.
DELAYS = {"front": 52_000, "front_left": 42_000, "side_left": 32_000, "front_right": 62_000, "side_right": 72_000}
ORDER = tuple(DELAYS)  # of the images in a real record; calibrations are in the order of the cameras' numbers
FOLDERS = {"train": "training", "val": "validation"}
TIMES = {"day": "Day", "dusk": "Dawn/Dusk", "night": "Night"}
# The real data know sunny and rain alone; the other two say what the pictures show.
WEATHERS = {"clear": "sunny", "overcast": "overcast", "rain": "rain", "fog": "fog"}
LOCATION = "location_other"


def export_v1(world: WorldSource, folder: AnyPath, advance: Advance) -> None:
    """Write `world` (rig "waymo") into `folder`: a TFRecord file for each segment, frame by frame."""
    for take in takes(world):
        path = folder / FOLDERS[take.split] / f"segment-{segment_name(world, take)}_with_camera_labels.tfrecord"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            for frame in _frames(world, take, advance):
                file.write(frame_record(v1.encode_frame(frame)))


def export_v2(world: WorldSource, folder: AnyPath, advance: Advance) -> None:
    """Write `world` (rig "waymo") into `folder`: a Parquet file for each segment and component."""
    for take in takes(world):
        v2.write_segment(
            _opening(folder / FOLDERS[take.split], segment_name(world, take)), _frames(world, take, advance)
        )


def count_pictures(world: WorldSource) -> int:
    """How many either draws."""
    return len(takes(world)) * _length(world) * len(ORDER)


def segment_name(world: WorldSource, take: Take) -> str:
    """A context name: 19 digits, and from when to when in s_ms."""
    digits = int.from_bytes(hashlib.sha256(f"{world.seed} {take.index}".encode()).digest()[:8], "big")
    end = f"{_length(world) / FRAME_RATE:.3f}".replace(".", "_")
    return f"{10**18 + digits % (9 * 10**18)}_0_000_{end}"


def _opening(folder: AnyPath, segment: str) -> Callable[[str], BinaryIO]:
    def open_component(component: str) -> BinaryIO:
        path = folder / component / f"{segment}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        file: BinaryIO = path.open("wb")
        return file

    return open_component


def _length(world: WorldSource) -> int:
    """Frames of a segment: the pictures of the last have to be taken before the scene ends."""
    return (duration(world) - max(DELAYS.values())) // STEP + 1


def _frames(world: WorldSource, take: Take, advance: Advance) -> Iterator[Frame]:
    scene = scene_of(world, take)
    stage = Stage(scene)
    cameras = {camera.view: camera for camera in cameras_of("waymo", world.size)}
    calibrations = tuple(_calibration(cameras[view]) for view in VIEWS.values())
    renderers = {view: Renderer(scene, cameras[view], stage) for view in ORDER}
    look, name = scene.look, segment_name(world, take)
    for at in range(0, _length(world) * STEP, STEP):
        images = {}
        for view in ORDER:
            images[view] = _image(renderers[view], at + DELAYS[view], take.start)
            advance()
        pose = scene.pose_at((at + POSE) / 1e6)
        yield Frame(
            name, take.start + at, pose, images, calibrations, TIMES[look.time], LOCATION, WEATHERS[look.weather]
        )


def _calibration(camera: Camera) -> Calibration:
    k = camera.intrinsics
    lens = (k[0, 0], k[1, 1], k[0, 2], k[1, 2], 0.0, 0.0, 0.0, 0.0, 0.0)
    return Calibration(camera.view, camera.width, camera.height, tuple(map(float, lens)), camera.extrinsics @ AXES.T)


def _image(renderer: Renderer, micros: int, start: int) -> Image:
    """The picture taken `micros` µs after the scene's first frame, which was at `start`."""
    scene, time = renderer.scene, micros / 1e6
    pose = scene.pose_at(time)
    return Image(encode_jpeg(renderer.at(time)), pose, _velocity(scene, pose, time), (start + micros) / 1e6)


def _velocity(scene: Scene, pose: Floats, time: float) -> tuple[float, ...]:
    """m/s and rad/s in the global axes, of the rear axle."""
    linear = pose[:3, 0] * float(scene.speed_at(time))
    angular = pose[:3, 2] * float(scene.yaw_rate_at(time))
    velocity: list[float] = np.concatenate([linear, angular]).tolist()
    return tuple(velocity)
