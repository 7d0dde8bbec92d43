"""Images brought to a size, with the camera that took them, and JPEG."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from gwm.shards import ShardError, SourceError
from gwm.shards.images import decode_jpeg, encode_jpeg, fit, fit_camera, fit_jpeg, jpeg_size
from gwm.shards.schema import Camera


def test_crop_covers_and_letterbox_shows_all():
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, 20:80] = 200
    crop = fit(image, (60, 60))  # the middle 60 columns
    assert crop.min() == 200
    boxed = fit(image, (50, 50), "letterbox")
    assert boxed.shape == (50, 50, 3)
    assert boxed[:10].max() == boxed[40:].max() == 0
    assert boxed[25, 25, 0] == 200 and boxed[25, 2, 0] == 0  # noqa: PT018
    assert fit(image, (200, 120)).shape == (120, 200, 3)
    with pytest.raises(SourceError, match="stretch"):
        fit(image, (50, 50), "stretch")


@pytest.mark.parametrize("how", ["crop", "letterbox"])
@pytest.mark.parametrize("size", [(80, 80), (160, 40), (37, 91), (300, 200)])
def test_a_camera_follows_its_image(how, size):
    """A bright spot lies in the fitted image where the fitted camera projects its point."""
    camera = Camera("front", 120, 90, np.array([[70.0, 0, 60], [0, 70.0, 45], [0, 0, 1]]), np.eye(4))
    point = np.array([0.02, -0.03, 1.0])
    x, y, _ = camera.intrinsics @ point
    yy, xx = np.mgrid[:90, :120] + 0.5
    image = np.repeat((255 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 40))[..., None], 3, 2).astype(np.uint8)
    fitted, seen = fit_camera(camera, size, how), fit(image, size, how)[..., 0].astype(float)
    yy, xx = np.mgrid[: size[1], : size[0]] + 0.5
    centre = np.array([(seen * xx).sum(), (seen * yy).sum()]) / seen.sum()
    assert (fitted.width, fitted.height) == size == seen.shape[::-1]
    np.testing.assert_allclose(centre, (fitted.intrinsics @ point)[:2], atol=0.3)


def test_jpeg_round_trip_and_damage():
    image = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (32, 64, 3)).copy()
    data = encode_jpeg(image)
    assert np.abs(decode_jpeg(data).astype(int) - image).max() <= 8
    for bad in (b"", b"text", data[: len(data) // 2]):
        with pytest.raises(ShardError, match="JPEG"):
            decode_jpeg(bad)


def test_a_jpeg_of_the_right_size_is_passed_on_untouched():
    image = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (32, 64, 3)).copy()
    data = encode_jpeg(image, 80)
    assert fit_jpeg(data, (64, 32)) == fit_jpeg(data, None) == data
    small = fit_jpeg(data, (32, 32), "letterbox")
    assert jpeg_size(small) == (32, 32)
    assert decode_jpeg(small)[:7].max() < 20
    grey = simplejpeg.encode_jpeg(image[:, :, :1].copy(), colorspace="GRAY")
    plain = fit_jpeg(grey, (64, 32))
    assert simplejpeg.decode_jpeg_header(plain)[2] == "YCbCr"
    assert np.abs(decode_jpeg(plain).astype(int) - image).max() <= 8
    with pytest.raises(ShardError, match="JPEG"):
        fit_jpeg(data[: len(data) // 2], (64, 32))
