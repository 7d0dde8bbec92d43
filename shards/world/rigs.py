"""Where cameras are mounted: in front alone, or all around as on the cars of nuScenes and Waymo.

The numbers are rounded from the data sets' own calibrations. All cameras are pinholes: nuScenes publishes undistorted
images, Waymo's lenses are not imitated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards import SourceError
from gwm.shards.images import Size, fit_camera
from gwm.shards.schema import Camera
from gwm.shards.world.camera import front_camera

RIGS = ("front", "nuscenes", "waymo")
FRONT_SIZE = (1280, 720)  # Our choice: the front camera's own size, as most videos have it


@dataclass(frozen=True)
class Mount:
    """One level camera of a rig, at the data set's own size."""

    view: str
    yaw: float  # degrees, left positive
    at: tuple[float, float, float]  # m in the ego frame
    size: Size
    focal: float  # pixels
    centre: tuple[float, float]  # pixels, of the optical axis

    def camera(self) -> Camera:
        """The mount as a camera."""
        (f, (u, v)), yaw = (self.focal, self.centre), np.radians(self.yaw)
        c, s = np.cos(yaw), np.sin(yaw)
        extrinsics = np.eye(4)
        extrinsics[:3, 0] = (s, -c, 0.0)  # picture's right
        extrinsics[:3, 1] = (0.0, 0.0, -1.0)  # picture's down
        extrinsics[:3, 2] = (c, s, 0.0)  # into the picture
        extrinsics[:3, 3] = self.at
        intrinsics = np.array([[f, 0.0, u], [0.0, f, v], [0.0, 0.0, 1.0]])
        return Camera(self.view, *self.size, intrinsics, extrinsics)


NUSCENES, WAYMO, WAYMO_SIDE = (1600, 900), (1920, 1280), (1920, 886)
MOUNTS = {
    "nuscenes": (
        Mount("front", 0.0, (1.70, 0.02, 1.51), NUSCENES, 1266.0, (816.0, 491.5)),
        Mount("front_right", -55.0, (1.55, -0.49, 1.50), NUSCENES, 1261.0, (808.0, 495.0)),
        Mount("back_right", -110.0, (1.01, -0.48, 1.56), NUSCENES, 1260.0, (807.0, 501.0)),
        Mount("back", 180.0, (0.03, 0.0, 1.58), NUSCENES, 809.0, (829.0, 482.0)),
        Mount("back_left", 110.0, (1.04, 0.48, 1.59), NUSCENES, 1257.0, (792.0, 493.0)),
        Mount("front_left", 55.0, (1.52, 0.49, 1.51), NUSCENES, 1273.0, (827.0, 480.0)),
    ),
    "waymo": (  # the two at the sides have lost their upper part: the horizon is high in them
        Mount("front", 0.0, (1.54, -0.02, 2.12), WAYMO, 2055.0, (940.0, 641.0)),
        Mount("front_left", 45.0, (1.50, 0.09, 2.12), WAYMO, 2055.0, (955.0, 640.0)),
        Mount("front_right", -45.0, (1.49, -0.09, 2.12), WAYMO, 2055.0, (960.0, 635.0)),
        Mount("side_left", 90.0, (1.43, 0.11, 2.12), WAYMO_SIDE, 2050.0, (965.0, 242.0)),
        Mount("side_right", -90.0, (1.43, -0.11, 2.12), WAYMO_SIDE, 2050.0, (970.0, 245.0)),
    ),
}  # fmt: skip


def rig_cameras(rig: str, size: Size | None = None) -> tuple[Camera, ...]:
    """The cameras of a rig for pictures of `size` (width, height), all alike; None: each at its own size.

    Where the shape differs from a camera's own, the picture's middle is taken, as `images.fit` does; only "front" is
    made for any shape. Raises SourceError for another rig.
    """
    if rig not in RIGS:
        raise SourceError(f"rig {rig!r}: must be one of {', '.join(RIGS)}")
    if rig == "front":
        return (front_camera(*(size or FRONT_SIZE)),)
    cameras = [mount.camera() for mount in MOUNTS[rig]]
    return tuple(camera if size is None else fit_camera(camera, size) for camera in cameras)
