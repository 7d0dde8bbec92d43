"""PSNR and SSIM of frames, against closed cases and a plain loop over windows."""

from __future__ import annotations

import numpy as np
import pytest

from gwm.core.fidelity import PSNR_CAP, psnr, ssim


def frames(n: int = 2, height: int = 16, width: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_psnr_of_a_constant_error():
    a = np.full((3, 4, 5, 3), 100, np.uint8)
    b = a + np.array([1, 10, 155], np.uint8)[:, None, None, None]
    np.testing.assert_allclose(psnr(a, b), 20 * np.log10(255 / np.array([1, 10, 155])), rtol=1e-12)
    np.testing.assert_array_equal(psnr(a, b), psnr(b, a))  # uint8 does not wrap around


def test_equal_and_nearly_equal_frames_have_the_cap():
    a = np.zeros((2, 600, 1000, 3), np.uint8)
    b = a.copy()
    b[1, 0, 0, 0] = 1  # 110.6 dB
    np.testing.assert_array_equal(psnr(a, b), [PSNR_CAP, PSNR_CAP])
    assert np.isfinite(psnr(a, b)).all()


def test_ssim_is_the_paper_s_formula_in_every_window():
    """Wang et al. 2004, equation 13, with the sums written out."""
    a, b = frames(1, 13, 14), frames(1, 13, 14, 1)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    c_1, c_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    for colour in range(3):
        for i in range(3):
            for j in range(4):
                x, y = (z[0, i : i + 11, j : j + 11, colour].astype(float) for z in (a, b))
                mu_x, mu_y = (weights * x).sum(), (weights * y).sum()
                var_x, var_y = (weights * (x - mu_x) ** 2).sum(), (weights * (y - mu_y) ** 2).sum()
                cov = (weights * (x - mu_x) * (y - mu_y)).sum()
                top = (2 * mu_x * mu_y + c_1) * (2 * cov + c_2)
                found.append(top / ((mu_x**2 + mu_y**2 + c_1) * (var_x + var_y + c_2)))
    assert ssim(a, b)[0] == pytest.approx(np.mean(found), rel=1e-12)


def test_ssim_of_equal_and_of_flat_frames():
    a = frames()
    np.testing.assert_allclose(ssim(a, a), 1, rtol=1e-12)
    x, y = np.full((1, 12, 12, 3), 50, np.uint8), np.full((1, 12, 12, 3), 200, np.uint8)
    c_1 = (0.01 * 255) ** 2
    np.testing.assert_allclose(ssim(x, y), (2 * 50 * 200 + c_1) / (50**2 + 200**2 + c_1), rtol=1e-12)


def test_frames_are_scored_one_by_one():
    a, b = frames(3), frames(3, seed=1)
    for score in (psnr, ssim):
        whole = score(a, b)
        assert (whole.shape, whole.dtype) == ((3,), np.float64)
        np.testing.assert_array_equal(whole[1:2], score(a[1:2], b[1:2]))
        assert score(a[:0], b[:0]).shape == (0,)


def test_more_noise_scores_worse():
    a = frames(1, 32, 32) // 2 + 64
    noise = np.random.default_rng(2).normal(size=a.shape)
    for score in (psnr, ssim):
        scores = [score(a, (a + sigma * noise).clip(0, 255).astype(np.uint8))[0] for sigma in (2, 8, 32)]
        assert scores[0] > scores[1] > scores[2]
