"""The pinhole camera: where it sits, and how polygons get through it.

Pixel i of a row covers [i, i + 1), so that a camera scales with its picture.
"""

from __future__ import annotations

import numpy as np
from einops import rearrange

from gwm.shards.schema import Camera, Floats
from gwm.shards.world.polygons import Bools

FIELD_OF_VIEW = np.radians(68.0)  # horizontal
MOUNT = (1.5, 0.0, 1.5)  # m, ahead of the rear axle, left, above the ground
HORIZON = 0.45  # of the picture's height, from the top
NEAR = 0.3  # m, what is nearer is cut off


def front_camera(width: int, height: int) -> Camera:
    """The front camera for pictures of `width` x `height` pixels: 68 degrees wide, horizon at 45% of the height."""
    focal = width / 2 / np.tan(FIELD_OF_VIEW / 2)
    intrinsics = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    down = np.arctan((0.5 - HORIZON) * height / focal)
    c, s = np.cos(down), np.sin(down)
    extrinsics = np.eye(4)
    extrinsics[:3, 0] = (0.0, -1.0, 0.0)  # picture's right
    extrinsics[:3, 1] = (-s, 0.0, -c)  # picture's down
    extrinsics[:3, 2] = (c, 0.0, -s)  # into the picture
    extrinsics[:3, 3] = MOUNT
    return Camera("front", width, height, intrinsics, extrinsics)


def to_camera(points: Floats, world_from_camera: Floats) -> Floats:
    """World points (..., 3) in the frame of a camera (x right, y down, z forward)."""
    out: Floats = (points - world_from_camera[:3, 3]) @ world_from_camera[:3, :3]
    return out


def pixels(x: Floats, y: Floats, z: Floats, intrinsics: Floats) -> tuple[Floats, Floats]:
    """Pixel columns and rows of points given by their coordinates in the camera's frame; only meaningful for z > 0."""
    k = intrinsics
    return (k[0, 0] * x + k[0, 1] * y) / z + k[0, 2], k[1, 1] * y / z + k[1, 2]


def project(points: Floats, intrinsics: Floats) -> Floats:
    """Pixels (..., 2) of points (..., 3) in the camera's frame; only meaningful for z > 0."""
    return np.stack(pixels(points[..., 0], points[..., 1], points[..., 2], intrinsics), axis=-1)


def clip_near(polygons: Floats) -> tuple[Floats, Bools]:
    """The parts of polygons (P, N, 3) in the camera's frame that lie beyond the near plane.

    Returns corners (P, 2N, 3) and which of them (P, 2N) are corners of the clipped polygons, in order.
    """
    nxt = np.roll(polygons, -1, axis=1)
    inside, goes_in = polygons[..., 2] >= NEAR, nxt[..., 2] >= NEAR
    crosses = inside != goes_in
    share = (NEAR - polygons[..., 2]) / np.where(crosses, nxt[..., 2] - polygons[..., 2], 1.0)
    cut = polygons + share[..., None] * (nxt - polygons)
    corners = rearrange([polygons, cut], "two p n k -> p (n two) k")
    out: tuple[Floats, Bools] = corners, rearrange([inside, crosses], "two p n -> p (n two)")
    return out
