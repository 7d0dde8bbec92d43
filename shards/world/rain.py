"""Drops of rain: bright streaks as long as the drops fall, and the car drives, while the shutter is open."""

from __future__ import annotations

import zlib

import cv2
import numpy as np

from gwm.shards.schema import Camera, Floats, Images
from gwm.shards.world.camera import project

DROPS = 260  # in a picture
DEPTH = (1.5, 9.0)  # m, of the drops that are seen one by one
FALL = 8.0  # m/s
WIND = 1.5  # m/s
SHUTTER = 1 / 80  # s
BRIGHTNESS = 70.0  # of the nearest drop, of 255
CLASSES = 4  # drops of about one distance are drawn at once
SHIFT = 4  # fractional bits of drawing coordinates


def drop_stream(seed: int, index: int, stream: int, camera: Camera, time: float) -> np.random.Generator:
    """The random numbers of one picture: other drops in every picture, the same ones whoever draws it."""
    view = zlib.crc32(camera.view.encode())
    return np.random.default_rng([seed, index, stream, view, round(time * 1e6)])


def draw_rain(rng: np.random.Generator, picture: Images, camera: Camera, drift: Floats, light: Floats) -> None:
    """Draw drops over `picture` (H, W, 3), in place.

    drift: (3,) m/s, how the air moves as seen in the ego's frame; light: (3,) the sky's colour at the horizon.
    """
    z = DEPTH[0] * (DEPTH[1] / DEPTH[0]) ** rng.random(DROPS)
    u, v = rng.uniform(-0.1, 1.1, (2, DROPS)) * np.array([[camera.width], [camera.height]])
    start = np.stack([u, v, np.ones(DROPS)], axis=-1) @ np.linalg.inv(camera.intrinsics).T * z[:, None]
    end = start + (drift + np.array([0.0, 0.0, -FALL])) @ camera.extrinsics[:3, :3] * SHUTTER
    seen = end[:, 2] > 0.5
    ends = np.stack([project(p[seen], camera.intrinsics) for p in (start, end)], axis=1)
    drawn = np.rint((ends - 0.5) * (1 << SHIFT)).astype(np.int32)
    thick = max(1, round(camera.height / 450))
    bright = BRIGHTNESS * DEPTH[0] / z[seen]
    drops = np.zeros(picture.shape[:2], np.uint8)
    for part in np.array_split(np.argsort(bright, kind="stable"), CLASSES):
        if len(part):
            cv2.polylines(drops, list(drawn[part]), False, float(bright[part].mean()), thick, cv2.LINE_AA, SHIFT)
    colour = np.minimum(light * 1.3 + 12, 255).tolist()
    shine = [cv2.multiply(drops, np.ones_like(drops), scale=c / 255) for c in colour]
    picture[:] = cv2.add(picture, cv2.merge(shine))
