"""What the tables of nuScenes say of one scene, as far as we use it: packed, as trainval has a million images.

Axes: ego x forward, y left, z up, its origin on the ground under the rear axle; cameras x right, y down, z forward;
LIDAR_TOP x right, y forward, z up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gwm.shards.nuscenes.track import Track, matrices
from gwm.shards.schema import Camera, Floats

CHANNELS = {
    "CAM_FRONT": "front", "CAM_FRONT_RIGHT": "front_right", "CAM_BACK_RIGHT": "back_right",
    "CAM_BACK": "back", "CAM_BACK_LEFT": "back_left", "CAM_FRONT_LEFT": "front_left",
}  # fmt: skip
VIEWS = tuple(CHANNELS.values())
LIDAR = "LIDAR_TOP"

Micros = npt.NDArray[np.int64]
Strings = npt.NDArray[np.bytes_]


@dataclass(frozen=True, eq=False)
class Shots:
    """The N files of one sensor in time order, and the vehicle when each was taken."""

    ego: Track  # ego -> global; its times are those of the files
    files: Strings  # (N,) relative to the dataset's folder
    tokens: Strings  # (N,) of sample_data
    samples: Strings  # (N,) tokens of the samples they belong to; a sweep to the following one
    key: npt.NDArray[np.bool_]  # (N,)

    @property
    def micros(self) -> Micros:
        """(N,) timestamps in µs."""
        return self.ego.micros

    def file(self, index: int) -> str:
        """The name of a file."""
        return bytes(self.files[index]).decode()


@dataclass(frozen=True, eq=False)
class Sensor:
    """One sensor of a scene with its calibration."""

    channel: str
    translation: Floats  # (3,) m, sensor -> ego
    rotation: Floats  # (4,) w, x, y, z
    intrinsics: Floats  # (3, 3) pixels; (0, 0) for the lidar
    width: int  # pixels, as the table says; 0 for the lidar
    height: int
    shots: Shots

    @property
    def extrinsics(self) -> Floats:
        """(4, 4) sensor -> ego."""
        extrinsics: Floats = matrices(self.translation[None], self.rotation[None])[0]
        return extrinsics

    def camera(self) -> Camera:
        """As a camera of our own."""
        return Camera(CHANNELS[self.channel], self.width, self.height, self.intrinsics, self.extrinsics)


@dataclass(frozen=True, eq=False)
class Scene:
    """One scene of about 20 s."""

    name: str  # scene-dddd
    token: str
    description: str
    location: str
    date: str  # YYYY-MM-DD
    split: str  # train, val or test
    split_from: str  # official, splits.json, or "" where it is in no list
    samples: Strings  # (N,) tokens of the key moments in time order
    key_micros: Micros  # (N,)
    cameras: Mapping[str, Sensor]  # by view; one without images is not there
    lidar: Sensor | None  # its key frames
