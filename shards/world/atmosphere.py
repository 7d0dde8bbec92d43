"""What light and air do to the picture: sky, haze over the ground, headlight beams, shadows and lamplight."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gwm.shards.schema import Camera, Floats, Images
from gwm.shards.world.looks import Look
from gwm.shards.world.polygons import Colour

BEAM = 3.2  # how much brighter the headlights make the ground ahead, relative to the night's own light
POOL = 5.0, 2.4  # m, radius of the light below a street lamp, and how much brighter it makes the ground there
COARSE = 4  # lamplight, being soft, is computed on every 4th pixel


def beam(x: Floats, y: Floats) -> Floats:
    """Brightness 0 .. 1 of the ego's headlights `x` metres ahead and `y` to the left of the rear axle."""
    x = np.maximum(x - 3.7, 0.0)
    spread = (y / (1.6 + 0.26 * x)) ** 2
    out: Floats = np.exp(-spread) * np.exp(-x / 24) * (1 - np.exp(-(x + 1) / 3))
    return out


class Atmosphere:
    """Sky, haze and light as one camera on the ego car sees them: the same in every frame, as the ground is flat."""

    def __init__(self, look: Look, plain: Colour, camera: Camera, factor: int) -> None:
        """`plain`: colour of the bare ground; `factor`: the picture is drawn that many times larger."""
        self.look = look
        self.unit = 50 if look.dark else 255  # what counts as unchanged in the map of light
        self.shadow = float(self.unit * look.ambient.sum() / (look.ambient + look.sun * look.sun_direction[2]).sum())
        rays = _rays(camera, factor)
        below = rays[..., 2] < 0
        rows = np.flatnonzero(below.any(axis=1))
        self.rows = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
        up = np.array([[0.0, 0.0, 1.0]])
        ground = look.lit(np.array([plain]), up)[0]
        self.background = np.where(below[..., None], ground, _sky(look, rays)).round().astype(np.uint8)
        rays, below = rays[self.rows], below[self.rows]
        scale = camera.extrinsics[2, 3] / np.maximum(-rays[..., 2], 1e-4)
        clear = np.where(below, np.exp(-np.minimum(scale, 1e4) / look.haze), 1.0)
        gain = np.ones_like(clear)
        self.ground = np.zeros((0, 0, 2), np.float32)
        if look.dark:
            x, y = (camera.extrinsics[i, 3] + scale * rays[..., i] for i in (0, 1))
            gain += BEAM * beam(x, y) * below
            self.ground = np.stack([x, y], axis=-1)[COARSE // 2 :: COARSE, COARSE // 2 :: COARSE].astype(np.float32)
        self.clear = (255 * clear).round().astype(np.uint8)
        self.gain = np.clip(self.unit * gain, 0, 255).round().astype(np.uint8)
        self.haze = np.where(below[..., None], look.horizon * (1 - clear[..., None]), 0.0).round().astype(np.uint8)

    def light_ground(self, picture: Images, shadows: Images | None, lamps: Floats) -> None:
        """Light the flat colours of the ground in `picture` (H, W, 3) and fade them into the haze, in place.

        shadows: (H, W) uint8, what they leave of the light; lamps: (L, 2) street lamps in the ego frame, m.
        """
        light: npt.NDArray[Any] = self.gain
        if shadows is not None:
            light = cv2.multiply(light, shadows[self.rows], scale=1 / 255)
        if len(lamps) and self.ground.size:
            light = cv2.add(light, self._pools(lamps, (light.shape[1], light.shape[0])))
        light = cv2.multiply(light, self.clear, scale=1 / 255)
        rgb = cv2.merge([light, light, light])
        ground = cv2.multiply(picture[self.rows], rgb, scale=1 / self.unit)
        picture[self.rows] = cv2.add(ground, self.haze)

    def _pools(self, lamps: Floats, size: tuple[int, int]) -> npt.NDArray[Any]:
        """What street lamps (L, 2) add to the map of light, as a picture of `size` (width, height)."""
        pools = np.zeros(self.ground.shape[:2], np.float32)
        for x, y in lamps.astype(np.float32):
            squared = (self.ground[..., 0] - x) ** 2 + (self.ground[..., 1] - y) ** 2
            pools += np.float32(POOL[1] * self.unit) / (1 + squared / np.float32(POOL[0] ** 2)) ** 2
        return cv2.resize(np.minimum(pools, 255).astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)


def _rays(camera: Camera, factor: int) -> Floats:
    """Unit directions (H * factor, W * factor, 3) in the ego frame of all pixels of the supersampled picture."""
    u = (np.arange(camera.width * factor) + 0.5) / factor
    v = (np.arange(camera.height * factor) + 0.5) / factor
    pixels = np.stack([*np.meshgrid(u, v), np.ones((len(v), len(u)))], axis=-1)
    rays = pixels @ (camera.extrinsics[:3, :3] @ np.linalg.inv(camera.intrinsics)).T
    out: Floats = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    return out


def _sky(look: Look, rays: Floats) -> Floats:
    """Colour of the sky (H, W, 3) in the directions `rays`."""
    height = np.sqrt(np.clip(rays[..., 2:] * 1.6, 0.0, 1.0))
    out: Floats = look.horizon + (look.zenith - look.horizon) * height
    return out
