"""FID's Inception-v3: the network of TensorFlow's inception-2015-12-05 graph, which published FID is made with.

It differs from the Inception-v3 of Szegedy et al. 2016 (section 6) in its pooling: average pools do not count the
padding, and the last block pools by maximum. Its names are those of pt_inception-2015-12-05-6726825d.pth.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gwm.core import ConfigError

SIZE = 299  # pixels, both ways
WIDTH = 2048  # of the last pool
CLASSES = 1008

Pair = tuple[int, int]


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU: (n c_in h w) -> (n c_out h' w')."""

    def __init__(self, c_in: int, c_out: int, kernel: int | Pair = 1, stride: int = 1, padding: int | Pair = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)), inplace=True)


def average(x: Tensor) -> Tensor:
    """Mean of each pixel's 3x3 neighbours inside the picture: at a border, of fewer than nine."""
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """Mixed_5b to 5d, 35x35: c_in -> 224 + `pooled` channels."""

    def __init__(self, c_in: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(c_in, 64)
        self.branch5x5_1 = Unit(c_in, 48)
        self.branch5x5_2 = Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Unit(c_in, 64)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(c_in, pooled)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(average(x))], 1
        )


class BlockB(nn.Module):
    """Mixed_6a, 35x35 -> 17x17: c_in -> c_in + 480 channels."""

    def __init__(self, c_in: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(c_in, 384, 3, stride=2)
        self.branch3x3dbl_1 = Unit(c_in, 64)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """Mixed_6b to 6e, 17x17: 768 -> 768 channels, `c` inside; 7x7 in two passes, across and down."""

    def __init__(self, c: int) -> None:
        super().__init__()
        across: tuple[Pair, Pair] = (1, 7), (0, 3)
        down: tuple[Pair, Pair] = (7, 1), (3, 0)

        def unit(c_in: int, c_out: int, shape: tuple[Pair, Pair]) -> Unit:
            return Unit(c_in, c_out, shape[0], padding=shape[1])

        self.branch1x1 = Unit(768, 192)
        self.branch7x7_1 = Unit(768, c)
        self.branch7x7_2 = unit(c, c, across)
        self.branch7x7_3 = unit(c, 192, down)
        self.branch7x7dbl_1 = Unit(768, c)
        self.branch7x7dbl_2 = unit(c, c, down)
        self.branch7x7dbl_3 = unit(c, c, across)
        self.branch7x7dbl_4 = unit(c, c, down)
        self.branch7x7dbl_5 = unit(c, 192, across)
        self.branch_pool = Unit(768, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(average(x))], 1)


class BlockD(nn.Module):
    """Mixed_7a, 17x17 -> 8x8: 768 -> 1280 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(768, 192)
        self.branch3x3_2 = Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Unit(768, 192)
        self.branch7x7x3_2 = Unit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Unit(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Unit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_2(self.branch3x3_1(x))
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([single, long, functional.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """Mixed_7b and 7c, 8x8: c_in -> 2048 channels. 7c pools by maximum: a slip of 2015 that FID has kept."""

    def __init__(self, c_in: int, pool_maximum: bool) -> None:
        super().__init__()
        self.pool_maximum = pool_maximum
        self.branch1x1 = Unit(c_in, 320)
        self.branch3x3_1 = Unit(c_in, 384)
        self.branch3x3_2a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Unit(c_in, 448)
        self.branch3x3dbl_2 = Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Unit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Unit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Unit(c_in, 192)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1) if self.pool_maximum else average(x)
        return torch.cat(
            [
                self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single),
                self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled),
            ],
            1,
        )  # fmt: skip


class Inception(nn.Module):
    """Frames (n 3 299 299) in [-1, 1] -> the last average pool, "pool3" (n 2048), numbers >= 0.

    `fc`, the classifier behind it, is here only so that every tensor of the file has its place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(128)
        self.Mixed_6c = BlockC(160)
        self.Mixed_6d = BlockC(160)
        self.Mixed_6e = BlockC(192)
        self.Mixed_7a = BlockD()
        self.Mixed_7b = BlockE(1280, pool_maximum=False)
        self.Mixed_7c = BlockE(2048, pool_maximum=True)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ConfigError for frames of another size: the mean over another grid is another feature."""
        if x.shape[1:] != (3, SIZE, SIZE):
            raise ConfigError(f"Inception takes frames of 3x{SIZE}x{SIZE}, not {'x'.join(map(str, x.shape[1:]))}")
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # n 64 147 147
        x = functional.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))  # n 192 71 71
        x = functional.max_pool2d(x, 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # n 288 35 35
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # n 768 17 17
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # n 2048 8 8
        return x.mean((2, 3))
