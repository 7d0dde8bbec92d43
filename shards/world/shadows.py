"""Shadows on the ground, as polygons: what the sun sees of a thing, laid down along its rays."""

from __future__ import annotations

import cv2
import numpy as np

from gwm.shards.schema import Floats
from gwm.shards.world.looks import Look
from gwm.shards.world.order import Footprints
from gwm.shards.world.polygons import BLOB, Polygons


def _along(look: Look) -> Floats:
    """(2,) metres that a shadow moves per metre of height."""
    out: Floats = -look.sun_direction[:2] / look.sun_direction[2]
    return out


def box_shadows(prints: Footprints, height: Floats, look: Look) -> Floats:
    """Shadows (n, BLOB, 3) of upright boxes: the hull of the footprint and the shifted roof."""
    base = prints.corners()
    roof = base + height[:, None, None] * _along(look)
    points = np.zeros((len(base), BLOB, 3))
    for i, both in enumerate(np.concatenate([base, roof], axis=1).astype(np.float32)):
        hull = cv2.convexHull(both - both[0])[:, 0] + both[0]
        points[i, : len(hull), :2] = hull
        points[i, len(hull) :, :2] = hull[-1]
    return points


def round_shadows(polygons: Polygons, look: Look) -> Floats:
    """Shadows (P', BLOB, 3) of poles and tree crowns, which turn their broad side to the sun as to any viewer."""
    polygons = polygons.take(np.abs(polygons.side).max(axis=1) > 0)
    sun = look.sun_direction[:2] / np.hypot(*look.sun_direction[:2])
    right = np.array([-sun[1], sun[0]])
    corners = polygons.points.shape[1]
    points = np.zeros((len(polygons.points), BLOB, 3))
    flat = polygons.points[..., :2] + polygons.side[..., None] * right + polygons.points[..., 2:] * _along(look)
    points[:, :corners, :2] = flat
    points[:, corners:, :2] = flat[:, -1:]
    return points
