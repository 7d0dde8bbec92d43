"""Kernel Inception distance (Binkowski et al. 2018): like Fréchet's, but without bias for few features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gwm.core import ConfigError

Floats = npt.NDArray[np.float64]

SUBSETS, SUBSET_SIZE = 100, 1000  # as published KID is made


class KernelDistance(NamedTuple):
    """The mean over subsets, which may be negative, and the standard error of that mean over their drawing."""

    mean: float
    standard_error: float


def kernel_distance(
    a: npt.ArrayLike, b: npt.ArrayLike, subsets: int = SUBSETS, size: int = SUBSET_SIZE, seed: int = 0
) -> KernelDistance:
    """KID between features (N, d) and (M, d): `squared_mmd` over `subsets` pairs of `size` features each.

    Each subset is drawn without replacement, all of them from `seed`. Not in the paper: where a side has fewer than
    `size` features, subsets take half of the smaller side, so that they still differ from each other. Raises
    ConfigError for fewer than 4 features on a side.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1], (x.shape, y.shape)  # noqa: PT018
    assert subsets >= 2 and size >= 2, (subsets, size)  # noqa: PT018
    fewest = min(len(x), len(y))
    if fewest < 4:
        raise ConfigError(f"a kernel distance needs at least 4 feature vectors on each side, there are {fewest}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError("feature vectors are not finite; a kernel distance of them means nothing")
    size = size if fewest >= size else fewest // 2
    rng = np.random.default_rng(seed)
    found = np.array([squared_mmd(_draw(rng, x, size), _draw(rng, y, size)) for _ in range(subsets)])
    return KernelDistance(float(found.mean()), float(found.std(ddof=1) / np.sqrt(subsets)))


def squared_mmd(x: Floats, y: Floats) -> float:
    """Unbiased squared maximum mean discrepancy of x (n, d) and y (m, d), n and m >= 2.

    The kernel is k(x, y) = (x·y / d + 1)³. Gretton et al. 2012, equation 3.
    """
    n, m = len(x), len(y)
    return float(_off_diagonal(x) / (n * (n - 1)) + _off_diagonal(y) / (m * (m - 1)) - 2 * _kernel(x, y).mean())


def _kernel(x: Floats, y: Floats) -> Floats:
    """(n, m)"""
    k: Floats = x @ y.T
    k /= x.shape[1]
    k += 1
    return k * k * k


def _off_diagonal(x: Floats) -> np.float64:
    """The sum of k(x_i, x_j) over i != j."""
    k = _kernel(x, x)
    total: np.float64 = k.sum() - np.trace(k)
    return total


def _draw(rng: np.random.Generator, x: Floats, size: int) -> Floats:
    return x[rng.choice(len(x), size, replace=False)]
