"""Whether neighbouring views show the same where they overlap.

A direction, not a point, is followed from one camera into the other. That is exact for cameras at one place and for
what is far away. A thing at depth z is seen f · d / z pixels beside it by cameras d apart, across the line of sight:
near cars and the road below lower the score of real frames too, which therefore stands beside that of generated ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

LEAST = 0.03  # share of a view's pixels that must lie in the neighbour too
BLUR = 0.01  # σ of the blur before views are compared, of their width: small shifts count little
ROUNDING = 1e-6  # pixels
EPSILON = 1e-4  # variance of brightness in [0, 1]: with less there is nothing to compare

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """A pinhole camera, at the size of its frames."""

    width: int  # pixels
    height: int  # pixels
    intrinsics: Floats  # (3, 3) pixels, from 0 at the left (top) border
    rotation: Floats  # (3, 3) camera (x right, y down, z forward) -> vehicle


def map_directions(a: View, b: View) -> tuple[Floats, Bools]:
    """Where the directions of a's pixels lie in b, (H, W, 2) pixels from its borders, and which lie inside it (H, W).

    The homography K_b R_bᵀ R_a K_a⁻¹ of the plane at infinity, at the centres of a's pixels. A place is inside where b
    has pixel centres all around it; behind b it is (-1, -1).
    """
    u, v = np.meshgrid(np.arange(a.width) + 0.5, np.arange(a.height) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ (b.rotation.T @ a.rotation @ np.linalg.inv(a.intrinsics)).T
    ahead = rays[..., 2] > 1e-6
    seen = rays @ b.intrinsics.T
    places = np.full((a.height, a.width, 2), -1.0)
    np.divide(seen[..., :2], seen[..., 2:], out=places, where=ahead[..., None])
    least, most = 0.5 - ROUNDING, np.array([b.width, b.height]) - 0.5 + ROUNDING
    inside = ahead & ((places >= least) & (places <= most)).all(axis=-1)
    return places, inside


def agreement(a: Images, b: Images, places: Floats, inside: Bools) -> Floats:
    """Normalised cross-correlation (T,) of frames of two views (T, H, W, 3) RGB uint8 where they overlap, -1 to 1.

    `places` and `inside` are those of `map_directions`. The mean over the three colours; 1 where both show the same
    but for brightness and contrast, about 0 where one has nothing to do with the other or nothing is to be seen.
    """
    assert inside.any()
    size = torch.tensor([b.shape[2], b.shape[1]])
    grid = (2 * torch.from_numpy(places) / size - 1).float().expand(len(b), -1, -1, -1)
    x = _blurred(a)
    y = functional.grid_sample(_blurred(b), grid, mode="bilinear", padding_mode="border", align_corners=False)
    x, y = (side[..., torch.from_numpy(inside)].double() for side in (x, y))  # t c n
    x, y = (side - side.mean(dim=-1, keepdim=True) for side in (x, y))
    variances = (x.square().mean(dim=-1) + EPSILON) * (y.square().mean(dim=-1) + EPSILON)
    found: Floats = ((x * y).mean(dim=-1) / variances.sqrt()).mean(dim=-1).numpy()
    return found


def agreement_with_next(frames: Images, cameras: Sequence[View], view: int) -> Floats:
    """The `agreement` (T,) of one view of frames (T, K, H, W, 3) with the next in order, the first after the last.

    Empty where less than 3% of the view lies in its neighbour, as for a single view.
    """
    other = (view + 1) % len(cameras)
    if other == view:
        return np.zeros(0)
    places, inside = map_directions(cameras[view], cameras[other])
    if inside.mean() < LEAST:
        return np.zeros(0)
    return agreement(frames[:, view], frames[:, other], places, inside)


def _blurred(frames: Images) -> Tensor:
    """Frames (t h w 3) uint8 -> (t 3 h w) in [0, 1], by a Gaussian; the borders go on outwards."""
    sigma = BLUR * frames.shape[2]
    reach = min(int(np.ceil(3 * sigma)), min(frames.shape[1:3]) - 1)
    weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum())[None, None]
    x = rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "t h w c -> (t c) 1 h w").float() / 255
    x = functional.pad(x, (reach,) * 4, mode="replicate")
    x = functional.conv2d(functional.conv2d(x, weights[..., None]), weights[:, :, None])
    return rearrange(x, "(t c) 1 h w -> t c h w", c=3)
