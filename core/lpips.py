"""LPIPS (Zhang et al. 2018), version 0.1 on AlexNet: how different two pictures look to people."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 192, 384, 256, 256)  # of AlexNet's five convolutions
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of red, green, blue in [-1, 1]
EPSILON = 1e-10


class AlexNet(nn.Module):
    """Pictures (n 3 h w), normalised -> its five maps after a ReLU. Names are those of alexnet-owt-7be5be79.pth."""

    def __init__(self) -> None:
        super().__init__()
        w = WIDTHS
        self.features = nn.Sequential(
            nn.Conv2d(3, w[0], 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
            nn.Conv2d(w[0], w[1], 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
            nn.Conv2d(w[1], w[2], 3, padding=1), nn.ReLU(),
            nn.Conv2d(w[2], w[3], 3, padding=1), nn.ReLU(),
            nn.Conv2d(w[3], w[4], 3, padding=1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return maps


class PerceptualDistance(nn.Module):
    """Two pictures (n 3 h w) in [-1, 1] -> (n,), 0 for equal ones; `lin` weighs the channels of each map."""

    def __init__(self) -> None:
        super().__init__()
        self.alexnet = AlexNet()
        self.lin = nn.ParameterList([torch.zeros(1, c, 1, 1) for c in WIDTHS])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        shift, scale = (a.new_tensor(value)[:, None, None] for value in (SHIFT, SCALE))
        maps_a, maps_b = (self.alexnet((x - shift) / scale) for x in (a, b))
        distance = a.new_zeros(len(a))
        for x, y, weight in zip(maps_a, maps_b, self.lin, strict=True):
            error = (_unit(x) - _unit(y)).square()
            distance += functional.conv2d(error, weight).mean((1, 2, 3))
        return distance


def _unit(x: Tensor) -> Tensor:
    """Each pixel's channels (n c h w) at length 1."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON)
