"""One sample as bytes: the names of its tar members, and the JSON beside its frames.

Member names follow WebDataset: `KEY.json` and `KEY.<view>.<frame>.jpg`, split at the first dot by every reader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gwm.shards import ShardError
from gwm.shards.schema import FRAME_RATE, SCHEMA_VERSION, VIEWS, Camera, Caption, Chunk, Floats, Motion

SPLITS = ("train", "val", "test")
# Not in the paper: sources that take the nearest frame of an irregular camera may be off by half a period.
STEP_TOLERANCE = 0.5 / FRAME_RATE + 1e-6  # s


@dataclass(frozen=True)
class Description:
    """What the JSON of a sample holds; the fields are those of `Chunk`."""

    scene: str
    split: str
    origin: str
    views: tuple[str, ...]  # in the order of schema.VIEWS
    timestamps: Floats  # (T,) s
    motion: Motion
    cameras: tuple[Camera, ...]
    text: str
    captions: tuple[Caption, ...]
    fit: str
    extra: Mapping[str, Any]


def json_name(key: str) -> str:
    """Member name of the sample's JSON."""
    return f"{key}.json"


def frame_name(key: str, view: str, frame: int, frames: int) -> str:
    """Member name of one JPEG; a chunk of more than 999 frames has four digits throughout, so that names sort."""
    return f"{key}.{view}.{frame:0{3 if frames <= 999 else 4}d}.jpg"


def describe(chunk: Chunk) -> Description:
    """The part of `chunk` that goes into its JSON. Raises ShardError for views that are not in schema.VIEWS."""
    unknown = sorted(set(chunk.frames) - set(VIEWS))
    if unknown or not chunk.frames:
        raise ShardError(f"sample {chunk.key!r}: views {unknown or 'missing'}; a view is one of {', '.join(VIEWS)}")
    views = tuple(view for view in VIEWS if view in chunk.frames)
    return Description(
        chunk.scene,
        chunk.split,
        chunk.origin,
        views,
        np.asarray(chunk.timestamps, np.float64),
        chunk.motion,
        chunk.cameras,
        chunk.text,
        chunk.captions,
        chunk.fit,
        chunk.extra,
    )


def faults(key: str, description: Description) -> list[str]:
    """What is wrong with a sample's key and JSON, in words; the writer refuses and `verify` reports the same."""
    found = []
    if not re.fullmatch(r"[A-Za-z0-9_-]+", key):
        found.append(f"key {key!r} has characters other than letters, digits, _ and - (make it with clean_key)")
    if description.split not in SPLITS:
        found.append(f"split {description.split!r} is none of {', '.join(SPLITS)}")
    frames = len(description.timestamps)
    for caption in description.captions:
        if not 0 <= caption.start < caption.end <= frames:
            found.append(f"a caption of frames {caption.start} to {caption.end} of {frames}")
    return found + _time_faults(description.timestamps) + _motion_faults(description) + _camera_faults(description)


def _time_faults(timestamps: Floats) -> list[str]:
    if timestamps.ndim != 1 or len(timestamps) == 0:
        return [f"timestamps have shape {timestamps.shape}, not (T,) with T > 0"]
    if not np.isfinite(timestamps).all():
        return ["timestamps are not finite"]
    off = np.abs(np.diff(timestamps) - 1 / FRAME_RATE) > STEP_TOLERANCE
    if off.any():
        i = int(np.argmax(off))
        return [
            f"timestamps {i} and {i + 1} are {timestamps[i]:.4f} s and {timestamps[i + 1]:.4f} s, "
            f"not {1 / FRAME_RATE:g} s apart"
        ]
    return []


def _motion_faults(description: Description) -> list[str]:
    frames, motion, found = len(description.timestamps), description.motion, []
    for name, values, shape in (
        ("pose", motion.pose, (frames, 4, 4)),
        ("speed", motion.speed, (frames,)),
        ("steering", motion.steering, (frames,)),
    ):
        if values is None:
            continue
        if np.shape(values) != shape:
            found.append(f"{name} has shape {np.shape(values)}, not {shape}")
        elif not np.isfinite(values).all():
            found.append(f"{name} is not finite")
    return found


def _camera_faults(description: Description) -> list[str]:
    found = []
    names = [camera.view for camera in description.cameras]
    if len(set(names)) < len(names) or not set(names) <= set(description.views):
        found.append(f"cameras {names} are not one for each of the views {list(description.views)}")
    for camera in description.cameras:
        if np.shape(camera.intrinsics) != (3, 3) or np.shape(camera.extrinsics) != (4, 4):
            found.append(f"camera {camera.view} has no 3x3 intrinsics and 4x4 extrinsics")
        elif not (np.isfinite(camera.intrinsics).all() and np.isfinite(camera.extrinsics).all()):
            found.append(f"camera {camera.view} is not finite")
    return found


def encode_description(description: Description) -> bytes:
    """The JSON of a sample. Floats keep all their digits. Raises ShardError if `extra` is not made of JSON values."""
    motion = description.motion
    fields = {
        "schema_version": SCHEMA_VERSION,
        "scene": description.scene,
        "split": description.split,
        "origin": description.origin,
        "views": description.views,
        "timestamps": description.timestamps.tolist(),
        "pose": _listed(motion.pose),
        "speed": _listed(motion.speed),
        "steering": _listed(motion.steering),
        "cameras": [
            {
                "view": camera.view,
                "width": camera.width,
                "height": camera.height,
                "intrinsics": _listed(camera.intrinsics),
                "extrinsics": _listed(camera.extrinsics),
            }
            for camera in description.cameras
        ],
        "text": description.text,
        "captions": [vars(caption) for caption in description.captions],
        "fit": description.fit,
        "extra": dict(description.extra),
    }
    try:
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ShardError(f"scene {description.scene!r} cannot be stored as JSON: {error}") from error


def decode_description(data: bytes) -> Description:
    """The inverse of `encode_description`. Raises ShardError for damaged or foreign JSON."""
    try:
        fields = json.loads(data)
        return Description(
            fields["scene"],
            fields["split"],
            fields["origin"],
            tuple(fields["views"]),
            np.asarray(fields["timestamps"], np.float64),
            Motion(_array(fields["pose"]), _array(fields["speed"]), _array(fields["steering"])),
            tuple(_camera(camera) for camera in fields["cameras"]),
            fields["text"],
            tuple(Caption(**caption) for caption in fields["captions"]),
            fields["fit"],
            fields["extra"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ShardError(f"damaged JSON of {len(data)} bytes: {type(error).__name__}: {error}") from error


def _camera(fields: Mapping[str, Any]) -> Camera:
    return Camera(
        fields["view"],
        int(fields["width"]),
        int(fields["height"]),
        np.asarray(fields["intrinsics"], np.float64),
        np.asarray(fields["extrinsics"], np.float64),
    )


def _listed(values: Floats | None) -> list[Any] | None:
    return None if values is None else np.asarray(values, np.float64).tolist()


def _array(values: Sequence[Any] | None) -> Floats | None:
    return None if values is None else np.asarray(values, np.float64)
