"""Coloured polygons in space, and the solids that are built from them.

Local frame of a solid: x along its front (the road's direction), y to the left, z up, metres. Faces wind
counter-clockwise seen from outside; what winds clockwise in the picture is not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from gwm.shards.schema import Floats

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Colour = tuple[float, float, float]
BLOB = 10  # corners of a blob
PLAIN, TAIL, HEAD, GLOW = 0, 1, 2, 3  # what kind of light a polygon gives
_BOX = np.array([[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [4, 5, 6, 7]])  # corners of its faces
_NO_SIDE = {n: np.zeros((1, n)) for n in (4, BLOB)}


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

    def take(self, which: Bools | Ints) -> Polygons:
        """The polygons that `which` (a mask or indices) selects."""
        return Polygons(*(getattr(self, f.name)[which] for f in fields(self)))

    def join(self, other: Polygons) -> Polygons:
        """These polygons and those of `other`, which have as many corners."""
        return Polygons(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def normals(self) -> Floats:
        """Unit normals (P, 3); for poles and crowns, which have none, a little of the sky's light from all sides."""
        n = cross(self.points[:, 1] - self.points[:, 0], self.points[:, 2] - self.points[:, 0])
        size = np.sqrt((n**2).sum(axis=1, keepdims=True))
        out: Floats = np.where(self.side.any(axis=1, keepdims=True), [0.0, 0.0, 0.6], n / np.maximum(size, 1e-12))
        return out


def cross(a: Floats, b: Floats) -> Floats:
    """Cross products (P, 3) of (P, 3) and (P, 3)."""
    ax, ay, az = a.T
    bx, by, bz = b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


@dataclass(frozen=True)
class _Piece:
    """Polygons of one kind and colour, as a solid is given them."""

    points: Floats  # (P, N, 3)
    side: Floats  # (1 or P, N)
    colour: Floats  # (3,) or (P, 3)
    light: int
    finest: float
    coarsest: float


class Solid:
    """A thing under construction: faces of 4 corners and blobs of BLOB corners, drawn in the order they are added."""

    def __init__(self) -> None:
        self.faces: list[_Piece] = []
        self.blobs: list[_Piece] = []  # drawn after the faces

    def face(
        self,
        corners: Floats | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]],
        colour: Floats | Colour,
        light: int = PLAIN,
        finest: float = 0.0,
        coarsest: float = np.inf,
        side: Floats = _NO_SIDE[4],
    ) -> None:
        """Add faces: `corners` (P, 4, 3) or (4, 3), `colour` (P, 3) or (3,)."""
        points = np.asarray(corners, float).reshape(-1, 4, 3)
        self.faces.append(_Piece(points, side, np.asarray(colour, float), light, finest, coarsest))

    def box(
        self, low: Sequence[float], high: Sequence[float], colour: Colour, top: Colour | None = None, taper: float = 0.0
    ) -> None:
        """Add an upright box without its bottom; `taper` draws in the upper edge of its x faces, metres."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        t = taper
        corners = np.array(
            [
                (x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0),
                (x0 + t, y0, z1), (x1 - t, y0, z1), (x1 - t, y1, z1), (x0 + t, y1, z1),
            ]
        )  # fmt: skip
        self.face(corners[_BOX], np.array([colour] * 4 + [top or colour]))

    def pole(
        self, x: float, y: float, z0: float, z1: float, width: float, colour: Colour, coarsest: float = 1.5
    ) -> None:
        """Add a round upright pole."""
        h = width / 2
        points = [(x, y, z0), (x, y, z0), (x, y, z1), (x, y, z1)]
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
        self._round(centre, np.cos(angle) * radii[0] * shape, np.sin(angle) * radii[1] * shape, colour, light)

    def cone(self, centre: Sequence[float], radius: float, height: float, colour: Colour) -> None:
        """Add a cone that stands on `centre`, as a conifer's crown."""
        side = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, 0.66, 0.33, 0.0, -0.33, -0.66]) * radius
        up = np.array([0.0, -0.06, -0.08, -0.06, 0.0, 0.33, 0.67, 1.0, 0.67, 0.33]) * height
        self._round(centre, side, up, colour, PLAIN)

    def _round(self, centre: Sequence[float], side: Floats, up: Floats, colour: Colour, light: int) -> None:
        points = np.tile(np.asarray(centre, float), (1, BLOB, 1))
        points[0, :, 2] += up
        self.blobs.append(_Piece(points, side[None], np.asarray(colour, float), light, 0.0, np.inf))


def assemble(solids: Sequence[Solid], places: Floats) -> tuple[Polygons, Polygons]:
    """The faces and the blobs of `solids`, each moved to its row (x, y, yaw) of `places` (n, 3); owner = its index."""
    return _collect([s.faces for s in solids], places, 4), _collect([s.blobs for s in solids], places, BLOB)


def _collect(pieces: Sequence[Sequence[_Piece]], places: Floats, corners: int) -> Polygons:
    flat = [p for each in pieces for p in each if len(p.points)]
    if not flat:
        flat = [_Piece(np.zeros((0, corners, 3)), _NO_SIDE[corners], np.zeros(3), PLAIN, 0.0, np.inf)]
    sizes = np.array([len(p.points) for p in flat])
    counts = [sum(len(p.points) for p in each) for each in pieces]
    owner = np.repeat(np.arange(len(pieces)), counts)

    def each(values: Sequence[float]) -> Floats:
        return np.repeat(np.array(values, float), sizes)

    sides = [p.side if len(p.side) == len(p.points) else np.repeat(p.side, len(p.points), axis=0) for p in flat]
    colours = [p.colour if p.colour.ndim == 2 else p.colour[None].repeat(len(p.points), axis=0) for p in flat]
    light = np.repeat(np.array([p.light for p in flat], np.int64), sizes)
    points = placed(np.concatenate([p.points for p in flat]), places[owner])
    size = each([p.finest for p in flat]), each([p.coarsest for p in flat])
    return Polygons(points, np.concatenate(sides), np.concatenate(colours), light, *size, owner)


def placed(points: Floats, places: Floats) -> Floats:
    """Points (P, N, 3) turned and moved by (x, y, yaw) of each polygon (P, 3)."""
    x, y, yaw = places.T[:, :, None]
    c, s = np.cos(yaw), np.sin(yaw)
    px, py, pz = points[..., 0], points[..., 1], points[..., 2]
    return np.stack([x + px * c - py * s, y + px * s + py * c, pz], axis=-1)
