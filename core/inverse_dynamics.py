"""How a vehicle moved, seen from its own front camera: an inverse-dynamics network, and what its estimates are worth.

A motion is (…, 2): speed in m/s, forward positive, and yaw rate in rad/s, left positive, of the step between two
frames that are 0.1 s apart. Axes: i pairs, t frames, c channels, h w pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEIGHT = 128, 64  # pixels, of the frames that the network sees
STEP = 0.1  # s between frames
WAYPOINT_STEPS = 5  # between waypoints: 0.5 s, as Vista's
SPEED_SCALE = 10.0  # m/s that the network gives as 1
YAW_RATE_SCALE = 0.1  # rad/s that the network gives as 1
BETA = 0.1  # in those units: below it the loss is quadratic
CHANNELS = (32, 64, 96, 64)

Floats = npt.NDArray[np.float64]


class InverseDynamics(nn.Module):
    """Two frames -> the motion between them. It holds for the cameras that it has seen: one picture has no scale."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = CHANNELS
        self.layers = nn.Sequential(
            nn.Conv2d(6, a, 5, stride=2, padding=2), nn.GroupNorm(8, a), nn.SiLU(),
            nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU(),
            nn.Conv2d(b, c, 3, stride=2, padding=1), nn.GroupNorm(8, c), nn.SiLU(),
            nn.Conv2d(c, d, 3, stride=2, padding=1), nn.GroupNorm(8, d), nn.SiLU(),
            nn.Flatten(), nn.Linear(d * (WIDTH // 16) * (HEIGHT // 16), 128), nn.SiLU(), nn.Linear(128, 2),
        )  # fmt: skip
        self.register_buffer("scale", torch.tensor([SPEED_SCALE, YAW_RATE_SCALE]), persistent=False)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Frames (i 3 h w) in [-1, 1] of 128x64 pixels and those 0.1 s later -> motion (i 2)."""
        assert before.shape[-2:] == (HEIGHT, WIDTH), before.shape
        out: Tensor = self.layers(torch.cat([before, after], dim=1)) * self.scale
        return out


def motion_loss(estimated: Tensor, true: Tensor) -> Tensor:
    """Huber loss of motions (… 2), speed and yaw rate in units of their scales."""
    scale = estimated.new_tensor([SPEED_SCALE, YAW_RATE_SCALE])
    return F.smooth_l1_loss(estimated / scale, true / scale, beta=BETA)


def integrate(motion: Floats) -> Floats:
    """Positions (T, 2) m, x forward and y left of the first frame's vehicle, after motions (T-1, 2). Midpoint rule."""
    speed, turned = motion[:, 0], np.cumsum(motion[:, 1]) * STEP
    heading = turned - motion[:, 1] * STEP / 2
    steps = speed[:, None] * STEP * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])


def motion_between(poses: Floats) -> Floats:
    """Motions (T-1, 2) of poses (T, 4, 4), vehicle -> world: the chord of every step, and by how much it turned.

    Exact for steps along a circle, apart from the chord, which is shorter than its arc by 1 / 24 of the angle squared.
    """
    step = np.linalg.inv(poses[:-1]) @ poses[1:]
    ahead, left = step[:, 0, 3], step[:, 1, 3]
    turned = np.arctan2(step[:, 1, 0], step[:, 0, 0])
    return np.stack([np.copysign(np.hypot(ahead, left), ahead), turned], axis=1) / STEP


def waypoint_distances(estimated: Floats, true: Floats) -> Floats:
    """Distances (W,) m between two drives of motions (T-1, 2) at waypoints 0.5 s apart, from the same first frame."""
    assert estimated.shape == true.shape, (estimated.shape, true.shape)
    apart = np.linalg.norm(integrate(estimated) - integrate(true), axis=1)
    found: Floats = apart[WAYPOINT_STEPS::WAYPOINT_STEPS]
    return found
