"""Frames as images: fitting to a target size, the camera that goes with it, and JPEG."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import simplejpeg

from gwm.shards import ShardError, SourceError
from gwm.shards.schema import Camera, Images

JPEG_QUALITY = 95
FITS = ("crop", "letterbox")

Size = tuple[int, int]  # width, height in pixels
Box = tuple[int, int, int, int]  # x, y, width, height in pixels


def placement(source: Size, size: Size, how: str = "crop") -> tuple[Box, Box]:
    """Which box of a `source`-sized image is scaled into which box of a `size`-sized one.

    "crop" covers the target: the largest centred box of the target's shape is taken. "letterbox" shows the whole
    image, centred. Whole pixels on both sides, so the two axes' scales may differ by up to one pixel in the box.
    Raises SourceError for another `how` or an empty size.
    """
    if how not in FITS:
        raise SourceError(f"no way to fit images is called {how!r}; use one of: {', '.join(FITS)}")
    if min(*source, *size) < 1:
        raise SourceError(f"cannot fit an image of {source[0]}x{source[1]} to {size[0]}x{size[1]} pixels")
    if how == "crop":
        return _centred(source, size), (0, 0, *size)
    return (0, 0, *source), _centred(size, source)


def fit(image: Images, size: Size, how: str = "crop") -> Images:
    """`image` (H, W, 3) uint8 as (height, width, 3) at `size` = (width, height); see `placement` for `how`.

    Area averaging where it shrinks, linear interpolation where it grows; letterbox bars are black.
    """
    source = (image.shape[1], image.shape[0])
    if source == size:
        return np.ascontiguousarray(image)
    (x, y, w, h), (to_x, to_y, to_w, to_h) = placement(source, size, how)
    shrinks = to_w <= w and to_h <= h
    box = image[y : y + h, x : x + w]
    scaled = cv2.resize(box, (to_w, to_h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if (to_w, to_h) == size:
        return np.asarray(scaled, np.uint8)
    out = np.zeros((size[1], size[0], 3), np.uint8)
    out[to_y : to_y + to_h, to_x : to_x + to_w] = scaled
    return out


def fit_camera(camera: Camera, size: Size, how: str = "crop") -> Camera:
    """The camera of an image after `fit(image, size, how)`.

    Image coordinates run from 0 at the left (top) border to the width (height) at the other.
    """
    (x, y, w, h), (to_x, to_y, to_w, to_h) = placement((camera.width, camera.height), size, how)
    sx, sy = to_w / w, to_h / h
    change = np.array([[sx, 0.0, to_x - sx * x], [0.0, sy, to_y - sy * y], [0.0, 0.0, 1.0]])
    return replace(camera, width=size[0], height=size[1], intrinsics=change @ camera.intrinsics)


def encode_jpeg(image: Images, quality: int = JPEG_QUALITY) -> bytes:
    """(H, W, 3) RGB uint8 as JPEG bytes."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorspace="RGB")
    return data


def decode_jpeg(data: bytes) -> Images:
    """JPEG bytes as (H, W, 3) RGB uint8. Raises ShardError for damaged bytes."""
    try:
        image: Images = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError as error:
        raise ShardError(f"damaged JPEG image of {len(data)} bytes: {error}") from error
    return image


def jpeg_size(data: bytes) -> Size:
    """(width, height) that a JPEG's header states. Raises ShardError for what is no JPEG."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ShardError(f"{len(data)} bytes that are no JPEG: {error}") from error
    return int(width), int(height)


def fit_jpeg(data: bytes, size: Size | None, how: str = "crop") -> bytes:
    """A JPEG at `size` (width, height), see `fit`; the same bytes where it has that size already, or `size` is None.

    Raises ShardError for damaged bytes: whether passed on or not, the image is decoded once.
    """
    image = decode_jpeg(data)
    plain = simplejpeg.decode_jpeg_header(data)[2] == "YCbCr"
    if plain and size in (None, (image.shape[1], image.shape[0])):
        return data
    return encode_jpeg(image if size is None else fit(image, size, how))


def _centred(outer: Size, shape: Size) -> Box:
    """The largest centred box of `outer` with the proportions of `shape`."""
    scale = min(outer[0] / shape[0], outer[1] / shape[1])
    width = min(outer[0], max(1, round(shape[0] * scale)))
    height = min(outer[1], max(1, round(shape[1] * scale)))
    return (outer[0] - width) // 2, (outer[1] - height) // 2, width, height
