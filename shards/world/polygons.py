"""Coloured polygons in space, and the solids that are built from them.

Local frame of a solid: x along its front (the road's direction), y to the left, z up, metres. Faces wind
counter-clockwise seen from outside; what winds clockwise in the picture is not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from gwm.shards.schema import Floats

Ints = npt.NDArray[np.int64]
Colour = tuple[float, float, float]
BLOB = 10  # corners of a blob
PLAIN, TAIL, HEAD, GLOW = 0, 1, 2, 3  # what kind of light a polygon gives


@dataclass(frozen=True)
class Polygons:
    """P polygons of N corners each. A corner lies `side` metres to the right of its point as the viewer sees it.

    The sideways part makes poles and tree crowns, which look alike from all around, out of flat polygons.
    """

    points: Floats  # (P, N, 3) m
    side: Floats  # (P, N) m
    colour: Floats  # (P, 3) RGB 0 .. 255
    light: Ints  # (P,) PLAIN, TAIL, HEAD or GLOW
    finest: Floats  # (P,) drawn only from this size of a pixel on the object, m (coarse stand-ins)
    coarsest: Floats  # (P,) drawn only below this size of a pixel on the object, m (details)
    owner: Ints  # (P,) index of the solid it belongs to

    def take(self, which: npt.NDArray[np.bool_] | Ints) -> Polygons:
        """The polygons that `which` (a mask or indices) selects."""
        return Polygons(*(getattr(self, f.name)[which] for f in fields(self)))

    def placed(self, x: float, y: float, yaw: float, owner: int) -> Polygons:
        """The same polygons turned by `yaw` and moved to (x, y), belonging to solid `owner`."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        points = self.points @ turn + np.array([x, y, 0.0])
        return replace(self, points=points, owner=np.full(len(points), owner))

    def normals(self) -> Floats:
        """Unit normals (P, 3); for poles and crowns, which have none, the direction up and a little of all sides."""
        p = self.points
        n = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
        size = np.linalg.norm(n, axis=1, keepdims=True)
        round_ = np.abs(self.side).max(axis=1, keepdims=True) > 0
        out: Floats = np.where(round_ | (size < 1e-12), [0.0, 0.0, 0.6], n / np.maximum(size, 1e-12))
        return out


def join(parts: Sequence[Polygons], corners: int) -> Polygons:
    """All of `parts` (each of `corners` corners a polygon) as one; an empty one when there are none."""
    if not parts:
        none = np.zeros(0)
        empty = np.zeros(0, np.int64)
        return Polygons(
            np.zeros((0, corners, 3)), np.zeros((0, corners)), np.zeros((0, 3)), empty, none, none.copy(), empty.copy()
        )
    return Polygons(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Polygons)))


class Solid:
    """A thing under construction: faces of 4 corners and blobs of BLOB corners, drawn in the order they are added."""

    def __init__(self) -> None:
        self._faces: list[Polygons] = []
        self._blobs: list[Polygons] = []

    @property
    def faces(self) -> Polygons:
        """All faces, (P, 4, 3)."""
        return join(self._faces, 4)

    @property
    def blobs(self) -> Polygons:
        """All blobs, (P, BLOB, 3); drawn after the faces."""
        return join(self._blobs, BLOB)

    def face(
        self,
        corners: Floats | Sequence[Sequence[float]] | Sequence[Floats],
        colour: Floats | Colour,
        light: int = PLAIN,
        finest: float = 0.0,
        coarsest: float = np.inf,
        side: Floats | None = None,
    ) -> None:
        """Add faces: `corners` (P, 4, 3) or (4, 3), `colour` (P, 3) or (3,)."""
        points = np.asarray(corners, float).reshape(-1, 4, 3)
        self._add(self._faces, points, side, colour, light, finest, coarsest)

    def _add(
        self,
        to: list[Polygons],
        points: Floats,
        side: Floats | None,
        colour: Floats | Colour,
        light: int,
        finest: float,
        coarsest: float,
    ) -> None:
        p = len(points)
        side = np.zeros(points.shape[:2]) if side is None else side
        rgb = np.broadcast_to(np.asarray(colour, float), (p, 3))
        size = np.full(p, finest), np.full(p, coarsest)
        to.append(Polygons(points, side, rgb, np.full(p, light), *size, np.zeros(p, np.int64)))

    def box(
        self, low: Sequence[float], high: Sequence[float], colour: Colour, top: Colour | None = None, taper: float = 0.0
    ) -> None:
        """Add an upright box without its bottom; `taper` draws in the upper edge of its x faces, metres."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        t = taper
        bottom = [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)]
        upper = [(x0 + t, y0, z1), (x1 - t, y0, z1), (x1 - t, y1, z1), (x0 + t, y1, z1)]
        for i in range(4):
            j = (i + 1) % 4
            self.face([bottom[i], bottom[j], upper[j], upper[i]], colour)
        self.face(upper, top or colour)

    def pole(self, x: float, y: float, z0: float, z1: float, width: float, colour: Colour, coarsest: float = 1.5) -> None:
        """Add a round upright pole."""
        h = width / 2
        points = np.array([[(x, y, z0), (x, y, z0), (x, y, z1), (x, y, z1)]])
        self.face(points, colour, side=np.array([[-h, h, h, -h]]), coarsest=coarsest)

    def blob(
        self,
        centre: Sequence[float],
        radii: tuple[float, float],
        colour: Colour,
        outline: Floats | None = None,
        light: int = PLAIN,
    ) -> None:
        """Add a round thing: `radii` sideways and upwards; `outline` (BLOB,) factors make it uneven."""
        angle = np.arange(BLOB) * 2 * np.pi / BLOB
        shape = np.ones(BLOB) if outline is None else outline
        points = np.tile(np.asarray(centre, float), (1, BLOB, 1))
        points[0, :, 2] += np.sin(angle) * radii[1] * shape
        self._add(self._blobs, points, (np.cos(angle) * radii[0] * shape)[None], colour, light, 0.0, np.inf)

    def cone(self, centre: Sequence[float], radius: float, height: float, colour: Colour) -> None:
        """Add a cone that stands on `centre`, as a conifer's crown."""
        w = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, 0.66, 0.33, 0.0, -0.33, -0.66]) * radius
        z = np.array([0.0, -0.06, -0.08, -0.06, 0.0, 0.33, 0.67, 1.0, 0.67, 0.33]) * height
        points = np.tile(np.asarray(centre, float), (1, BLOB, 1))
        points[0, :, 2] += z
        self._add(self._blobs, points, w[None], colour, PLAIN, 0.0, np.inf)
