"""Fréchet distance of two Gaussians, and their statistics in one pass over the features.

numpy and float64 throughout: the statistics of a million float32 features would lose the distance in rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gwm.core import ConfigError

Floats = npt.NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)
LARGE = 1000  # dimensions, from where on time matters
DOUBT = 1e-6  # most that rounding could change, as a share of a trace
PIVOT = 1e-10  # least pivot, as a share of the largest variance, of a covariance that is far from singular


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
    if a.n > b.n:  # the side of lower rank first, see `_by_eigenvalues`
        a, b = b, a
    s_a, s_b = a.covariance, b.covariance
    delta = a.mean - b.mean
    distance = delta @ delta + np.trace(s_a) + np.trace(s_b) - 2.0 * trace_sqrt_product(s_a, s_b)
    return max(float(distance), 0.0)


def trace_sqrt_product(s_a: Floats, s_b: Floats) -> float:
    """tr (S_a S_b)^½ of two positive semi-definite matrices (d, d).

    With S_a = A Aᵀ and S_b = B Bᵀ it is the sum of the singular values of Aᵀ B. Taking the square roots before the
    product and not after keeps full precision where a covariance is singular.
    """
    a = _square_root(s_a)
    if len(s_a) >= LARGE and (total := _by_eigenvalues(a, s_b)) is not None:
        return total
    product = a.T @ _square_root(s_b)
    return float(np.linalg.svd(product, compute_uv=False).sum()) if product.size else 0.0


def _by_eigenvalues(a: Floats, s_b: Floats) -> float | None:
    """The same in a third of the time, as the roots of the eigenvalues of Aᵀ S_b A; None if rounding could show.

    An eigenvalue w carries an error of up to ε w_max, its root one of ε w_max / (2 √w), but at most √(ε w_max). The sum
    of these bounds may reach `DOUBT` of the trace of S_b; the error itself was then below 1e-8 of it in all trials.
    """
    if not a.size:
        return 0.0
    w = np.linalg.eigvalsh(a.T @ (s_b @ a)).clip(0)
    noise = w[-1] * EPSILON
    roots = np.sqrt(w)
    doubt = (noise / (2 * roots).clip(np.sqrt(noise))).sum() if noise else 0.0
    return float(roots.sum()) if doubt <= DOUBT * np.trace(s_b) else None


def _square_root(s: Floats) -> Floats:
    """A (d, rank) with A Aᵀ = S: Cholesky's where S is well conditioned, else by eigenvectors.

    Eigenvalues at the level of rounding are zero.
    """
    try:
        root: Floats = np.asarray(np.linalg.cholesky(s), np.float64)
        if np.diagonal(root).min(initial=np.inf) ** 2 > PIVOT * np.diagonal(s).max(initial=0):
            return root
    except np.linalg.LinAlgError:
        pass
    w, v = np.linalg.eigh(s)
    kept = w > w[-1] * len(w) * EPSILON
    root = v[:, kept] * np.sqrt(w[kept])
    return root
