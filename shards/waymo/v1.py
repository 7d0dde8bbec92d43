"""Version 1: a `dataset.Frame` (proto2) in each TFRecord record. Field numbers are those of Waymo's dataset.proto.

Only what `Frame` holds is decoded; lidar, labels and maps are stepped over, unknown fields too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from gwm.shards import SourceError
from gwm.shards.schema import Damaged, Floats
from gwm.shards.tfrecord import read_records
from gwm.shards.waymo.frame import CAMERA_NAMES, VIEWS, Calibration, Frame, Image
from gwm.shards.wire import (
    all_doubles,
    doubles,
    fields,
    message,
    put_bytes,
    put_doubles,
    put_floats,
    put_varint,
    single,
    whole,
)

IDENTITY = np.eye(4)


def read_frames(file: BinaryIO, name: str) -> Iterator[Frame | Damaged]:
    """The frames of one segment's file, one in memory at a time, and in their places those that cannot be read."""
    context, known = b"", None
    for number, data in enumerate(read_records(file, name)):
        if isinstance(data, Damaged):
            yield data
            continue
        try:
            found = _collect(memoryview(data), {1: message, 2: whole, 3: message}, {4: message})
            if found[1] != context or known is None:  # the same in every frame of a segment
                context, known = bytes(found[1] or b""), _context(memoryview(bytes(found[1] or b"")))
            segment, calibrations, stats = known
            yield Frame(
                segment, found[2] or 0, _transform(found[3]), _images(found[4]), calibrations, *stats
            )  # fmt: skip
        except SourceError as error:
            yield Damaged(f"{name}: record {number}: {error}", "a record is no Waymo frame", 1)


def _collect(data: memoryview, one: dict[int, Any], many: dict[int, Any]) -> dict[int, Any]:
    """The wanted fields of a message, decoded: the last of each in `one` (None where absent), all of each in `many`."""
    out: dict[int, Any] = {**dict.fromkeys(one), **{number: [] for number in many}}
    for number, kind, value in fields(data):
        if number in one:
            out[number] = one[number](kind, value)
        elif number in many:
            out[number].append(many[number](kind, value))
    return out


def _text(kind: int, value: int | memoryview) -> str:
    return bytes(message(kind, value)).decode("utf-8", "replace")


def _context(data: memoryview) -> tuple[str, tuple[Calibration, ...], tuple[str, str, str]]:
    found = _collect(data, {1: _text, 4: message}, {2: message})
    if not found[1]:
        raise SourceError("it has no context name")
    stats = _collect(found[4] or memoryview(b""), {2: _text, 3: _text, 4: _text}, {})
    calibrations = tuple(_calibration(c) for c in found[2])
    return found[1], tuple(c for c in calibrations if c.view), (stats[2] or "", stats[3] or "", stats[4] or "")


def _calibration(data: memoryview) -> Calibration:
    found = _collect(data, {1: whole, 3: message, 4: whole, 5: whole}, {2: doubles})
    intrinsic = tuple(x for part in found[2] for x in part)
    if len(intrinsic) != 9:
        raise SourceError(f"a camera has {len(intrinsic)} intrinsic values instead of 9")
    view = VIEWS.get(found[1] or 0, "")
    return Calibration(view, found[4] or 0, found[5] or 0, intrinsic, _transform(found[3]))


def _transform(data: memoryview | None) -> Floats:
    """A Transform: 16 doubles in rows, packed or not; the identity where it is absent."""
    values = all_doubles(data or memoryview(b""), 1)
    if not values:
        return IDENTITY
    if len(values) != 16:
        raise SourceError(f"a transform has {len(values)} values instead of 16")
    return np.array(values).reshape(4, 4)


def _images(parts: list[memoryview]) -> dict[str, Image]:
    out: dict[str, Image] = {}
    for part in parts:
        found = _collect(part, {1: whole, 2: message, 3: message, 4: message, 5: single}, {})
        view = VIEWS.get(found[1] or 0)
        if view is None:
            continue
        if view in out:
            raise SourceError(f"it has two images of camera {view}")
        velocity = None if found[4] is None else _collect(found[4], dict.fromkeys(range(1, 7), single), {})
        out[view] = Image(
            bytes(found[2] or b""),
            _transform(found[3]),
            None if velocity is None else tuple(velocity[i] or 0.0 for i in range(1, 7)),
            found[5] or 0.0,
        )
    return out


def encode_frame(frame: Frame) -> bytes:
    """A `dataset.Frame` message that Waymo's own parser reads."""
    stats = b"".join(
        put_bytes(number, value.encode())
        for number, value in ((2, frame.time_of_day), (3, frame.location), (4, frame.weather))
    )
    calibrations = b"".join(put_bytes(2, _put_calibration(c)) for c in frame.calibrations)
    context = put_bytes(1, frame.segment.encode()) + calibrations + put_bytes(4, stats)
    images = b"".join(put_bytes(4, _put_image(view, image)) for view, image in frame.images.items())
    return put_bytes(1, context) + put_varint(2, frame.micros) + put_bytes(3, _put_transform(frame.pose)) + images


def _put_transform(matrix: Floats) -> bytes:
    return put_doubles(1, np.asarray(matrix, np.float64).ravel().tolist())


def _put_calibration(c: Calibration) -> bytes:
    return b"".join(
        (
            put_varint(1, CAMERA_NAMES[c.view]), put_doubles(2, c.intrinsic), put_bytes(3, _put_transform(c.extrinsic)),
            put_varint(4, c.width), put_varint(5, c.height),
        )
    )  # fmt: skip


def _put_image(view: str, image: Image) -> bytes:
    velocity = b""
    if image.velocity is not None:
        linear = b"".join(put_floats(i + 1, [v]) for i, v in enumerate(image.velocity[:3]))
        velocity = put_bytes(4, linear + b"".join(put_doubles(i + 4, [w]) for i, w in enumerate(image.velocity[3:])))
    return b"".join(
        (
            put_varint(1, CAMERA_NAMES[view]), put_bytes(2, image.jpeg), put_bytes(3, _put_transform(image.pose)),
            velocity, put_doubles(5, [image.pose_timestamp]),
        )
    )  # fmt: skip
