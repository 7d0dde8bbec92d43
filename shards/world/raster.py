"""From polygons in the camera's frame to coordinates that OpenCV draws, at the supersampled size."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from gwm.shards.schema import Camera, Floats, Images
from gwm.shards.world.camera import NEAR, clip_near, project
from gwm.shards.world.order import Bools

SHIFT = 4  # fractional bits of drawing coordinates
WIDE = 512  # the supersampled picture is at least this wide

Corners = npt.NDArray[np.int32]


class Raster:
    """The supersampled picture of one camera."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.factor = max(2, -(-WIDE // camera.width))  # so that thin things move smoothly
        self.lens = camera.intrinsics * np.array([[self.factor], [self.factor], [1.0]])
        self.width, self.height = camera.width * self.factor, camera.height * self.factor

    def reduce(self, picture: Images) -> Images:
        """The supersampled picture at the camera's own size."""
        out: Images = cv2.resize(picture, (self.camera.width, self.camera.height), interpolation=cv2.INTER_AREA)
        return out

    def _fixed(self, pixels: Floats) -> Corners:
        """OpenCV has pixel centres at integers; ours are at halves. Then SHIFT fractional bits."""
        return np.rint((pixels - 0.5) * (1 << SHIFT)).astype(np.int32)

    def corners(self, points: Floats) -> tuple[list[Corners], Bools]:
        """Drawing coordinates of polygons (P, N, 3) in the camera's frame, and which (P,) are in the picture."""
        ahead = points[..., 2] >= NEAR
        whole, some = ahead.all(axis=1), ahead.any(axis=1)
        pixels = self._fixed(project(np.where(whole[:, None, None], points, 1.0), self.lens))
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        inside = (high >= 0).all(axis=1) & (low <= [self.width << SHIFT, self.height << SHIFT]).all(axis=1)
        out: list[Corners] = list(pixels)
        for i in np.flatnonzero(some & ~whole):
            out[i] = self._fixed(project(clip_near(points[i]), self.lens))
        return out, np.where(whole, inside, some)

    def fill(self, picture: Images, points: Floats, colours: Floats) -> None:
        """Draw polygons (P, N, 3) in the camera's frame in their order, with colours (P, 3) or values (P, 1)."""
        corners, seen = self.corners(points)
        values = colours.tolist()
        for i in np.flatnonzero(seen):
            cv2.fillConvexPoly(picture, corners[i], values[i], cv2.LINE_8, SHIFT)
