"""The kernel distance, against its double sum and a kernel that can be integrated by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gwm.core import ConfigError
from gwm.core.frechet import Floats
from gwm.core.kernel_distance import kernel_distance, squared_mmd


def features(n: int, d: int = 6, seed: int = 0, shift: float = 0.0) -> Floats:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def test_squared_mmd_is_the_double_sum_without_its_diagonal() -> None:
    x, y = features(5), features(7, seed=1, shift=0.5)

    def k(u: Floats, v: Floats) -> float:
        return float((u @ v / 6 + 1) ** 3)

    same = [np.mean([k(u, v) for u, v in itertools.permutations(z, 2)]) for z in (x, y)]
    cross = np.mean([k(u, v) for u in x for v in y])
    assert squared_mmd(x, y) == pytest.approx(sum(same) - 2 * cross, rel=1e-12)


def test_points_have_a_closed_form() -> None:
    """All features equal: k(u, u) + k(v, v) - 2 k(u, v)."""
    x, y = np.tile([1.0, 0.0], (9, 1)), np.tile([0.0, 2.0], (8, 1))
    found = kernel_distance(x, y, subsets=3)
    assert found.mean == pytest.approx((1 / 2 + 1) ** 3 + (4 / 2 + 1) ** 3 - 2, rel=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_unbiased_however_few_features() -> None:
    """Between samples of one distribution it is zero on average; Fréchet's distance is not."""
    found = np.array([kernel_distance(features(8, 3, s), features(8, 3, 500 + s), 2, seed=s).mean for s in range(400)])
    assert abs(found.mean()) < 3 * found.std() / 20
    assert found.std() > 0


def test_a_shift_shows_and_grows() -> None:
    x = features(300)
    means = [kernel_distance(x, features(300, seed=1, shift=shift), 20).mean for shift in (0, 0.3, 1)]
    assert abs(means[0]) < means[1] / 3 < means[2] / 9


def test_the_seed_decides_and_sizes_are_as_published() -> None:
    x, y = features(1200, 2), features(1500, 2, 1, 0.1)
    a = kernel_distance(x, y, subsets=5, seed=3)
    assert a == kernel_distance(x, y, subsets=5, seed=3)
    assert a != kernel_distance(x, y, subsets=5, seed=4)
    assert a.standard_error > 0
    rng = np.random.default_rng(3)
    draw = [squared_mmd(*(z[rng.choice(len(z), 1000, replace=False)] for z in (x, y))) for _ in range(5)]
    assert a.mean == pytest.approx(np.mean(draw), rel=1e-12)
    assert a.standard_error == pytest.approx(np.std(draw, ddof=1) / np.sqrt(5), rel=1e-12)


def test_few_features_still_give_subsets_that_differ() -> None:
    assert kernel_distance(features(10), features(30, seed=1), subsets=4).standard_error > 0


def test_float32_features_are_summed_in_float64() -> None:
    x, y = (features(20, seed=s).astype(np.float32) for s in (0, 1))
    assert kernel_distance(x, y, 2) == kernel_distance(x.astype(np.float64), y.astype(np.float64), 2)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4 feature vectors on each side, there are 3"):
        kernel_distance(features(3), features(9))
    bad = features(5)
    bad[2, 1] = np.inf
    with pytest.raises(ConfigError, match="not finite"):
        kernel_distance(features(5), bad)
