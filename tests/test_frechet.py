"""Statistics in one pass and the Fréchet distance, against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from gwm.core import ConfigError
from gwm.core.frechet import Floats, GaussianStats, frechet_distance, trace_sqrt_product


def random_features(n: int, d: int, seed: int = 0, shift: float = 0.0) -> Floats:
    """(n, d) correlated features whose variances span four decades."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) * np.logspace(0, -2, d)) + shift


def gaussian(mean: Floats, covariance: Floats, n: int = 101) -> GaussianStats:
    return GaussianStats(n, mean, covariance * (n - 1))


def random_covariance(d: int, seed: int) -> Floats:
    x = random_features(4 * d, d, seed)
    return x.T @ x / len(x)


def test_equal_covariances_leave_the_means() -> None:
    d = 12
    covariance, delta = random_covariance(d, 0), np.random.default_rng(1).normal(size=d)
    distance = frechet_distance(gaussian(np.ones(d), covariance), gaussian(np.ones(d) + delta, covariance))
    assert distance == pytest.approx(delta @ delta, rel=1e-12)


def test_diagonal_covariances_have_a_closed_form() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.uniform(0, 3, (2, 20))
    a[:3] = 0  # a direction without variance is no special case
    distance = frechet_distance(gaussian(np.zeros(20), np.diag(a**2)), gaussian(np.zeros(20), np.diag(b**2)))
    assert distance == pytest.approx(((a - b) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("n", [500, 10])
def test_distance_to_itself_is_zero(n: int) -> None:
    """With n <= d too: taking square roots after the product left 1e-4 of the variance here."""
    stats = GaussianStats.of(random_features(n, 40))
    assert 0 <= frechet_distance(stats, stats) < 1e-12 * np.trace(stats.covariance)


@pytest.mark.parametrize("n", [500, 10])
def test_symmetric(n: int) -> None:
    a, b = GaussianStats.of(random_features(n, 40, 3)), GaussianStats.of(random_features(n + 1, 40, 4, 0.2))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


@pytest.mark.parametrize("d", [1, 5, 60])
def test_agrees_with_a_matrix_square_root(d: int) -> None:
    s_a, s_b = random_covariance(d, 5), random_covariance(d, 6)
    oracle = np.trace(scipy.linalg.sqrtm(s_a @ s_b)).real
    assert trace_sqrt_product(s_a, s_b) == pytest.approx(oracle, rel=1e-6)


def test_fewer_features_than_dimensions() -> None:
    """Against the singular values of the centred features themselves, which need no covariance."""
    x, y = random_features(7, 50, 7), random_features(9, 50, 8, 1.0)
    a, b = (x - x.mean(0)) / np.sqrt(6), (y - y.mean(0)) / np.sqrt(8)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * cross
    assert frechet_distance(GaussianStats.of(x), GaussianStats.of(y)) == pytest.approx(expected, rel=1e-10)


def test_more_features_give_a_smaller_bias() -> None:
    """Two samples of one distribution: the distance is all bias, and shrinks with n."""
    x = random_features(4000, 30, 9)
    bias = [frechet_distance(GaussianStats.of(x[:n]), GaussianStats.of(x[-n:])) for n in (10, 100, 1000)]
    assert bias[0] > 4 * bias[1] > 16 * bias[2] > 0


def test_seven_parts_merged_are_one_pass() -> None:
    """A mean far from zero, where sums of squares would cancel."""
    x = random_features(1000, 20, 10, shift=1e4)
    whole = GaussianStats.of(x)
    parts = [GaussianStats.of(part) for part in np.split(x, [0, 1, 17, 300, 301, 900])]
    left = right = GaussianStats.empty(20)
    for part in parts:
        left = left.merge(part)
    for part in reversed(parts):
        right = part.merge(right)
    updated = GaussianStats.empty(20)
    for row in x:
        updated = updated.update(row[None])
    for merged in (left, right, updated):
        assert merged.n == 1000
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
        scale = np.abs(whole.scatter).max()
        np.testing.assert_allclose(merged.scatter / scale, whole.scatter / scale, atol=1e-9)
        np.testing.assert_allclose(merged.covariance / scale, np.cov(x.T) / scale, atol=1e-9)


def test_merging_changes_no_part() -> None:
    x = random_features(20, 3)
    a, b = GaussianStats.of(x[:5]), GaussianStats.of(x[5:])
    before = a.mean.copy(), a.scatter.copy(), b.mean.copy(), b.scatter.copy()
    a.merge(b)
    for then, now in zip(before, (a.mean, a.scatter, b.mean, b.scatter), strict=True):
        np.testing.assert_array_equal(then, now)


def test_float32_features_are_summed_in_float64() -> None:
    x = (random_features(500, 4, 11) + 3000).astype(np.float32)
    np.testing.assert_allclose(GaussianStats.of(x).covariance, np.cov(x.T.astype(np.float64)), rtol=1e-10)


def test_constant_features_have_distance_of_their_means() -> None:
    a, b = GaussianStats.of(np.zeros((3, 4))), GaussianStats.of(np.ones((3, 4)))
    assert frechet_distance(a, b) == 4.0


def test_one_feature_has_no_covariance() -> None:
    with pytest.raises(ConfigError, match="at least 2 feature vectors, there are 1"):
        frechet_distance(GaussianStats.of(np.ones((1, 4))), GaussianStats.of(np.eye(4)))


def test_not_finite_features_are_named() -> None:
    x = np.ones((5, 2))
    x[3, 1] = np.nan
    with pytest.raises(ConfigError, match="1 of 5 feature vectors are not finite, the first is number 3"):
        GaussianStats.of(x)
