"""The nouns of the data: what one sample of a dataset holds.

A sample is one chunk: consecutive frames of one scene at 10 Hz, all views, with whatever is known of the ego motion.
Frames: x forward, y left, z up, metres, radians, seconds. A left turn is positive.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FRAME_RATE = 10.0  # Hz, of every chunk
VIEWS = (  # clockwise from the front
    "front", "front_right", "side_right", "back_right", "back", "back_left", "side_left", "front_left",
)  # fmt: skip
SCHEMA_VERSION = 3

Floats = npt.NDArray[np.float64]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera of one view, at the size of the stored frames."""

    view: str
    width: int  # pixels
    height: int  # pixels
    intrinsics: Floats  # (3, 3) pixels
    extrinsics: Floats  # (4, 4) camera (x right, y down, z forward) -> ego


@dataclass(frozen=True)
class Motion:
    """Ego motion of T frames. What a dataset does not give is None."""

    pose: Floats | None = None  # (T, 4, 4) ego -> world
    speed: Floats | None = None  # (T,) m/s, forward
    steering: Floats | None = None  # (T,) rad at the steering wheel, left positive

    def window(self, start: int, length: int) -> Motion:
        """The motion of frames start .. start + length - 1."""

        def cut(a: Floats | None) -> Floats | None:
            return None if a is None else a[start : start + length]

        return Motion(cut(self.pose), cut(self.speed), cut(self.steering))


@dataclass(frozen=True)
class Caption:
    """What is said of some frames of a chunk."""

    start: int  # first frame
    end: int  # frame after the last
    text: str
    command: int | None = None  # in the source's own numbering


@dataclass(frozen=True)
class Chunk:
    """One sample as a source yields it and the writer stores it."""

    key: str  # unique in the dataset; no dots, see `clean_key`
    scene: str
    split: str  # "train", "val" or "test"
    origin: str  # the source file or seed it came from
    frames: Mapping[str, Sequence[bytes]]  # view -> T JPEG images, all views of equal T
    timestamps: Floats  # (T,) seconds since the start of the scene
    motion: Motion = field(default_factory=Motion)
    cameras: tuple[Camera, ...] = ()
    text: str = ""
    captions: tuple[Caption, ...] = ()
    fit: str = ""  # how frames were brought to their size, see gwm.shards.images.fit; "" where they were not
    extra: Mapping[str, Any] = field(default_factory=dict)  # JSON values, such as the size of the source

    @property
    def length(self) -> int:
        """Number of frames T."""
        return len(self.timestamps)


@dataclass(frozen=True)
class Skipped:
    """What a source leaves out of the shards; it travels beside the chunks, so that no loss is silent."""

    item: str  # the source file, and which part of it
    cause: str  # the same words for the same cause, so that causes can be counted
    frames: int = 0  # how many at 10 Hz, where that is known


class Damaged(Skipped):
    """What cannot be read as it is: it is tried again once its files have changed."""


@dataclass(frozen=True)
class Actions:
    """The actions of a window as Vista defines them; NaN (or None for the whole kind) where unknown.

    Waypoints lie 0.5 s apart, the first 0.5 s after the window's first frame.
    Command: 0 turn right, 1 turn left, 2 stop, 3 go straight.
    """

    angle: Floats | None = None  # (4,) rad at the steering wheel
    speed: Floats | None = None  # (4,) m/s
    trajectory: Floats | None = None  # (4, 2) m in the ego frame of the first frame
    goal: Floats | None = None  # (2,) last waypoint in the front image, / (width, height), in [0, 1]
    command: int | None = None


@dataclass(frozen=True)
class Window:
    """T consecutive frames of one chunk, decoded, as the reader yields them."""

    key: str
    start: int  # index of the first frame within the chunk
    frames: Images  # (T, K, H, W, 3) RGB
    views: tuple[str, ...]
    motion: Motion
    cameras: tuple[Camera, ...]
    text: str


def clean_key(*parts: str) -> str:
    """A sample key: WebDataset splits a member's name at the first dot, so only [A-Za-z0-9_-] stay."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(parts))
