"""What light and air do to the picture: sky, haze over the ground, headlight beams, shadows and lamplight."""

from __future__ import annotations

import cv2
import numpy as np

from gwm.shards.schema import Camera, Floats, Images
from gwm.shards.world.looks import Look
from gwm.shards.world.polygons import BLOB, Colour

BEAM = 3.2  # how much brighter the headlights make the ground ahead, relative to the night's own light
POOL = ((9.0, 0.35), (6.5, 0.75), (4.2, 1.2), (2.2, 1.6))  # m, radius of the light below a lamp, and its brightness


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
        self.unit = 64 if look.dark else 255  # what counts as unchanged in the map of light
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
        if look.dark:
            x, y = (camera.extrinsics[i, 3] + scale * rays[..., i] for i in (0, 1))
            gain += BEAM * beam(x, y) * below
        self.clear = (255 * clear).round().astype(np.uint8)
        self.gain = np.clip(self.unit * gain, 0, 255).round().astype(np.uint8)
        self.haze = np.where(below[..., None], look.horizon * (1 - clear[..., None]), 0.0).round().astype(np.uint8)

    def light_ground(self, picture: Images, extra: Images | None) -> None:
        """Light the flat colours of the ground in `picture` (H, W, 3) and fade them into the haze, in place.

        extra: (H, W) uint8, by day what the shadows leave of the light, at night what the lamps add to it.
        """
        light = self.gain
        if extra is not None:
            extra = extra[self.rows]
            light = cv2.add(light, extra) if self.look.dark else cv2.multiply(light, extra, scale=1 / 255)
        light = cv2.multiply(light, self.clear, scale=1 / 255)
        ground = picture[self.rows]
        ground = cv2.multiply(ground, cv2.merge([light, light, light]), scale=1 / self.unit)
        picture[self.rows] = cv2.add(ground, self.haze)

    def pools(self, lamps: Floats, eye: Floats) -> tuple[Floats, Floats]:
        """Light on the ground below `lamps` (L, 3) near `eye` (2,): polygons (P, BLOB, 3) and values (P, 1)."""
        lamps = lamps[np.hypot(*(lamps[:, :2] - eye).T) < 160]
        angle = np.arange(BLOB) * 2 * np.pi / BLOB
        ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(BLOB)], axis=-1)
        centre = lamps[None, :, None] * np.array([1.0, 1.0, 0.0])
        radius = np.array([r for r, _ in POOL])
        points = centre + ring * radius[:, None, None, None]
        value = np.repeat([[v * self.unit] for _, v in POOL], len(lamps), axis=0)
        return points.reshape(-1, BLOB, 3), value


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
