"""Whether neighbouring views show the same where they overlap.

A direction, not a point, is followed from one camera into the other: the map is exact for what is far away, and for
cameras at one place. What is near is seen from two sides and does not fit: the score of real frames stands beside, and
is what can be reached. Axes: t frames, c channels, h w pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

LEAST = 0.03  # share of a view's pixels that must lie in the neighbour too
BLUR = 0.01  # σ of the blur before frames are compared, of their width
WIDE = 0.1  # σ of the blur that is taken away from them: sky is light and road dark wherever one looks
EPSILON = 1e-3  # variance, of brightness in [0, 1], below which nothing is to be seen

Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """A pinhole camera, at the size of its frames."""

    width: int  # pixels
    height: int  # pixels
    intrinsics: Floats  # (3, 3) pixels, from 0 at the left (top) border
    rotation: Floats  # (3, 3) camera (x right, y down, z forward) -> vehicle


def map_directions(a: View, b: View) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Where the directions of a's pixels lie in b: (H, W, 2) pixels from its left and top border, and which lie inside.

    The homography K_b R_bᵀ R_a K_a⁻¹ of the plane at infinity, at the centres of the pixels.
    """
    u, v = np.meshgrid(np.arange(a.width) + 0.5, np.arange(a.height) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(a.intrinsics).T
    found = rays @ (b.rotation.T @ a.rotation).T
    ahead = found[..., 2] > 1e-6
    found = found @ b.intrinsics.T
    places = np.full((a.height, a.width, 2), -1.0)
    np.divide(found[..., :2], found[..., 2:], out=places, where=ahead[..., None])
    half, end = 0.5, np.array([b.width, b.height]) - 0.5
    inside = ahead & (places >= half).all(axis=-1) & (places <= end).all(axis=-1)
    return places, inside
