"""Poses in time: a translation and a unit quaternion for each moment, and what lies between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gwm.shards.schema import Floats

Micros = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Track:
    """N poses in time order."""

    micros: Micros  # (N,) µs, none of them twice where it is interpolated
    translation: Floats  # (N, 3) m
    rotation: Floats  # (N, 4) unit quaternions w, x, y, z

    def at(self, micros: Micros) -> Floats:
        """Poses (T, 4, 4) at T moments: translation linear, rotation slerp, beyond the ends held."""
        after = np.clip(np.searchsorted(self.micros, micros), 1, max(1, len(self.micros) - 1))
        after = np.minimum(after, len(self.micros) - 1)
        before = np.maximum(after - 1, 0)
        span = np.maximum(self.micros[after] - self.micros[before], 1)
        part = np.clip((micros - self.micros[before]) / span, 0.0, 1.0)[:, None]
        translation = (1 - part) * self.translation[before] + part * self.translation[after]
        return matrices(translation, slerp(self.rotation[before], self.rotation[after], part))

    @property
    def poses(self) -> Floats:
        """(N, 4, 4)."""
        return matrices(self.translation, self.rotation)

    def covers(self, micros: Micros, reach: int) -> npt.NDArray[np.bool_]:
        """Which moments (T,) lie between two poses that are at most 2 `reach` µs apart, or on one."""
        if not len(self.micros):
            return np.zeros(len(micros), np.bool_)
        after = np.searchsorted(self.micros, micros)
        right = self.micros[np.minimum(after, len(self.micros) - 1)]
        left = self.micros[np.maximum(after - 1, 0)]
        between = (left <= micros) & (micros <= right) & (right - left <= 2 * reach)
        covered: npt.NDArray[np.bool_] = between | (right == micros)
        return covered


def merge(tracks: list[Track]) -> Track:
    """The poses of several tracks of one body as one; of two at the same moment the first is kept."""
    micros = np.concatenate([track.micros for track in tracks])
    times, first = np.unique(micros, return_index=True)
    translation = np.concatenate([track.translation for track in tracks])
    rotation = np.concatenate([track.rotation for track in tracks])
    return Track(times, translation[first], rotation[first])


def slerp(a: Floats, b: Floats, part: Floats) -> Floats:
    """Unit quaternions (N, 4) at the share `part` (N, 1) of the shorter way from `a` to `b` (N, 4)."""
    cosine = np.sum(a * b, axis=1, keepdims=True)
    b = np.where(cosine < 0, -b, b)
    angle = np.arccos(np.clip(np.abs(cosine), 0.0, 1.0))
    sine = np.sin(angle)
    near = sine < 1e-7  # so small an angle that a straight line is the same
    safe = np.where(near, 1.0, sine)
    weight_a = np.where(near, 1 - part, np.sin((1 - part) * angle) / safe)
    weight_b = np.where(near, part, np.sin(part * angle) / safe)
    mixed: Floats = weight_a * a + weight_b * b
    unit: Floats = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return unit


def matrices(translation: Floats, rotation: Floats) -> Floats:
    """(N, 4, 4) from translations (N, 3) and unit quaternions w, x, y, z (N, 4)."""
    w, x, y, z = rotation.T
    out = np.zeros((len(rotation), 4, 4))
    out[:, 0, 0], out[:, 0, 1], out[:, 0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    out[:, 1, 0], out[:, 1, 1], out[:, 1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    out[:, 2, 0], out[:, 2, 1], out[:, 2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    out[:, :3, 3] = translation
    out[:, 3, 3] = 1.0
    return out


def quaternion(rotation: Floats) -> Floats:
    """(4,) w, x, y, z with w >= 0 of a rotation matrix (3, 3): the eigenvector of the largest eigenvalue."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    k = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ]
    )
    q: Floats = np.linalg.eigh(k)[1][:, -1]
    return -q if q[0] < 0 else q
