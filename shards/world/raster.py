"""From polygons in the camera's frame to coordinates that OpenCV draws, at the supersampled size."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from gwm.shards.schema import Camera, Floats, Images
from gwm.shards.world.camera import NEAR, clip_near, pixels, project
from gwm.shards.world.polygons import Bools

SHIFT = 4  # fractional bits of drawing coordinates
SPECK = 12  # what is smaller than this many 1 / 2^SHIFT of a supersampled pixel is not drawn
WIDE = 512  # the supersampled picture is at least this wide

Corners = npt.NDArray[np.int32]


class Raster:
    """The supersampled picture of one camera."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.factor = max(2, -(-WIDE // camera.width))  # so that thin things move smoothly
        self.lens = camera.intrinsics * np.array([[self.factor], [self.factor], [1.0]])
        self.width, self.height = camera.width * self.factor, camera.height * self.factor
        edges = np.array([[0, 0, 1], [0, camera.height, 1], [camera.width, 0, 1], [camera.width, camera.height, 1]])
        sideways = (edges @ np.linalg.inv(camera.intrinsics).T)[:, 0]
        self.span = float(sideways.min()), float(sideways.max())  # x / z at the left and the right edge

    def reduce(self, picture: Images) -> Images:
        """The supersampled picture at the camera's own size."""
        small = cv2.resize(picture, (self.camera.width, self.camera.height), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)

    def near(self, points: Floats, reach: Floats | float) -> Bools:
        """Which points (P, 3) in the camera's frame may be seen if they extend `reach` metres around themselves."""
        x, z = points[:, 0], points[:, 2]
        low, high = self.span
        out: Bools = (x - high * z < reach * np.hypot(1, high)) & (low * z - x < reach * np.hypot(1, low))
        return out & (z > NEAR - reach)

    def corners(self, points: Floats) -> tuple[list[Corners], Bools]:
        """Drawing coordinates of polygons (P, N, 3) in the camera's frame, and which (P,) are in the picture."""
        x, y, z = np.ascontiguousarray(points.transpose(2, 1, 0))  # (N, P) each: reducing the first axis is faster
        ahead = z >= NEAR
        whole, some = ahead.all(axis=0), ahead.any(axis=0)
        u, v = (_fixed(a) for a in pixels(x, y, np.where(ahead, z, 1.0), self.lens))
        left, right, top, bottom = u.min(axis=0), u.max(axis=0), v.min(axis=0), v.max(axis=0)
        inside = (right >= 0) & (left <= self.width << SHIFT) & (bottom >= 0) & (top <= self.height << SHIFT)
        inside &= (right - left >= SPECK) | (bottom - top >= SPECK)
        out: list[Corners] = list(np.ascontiguousarray(np.stack([u.T, v.T], axis=-1)))
        crossing = np.flatnonzero(some & ~whole)
        if len(crossing) == 0:
            return out, inside & whole
        clipped, used = clip_near(points[crossing])
        clipped[~used] = 1.0
        kept = _fixed(project(clipped, self.lens))
        for k, i in enumerate(crossing):
            out[i] = kept[k][used[k]]
        return out, np.where(whole, inside, some)

    def fill(self, picture: Images, points: Floats, colours: Floats) -> None:
        """Draw polygons (P, N, 3) in the camera's frame in their order, with colours (P, 3) or values (P, 1)."""
        corners, seen = self.corners(points)
        values = colours.tolist()
        for i in np.flatnonzero(seen).tolist():
            cv2.fillConvexPoly(picture, corners[i], values[i], cv2.LINE_8, SHIFT)


def _fixed(pixel: Floats) -> npt.NDArray[np.int32]:
    """OpenCV has pixel centres at integers; ours are at halves. Then SHIFT fractional bits."""
    return np.rint((pixel - 0.5) * (1 << SHIFT)).astype(np.int32)
