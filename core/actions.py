"""Action conditioning (paper 4.2, shapes and normalisation of Vista): numbers of a window -> one vector per frame.

An action tensor is (b, n, 7): n waypoints 0.5 s apart, the first 0.5 s after the first frame, and per waypoint
steering angle, speed, trajectory x and y, goal u and v, command, in the order of `SCALARS`. NaN = absent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gwm.core.embed import sinusoid

SCALARS = ("angle", "speed", "x", "y", "u", "v", "command")
SCALES = (
    math.radians(780),
    100 / 3.6,
    50.0,
    50.0,
    1.0,
    1.0,
    3.0,
)  # rad, m/s, m, m, image, image, 0..3 -> about [-1, 1]
MODES = {  # Vista conditions on one kind at a time
    "motion": ("angle", "speed"),
    "trajectory": ("x", "y"),
    "goal": ("u", "v"),
    "command": ("command",),
}
SINUSOIDS = 128  # per scalar, Vista
WAYPOINT_SPACING = 0.5  # s
FRAME_RATE = 10.0  # Hz


def only_modes(values: Tensor, modes: list[str]) -> Tensor:
    """Action tensor (b n 7) in which sample i keeps the scalars of modes[i] alone; a mode "none" keeps nothing."""
    kept = [[name in MODES.get(mode, ()) for name in SCALARS] for mode in modes]
    return values.where(torch.tensor(kept, device=values.device)[:, None], torch.nan)


def frame_weights(t: int, waypoints: int, device: torch.device) -> Tensor:
    """(t, waypoints) linear interpolation from waypoints to frames; held before the first and after the last.

    Not in the paper: which frame sees which waypoint.
    """
    place = torch.arange(t, device=device) / FRAME_RATE / WAYPOINT_SPACING - 1  # in waypoints
    distance = place.clamp(0, waypoints - 1)[:, None] - torch.arange(waypoints, device=device)
    return (1 - distance.abs()).clamp(min=0)


class ActionEncoder(nn.Module):
    """Fourier embeddings of all scalars, concatenated and projected. No biases: an absent action adds exactly zero."""

    scales: Tensor
    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(SINUSOIDS * len(SCALARS), width, bias=False)
        self.register_buffer("scales", torch.tensor(SCALES), persistent=False)
        # Not in the paper: 0.5 to 500 rad per unit, so that 1 degree at the steering wheel is still told apart.
        frequencies = 0.5 * 1000 ** (torch.arange(SINUSOIDS // 2) / (SINUSOIDS // 2 - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, values: Tensor, t: int) -> Tensor:
        """(b n 7) with NaN where absent -> (b t width)."""
        present = ~values.isnan()
        waves = sinusoid(values.nan_to_num() / self.scales, self.frequencies) * present[..., None]  # b n 7 128
        embedded = nn.functional.silu(self.linear(waves.flatten(-2).to(self.linear.weight.dtype)))  # b n width
        return frame_weights(t, values.shape[1], values.device).to(embedded.dtype) @ embedded
