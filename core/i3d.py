"""I3D (Carreira and Zisserman 2017) on Kinetics-400, the network of FVD.

Names are those of i3d_pretrained_400.pt, the file that TATS and VideoGPT measure FVD with.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gwm.core import ConfigError

SIZE = 224  # pixels, both ways
CLASSES = 400
MIN_FRAMES = 10  # fewer leave nothing for the average over two of the last layer's time steps

Triple = tuple[int, int, int]


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Zeros around (n c t h w) so that ceil(length / stride) steps fit, an odd one behind: TensorFlow's "SAME"."""
    pads: list[int] = []
    for length, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):  # w h t
        total = max((-(-length // s) - 1) * s + k - length, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads) if any(pads) else x


def pool_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Maximum over windows of (n c t h w), "SAME"; the zeros around never win, since x is after a ReLU."""
    return functional.max_pool3d(pad_same(x, kernel, stride), kernel, stride)


class Unit(nn.Module):
    """Convolution "SAME" without bias, batch norm, ReLU: (n c_in t h w) -> (n c_out t/stride h/stride w/stride)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernel: Triple = (kernel, kernel, kernel)
        self.stride: Triple = (stride, stride, stride)
        self.conv3d = nn.Conv3d(c_in, c_out, kernel, stride, bias=False)
        self.bn: nn.Module = nn.BatchNorm3d(c_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv3d(pad_same(x, self.kernel, self.stride))), inplace=True)


class Block(nn.Module):
    """Inception-v1's module in three dimensions; `c` counts the channels of b0, b1a, b1b, b2a, b2b and b3b."""

    def __init__(self, c_in: int, c: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.b0 = Unit(c_in, c[0])
        self.b1a = Unit(c_in, c[1])
        self.b1b = Unit(c[1], c[2], 3)
        self.b2a = Unit(c_in, c[3])
        self.b2b = Unit(c[3], c[4], 3)
        self.b3b = Unit(c_in, c[5])

    def forward(self, x: Tensor) -> Tensor:
        pooled = pool_same(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


class Head(nn.Module):
    """The classifier: a convolution of one point, with bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.conv3d(x)
        return scores


class I3D(nn.Module):
    """Clips (n 3 t 224 224) in [-1, 1], t >= 10 -> logits of Kinetics' classes, averaged over time (n 400)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        self.Mixed_3b = Block(192, (64, 96, 128, 16, 32, 32))
        self.Mixed_3c = Block(256, (128, 128, 192, 32, 96, 64))
        self.Mixed_4b = Block(480, (192, 96, 208, 16, 48, 64))
        self.Mixed_4c = Block(512, (160, 112, 224, 24, 64, 64))
        self.Mixed_4d = Block(512, (128, 128, 256, 24, 64, 64))
        self.Mixed_4e = Block(512, (112, 144, 288, 32, 64, 64))
        self.Mixed_4f = Block(528, (256, 160, 320, 32, 128, 128))
        self.Mixed_5b = Block(832, (256, 160, 320, 32, 128, 128))
        self.Mixed_5c = Block(832, (384, 192, 384, 48, 128, 128))
        self.logits = Head()

    def forward(self, x: Tensor) -> Tensor:
        """Raises ConfigError for clips of fewer frames or another size."""
        check_frames(x.shape[2])
        if (x.shape[1], *x.shape[3:]) != (3, SIZE, SIZE):
            raise ConfigError(f"I3D takes frames of 3x{SIZE}x{SIZE}, not {x.shape[1]}x{x.shape[3]}x{x.shape[4]}")
        x = pool_same(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))  # n 64 t/2 56 56
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = pool_same(x, (1, 3, 3), (1, 2, 2))  # n 192 t/2 28 28
        x = self.Mixed_3c(self.Mixed_3b(x))
        x = pool_same(x, (3, 3, 3), (2, 2, 2))  # n 480 t/4 14 14
        x = self.Mixed_4f(self.Mixed_4e(self.Mixed_4d(self.Mixed_4c(self.Mixed_4b(x)))))
        x = pool_same(x, (2, 2, 2), (2, 2, 2))  # n 832 t/8 7 7
        x = self.Mixed_5c(self.Mixed_5b(x))  # n 1024 t/8 7 7
        x = self.logits(functional.avg_pool3d(x, (2, 7, 7), stride=1))  # n 400 t/8-1 1 1
        return x.mean((2, 3, 4))


def check_frames(frames: int) -> None:
    """Raises ConfigError for clips too short for I3D."""
    if frames < MIN_FRAMES:
        raise ConfigError(f"FVD's I3D needs clips of at least {MIN_FRAMES} frames, these have {frames}")
