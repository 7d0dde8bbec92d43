"""How near frames are to the true ones: PSNR and SSIM, per frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

PEAK = 255.0
PSNR_CAP = 100.0  # dB
WINDOW, SIGMA = 11, 1.5  # pixels
K_1, K_2 = 0.01, 0.03


def psnr(a: Images, b: Images) -> Floats:
    """Peak signal-to-noise ratio (N,) of frames (N, H, W, 3) RGB uint8, in dB over all pixels and colours.

    Equal frames have no finite one: they, and all above, are given as 100 dB.
    """
    assert a.shape == b.shape and a.ndim == 4, (a.shape, b.shape)  # noqa: PT018
    found = np.empty(len(a))
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        error = np.square(np.subtract(x, y, dtype=np.int32)).mean()
        found[i] = min(10 * np.log10(PEAK**2 / error), PSNR_CAP) if error else PSNR_CAP
    return found


def ssim(a: Images, b: Images) -> Floats:
    """Structural similarity (N,) of frames (N, H, W, 3) RGB uint8, at least 11 pixels both ways; 1 for equal frames.

    Wang et al. 2004: a Gaussian window of 11x11 pixels, σ = 1.5, K_1 = 0.01, K_2 = 0.03, windows that lie whole inside
    the frame, and the mean over them. Not in the paper: the three colours are averaged.
    """
    assert a.shape == b.shape and a.ndim == 4 and min(a.shape[1:3]) >= WINDOW, (a.shape, b.shape)  # noqa: PT018
    return np.array([_ssim(x, y) for x, y in zip(a, b, strict=True)], np.float64)


def _ssim(a: Images, b: Images) -> float:
    x, y = (torch.from_numpy(rearrange(image, "h w c -> c h w").astype(np.float64)) for image in (a, b))
    c_1, c_2 = (K_1 * PEAK) ** 2, (K_2 * PEAK) ** 2
    mu_x, mu_y = _blur(x), _blur(y)
    mu_xy, mu_2 = mu_x * mu_y, mu_x.square() + mu_y.square()
    sigma_xy = _blur(x * y) - mu_xy
    sigma_2 = _blur(x.square() + y.square()) - mu_2  # of x and y together
    similarity = (2 * mu_xy + c_1) * (2 * sigma_xy + c_2) / ((mu_2 + c_1) * (sigma_2 + c_2))
    return float(similarity.mean())


def _blur(x: Tensor) -> Tensor:
    """(c h w) -> (c h-10 w-10): the Gaussian window's mean, in two passes."""
    return _weigh(_weigh(x, 1), 2)


def _weigh(x: Tensor, axis: int) -> Tensor:
    """The weighted mean of 11 neighbours along an axis."""
    length = x.shape[axis] - WINDOW + 1
    mean = torch.zeros_like(x.narrow(axis, 0, length))
    for i, weight in enumerate(_weights()):
        mean.add_(x.narrow(axis, i, length), alpha=weight)
    return mean


def _weights() -> list[float]:
    weights = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    return [float(weight) for weight in weights / weights.sum()]
