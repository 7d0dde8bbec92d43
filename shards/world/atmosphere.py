"""What light and air do to the picture: sky, haze over the ground, headlight beams, shadows and lamplight."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gwm.shards.schema import Camera, Floats, Images
from gwm.shards.world.looks import Look
from gwm.shards.world.polygons import Bools, Colour

AHEAD = 0.9  # a camera looks ahead if its optical axis has at least this much of the ego's x axis
BEAM = 3.2  # how much brighter the headlights make the ground ahead, relative to the night's own light
POOL = 5.0, 2.4  # m, radius of the light below a street lamp, and how much brighter it makes the ground there
MIRROR = 0.55  # of the sky's light that a wet road gives back where it is seen at a grazing angle
BAND = 128  # rows of a picture computed at once, a multiple of COARSE
COARSE = 4  # lamplight, being soft, is computed on every 4th pixel


def beam(x: Floats, y: Floats, camera: Camera) -> Floats:
    """Brightness 0 .. 1 of the ego's headlights `x` metres ahead and `y` to the left of the rear axle.

    Beside and behind the car they light nothing; only cameras that look there have to know.
    """
    ahead = 1.0 if camera.extrinsics[0, 2] > AHEAD else np.clip((x - 2.2) / 1.5, 0.0, 1.0)
    x = np.maximum(x - 3.7, 0.0)
    spread = (y / (1.6 + 0.26 * x)) ** 2
    out: Floats = np.exp(-spread) * np.exp(-x / 24) * (1 - np.exp(-(x + 1) / 3)) * ahead
    return out


class Atmosphere:
    """Sky, haze and light as one camera on the ego car sees them: the same in every frame, as the ground is flat."""

    def __init__(self, look: Look, plain: Colour, camera: Camera, factor: int) -> None:
        """`plain`: colour of the bare ground; `factor`: the picture is drawn that many times larger."""
        self.look = look
        self.unit = 50 if look.dark else 255  # what counts as unchanged in the map of light
        self.shadow = float(self.unit * look.ambient.sum() / (look.ambient + look.sun * look.sun_direction[2]).sum())
        self.camera, self.factor = camera, factor
        height = camera.height * factor
        sky = [self._backdrop(rows, plain) for rows in _bands(0, height)]
        self.background = np.concatenate([picture for picture, _ in sky])
        seen = np.flatnonzero(np.concatenate([any_ for _, any_ in sky]))
        self.rows = slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, 0)
        maps = [self._maps(rows) for rows in _bands(self.rows.start, self.rows.stop)]
        self.clear, self.gain, self.haze, self.ground = (np.concatenate(a) for a in zip(*maps, strict=True))

    def _backdrop(self, rows: slice, plain: Colour) -> tuple[Images, Bools]:
        """The sky and the bare ground in some `rows` of the supersampled picture, and which of them see ground."""
        look, rays = self.look, _rays(self.camera, self.factor, rows)
        below = rays[..., 2] < 0
        ground = look.lit(np.array([plain]), np.array([[0.0, 0.0, 1.0]]))[0]
        picture = np.where(below[..., None], ground, _sky(look, rays)).round().astype(np.uint8)
        seen: Bools = np.any(below, axis=1)
        return picture, seen

    def _maps(self, rows: slice) -> tuple[Images, Images, Images, npt.NDArray[np.float32]]:
        """How the ground in some `rows` is seen: what passes the haze, its light, the haze, and coarsely its places."""
        look, camera, rays = self.look, self.camera, _rays(self.camera, self.factor, rows)
        below = rays[..., 2] < 0
        scale = camera.extrinsics[2, 3] / np.maximum(-rays[..., 2], 1e-4)
        clear = np.where(below, np.exp(-np.minimum(scale, 1e4) / look.haze), 1.0)
        gain = np.ones_like(clear)
        ground = np.zeros((0, 0, 2), np.float32)
        if look.dark:
            x, y = (camera.extrinsics[i, 3] + scale * rays[..., i] for i in (0, 1))
            gain += BEAM * beam(x, y, camera) * below
            ground = np.stack([x, y], axis=-1)[COARSE // 2 :: COARSE, COARSE // 2 :: COARSE].astype(np.float32)
        haze = look.horizon * (1 - clear[..., None])
        if look.wet:
            mirror = MIRROR * (1 - np.abs(rays[..., 2])) ** 5 * below
            haze = haze + (clear * mirror)[..., None] * _sky(look, np.abs(rays))
            clear = clear * (1 - mirror)
        return (
            (255 * clear).round().astype(np.uint8),
            np.clip(self.unit * gain, 0, 255).round().astype(np.uint8),
            np.where(below[..., None], haze, 0.0).round().astype(np.uint8),
            ground,
        )

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


def _bands(start: int, stop: int) -> list[slice]:
    """Rows start .. stop - 1 in bands of BAND, so that memory does not grow with the picture; at least one band."""
    return [slice(row, min(row + BAND, stop)) for row in range(start, max(stop, start + 1), BAND)]


def _rays(camera: Camera, factor: int, rows: slice) -> Floats:
    """Unit directions (rows, W * factor, 3) in the ego frame of the pixels in `rows` of the supersampled picture."""
    u = (np.arange(camera.width * factor) + 0.5) / factor
    v = (np.arange(rows.start, rows.stop) + 0.5) / factor
    pixels = np.stack([*np.meshgrid(u, v), np.ones((len(v), len(u)))], axis=-1)
    rays = pixels @ (camera.extrinsics[:3, :3] @ np.linalg.inv(camera.intrinsics)).T
    out: Floats = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    return out


def _sky(look: Look, rays: Floats) -> Floats:
    """Colour of the sky (H, W, 3) in the directions `rays`."""
    height = np.sqrt(np.clip(rays[..., 2:] * 1.6, 0.0, 1.0))
    out: Floats = look.horizon + (look.zenith - look.horizon) * height
    return out
