"""Lights that are on in the dark: street lamps, headlights, tail lights, and the glow around them."""

from __future__ import annotations

import cv2
import numpy as np

from gwm.shards.schema import Floats, Images
from gwm.shards.world.instant import Instant
from gwm.shards.world.polygons import Ints

BRAKE_RED, TAIL_RED, HEADLIGHT, LAMP = (226, 62, 50), (176, 40, 36), (255, 248, 226), (255, 214, 150)
BRIGHT = 150  # a light is seen if what is drawn around its place is at least this bright
_SIZE = 33  # pixels of the stencil
_STENCIL = np.hypot(*np.meshgrid(*[np.linspace(-1, 1, _SIZE)] * 2))
_STENCIL = (np.clip(1 - _STENCIL, 0, 1) ** 2.2).astype(np.float32)


def lights(lamps: Floats, now: Instant, cars: Ints, eye: Floats) -> tuple[Floats, Floats, Floats]:
    """All lights: places (L, 3) in m, colours (L, 3), and radii (L,) of their halos in m.

    lamps: (n, 3) street lamps; cars: indices of the moving cars, of which the ends that face `eye` (2,) count.
    """
    pose, size = now.cars[cars], now.size[cars]
    ahead = np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], axis=-1)
    fronts = ((eye - pose[:, :2]) * ahead).sum(axis=1) > 0
    end = pose[:, :2] + np.where(fronts, 1, -1)[:, None] * ahead * size[:, :1] / 2
    left = np.stack([-ahead[:, 1], ahead[:, 0]], axis=-1) * (size[:, 1:] / 2 - 0.2)
    places = np.pad(np.concatenate([end + left, end - left]), ((0, 0), (0, 1)), constant_values=0.68)
    red = np.array(BRAKE_RED) * np.where(now.braking[cars], 0.9, 0.4)[:, None]
    own = np.where(fronts[:, None], HEADLIGHT, red)
    colours = np.concatenate([np.tile(LAMP, (len(lamps), 1)), own, own])
    radius = np.concatenate([np.full(len(lamps), 0.9), np.tile(np.where(fronts, 0.75, 0.4), 2)])
    return np.concatenate([lamps, places]), colours, radius


def is_seen(picture: Images, u: float, v: float) -> bool:
    """Whether the light at column u and row v of `picture` (H, W, 3) is not hidden by what is drawn over it."""
    x, y = int(u), int(v)
    if not (0 <= x < picture.shape[1] and 0 <= y < picture.shape[0]):
        return False
    return bool(picture[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max() > BRIGHT)


def glow(picture: Images, u: float, v: float, radius: float, colour: Floats, stretch: float = 1.0) -> None:
    """Add a soft disc of `radius` pixels around column u and row v to `picture` (H, W, 3), in place.

    stretch: how many times higher than wide it is.
    """
    height, width = picture.shape[:2]
    tall = radius * stretch
    x0, x1 = max(int(np.floor(u - radius)), 0), min(int(np.ceil(u + radius)), width)
    y0, y1 = max(int(np.floor(v - tall)), 0), min(int(np.ceil(v + tall)), height)
    if x0 >= x1 or y0 >= y1:
        return
    middle = (_SIZE - 1) / 2
    sx, sy = middle / radius, middle / tall
    move = np.array([[sx, 0, (x0 + 0.5 - u) * sx + middle], [0, sy, (y0 + 0.5 - v) * sy + middle]])
    disc = cv2.warpAffine(_STENCIL, move, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    light = np.clip(disc[..., None] * colour.astype(np.float32), 0, 255).astype(np.uint8)
    picture[y0:y1, x0:x1] = cv2.add(picture[y0:y1, x0:x1], light)
