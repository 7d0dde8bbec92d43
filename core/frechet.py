"""Fréchet distance of two Gaussians, and their statistics in one pass over the features.

numpy and float64 throughout: the statistics of a million float32 features would lose the distance in rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gwm.core import ConfigError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GaussianStats:
    """Count, mean and scatter of features seen so far. Memory grows with d², not with n."""

    n: int
    mean: Floats  # (d,)
    scatter: Floats  # (d, d) sum of (x - mean)(x - mean)ᵀ

    @classmethod
    def empty(cls, d: int) -> GaussianStats:
        """The statistics of no features of dimension `d`: the neutral element of `merge`."""
        return cls(0, np.zeros(d), np.zeros((d, d)))

    @classmethod
    def of(cls, features: npt.ArrayLike) -> GaussianStats:
        """The statistics of features (N, d), N >= 0. Raises ConfigError if any is not finite."""
        x = np.asarray(features, np.float64)
        assert x.ndim == 2, f"features are (N, d), not {x.shape}"
        if not np.isfinite(x).all():
            bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
            raise ConfigError(f"{len(bad)} of {len(x)} feature vectors are not finite, the first is number {bad[0]}")
        if len(x) == 0:
            return cls.empty(x.shape[1])
        mean = x.mean(axis=0)
        x = x - mean
        return cls(len(x), mean, x.T @ x)

    def merge(self, other: GaussianStats) -> GaussianStats:
        """The statistics of both sets together, exact up to rounding (Chan, Golub and LeVeque 1979)."""
        assert self.mean.shape == other.mean.shape, f"{self.mean.shape} and {other.mean.shape}"
        if self.n == 0 or other.n == 0:
            return self if other.n == 0 else other
        n = self.n + other.n
        delta = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(delta, delta * (self.n * other.n / n))
        return GaussianStats(n, self.mean + delta * (other.n / n), scatter)

    def update(self, features: npt.ArrayLike) -> GaussianStats:
        """The statistics with features (N, d) added."""
        return self.merge(GaussianStats.of(features))

    @property
    def covariance(self) -> Floats:
        """Unbiased covariance (d, d), divisor n - 1. Raises ConfigError for n < 2."""
        if self.n < 2:
            raise ConfigError(f"a covariance needs at least 2 feature vectors, there are {self.n}")
        return self.scatter / (self.n - 1)


def frechet_distance(a: GaussianStats, b: GaussianStats) -> float:
    """‖μ_a - μ_b‖² + tr(S_a + S_b - 2 (S_a S_b)^½), the squared Fréchet (2-Wasserstein) distance; never negative.

    Singular covariances (n <= d) are no special case, but the estimate is then biased upward. Raises ConfigError for
    fewer than 2 feature vectors on a side. Dowson and Landau 1982; Heusel et al. 2017 (FID).
    """
    assert a.mean.shape == b.mean.shape, f"{a.mean.shape} and {b.mean.shape}"
    s_a, s_b = a.covariance, b.covariance
    delta = a.mean - b.mean
    distance = delta @ delta + np.trace(s_a) + np.trace(s_b) - 2.0 * trace_sqrt_product(s_a, s_b)
    return max(float(distance), 0.0)


def trace_sqrt_product(s_a: Floats, s_b: Floats) -> float:
    """tr (S_a S_b)^½ of two positive semi-definite matrices (d, d).

    With S_a = A Aᵀ and S_b = B Bᵀ it is the sum of the singular values of Aᵀ B. Taking the square roots before the
    product and not after keeps full precision where a covariance is singular.
    """
    product = _square_root(s_a).T @ _square_root(s_b)
    return float(np.linalg.svd(product, compute_uv=False).sum()) if product.size else 0.0


def _square_root(s: Floats) -> Floats:
    """A (d, rank) with A Aᵀ = S; eigenvalues at the level of rounding are zero."""
    w, v = np.linalg.eigh(s)
    kept = w > w[-1] * len(w) * np.finfo(np.float64).eps
    root: Floats = v[:, kept] * np.sqrt(w[kept])
    return root
