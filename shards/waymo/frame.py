"""What both versions of the Waymo Open Dataset say of one moment, as far as we use it: no lidar, labels or maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import Camera, Floats

VIEWS = {1: "front", 2: "front_left", 3: "front_right", 4: "side_left", 5: "side_right"}  # CameraName.Name
CAMERA_NAMES = {view: name for name, view in VIEWS.items()}
# Waymo's camera axes (x forward, y left, z up) from ours (x right, y down, z forward)
AXES = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], np.float64)


@dataclass(frozen=True)
class Calibration:
    """CameraCalibration: a camera of a segment. Images are not undistorted."""

    view: str
    width: int  # pixels
    height: int  # pixels
    intrinsic: tuple[float, ...]  # f_u, f_v, c_u, c_v in pixels; k1, k2, p1, p2, k3 of OpenCV's distortion
    extrinsic: Floats  # (4, 4) camera in Waymo's axes -> vehicle

    def camera(self) -> Camera:
        """In our axes, without the distortion."""
        f_u, f_v, c_u, c_v = self.intrinsic[:4]
        k = np.array([[f_u, 0, c_u], [0, f_v, c_v], [0, 0, 1]])
        return Camera(self.view, self.width, self.height, k, self.extrinsic @ AXES)


@dataclass(frozen=True)
class Image:
    """CameraImage: one JPEG, and the vehicle when it was taken."""

    jpeg: bytes
    pose: Floats  # (4, 4) vehicle -> global
    velocity: tuple[float, ...] | None  # v_x, v_y, v_z in m/s; w_x, w_y, w_z in rad/s; global axes
    pose_timestamp: float  # s


@dataclass(frozen=True)
class Frame:
    """One moment of a segment, at 10 Hz."""

    segment: str  # context name
    micros: int  # timestamp
    pose: Floats  # (4, 4) vehicle -> global, vehicle x forward, y left, z up
    images: Mapping[str, Image]  # by view; one may be missing
    calibrations: tuple[Calibration, ...]
    time_of_day: str = ""  # Day, Dawn/Dusk or Night
    location: str = ""  # location_sf, location_phx, location_other
    weather: str = ""  # sunny, rain
