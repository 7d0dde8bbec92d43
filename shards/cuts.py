"""Where one shot ends and the next begins: a detector's verdict on every frame, in constant memory.

The detector is handed in, since a good one is a network and this layer knows none (`pipelines/cuts.py` has TransNetV2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from gwm.shards.schema import Images

THUMBNAIL = (48, 27)  # width, height in pixels
WINDOW = 100  # thumbnails judged at once, as in TransNetV2
CONTEXT = 25  # of them at either end only seen, not judged, as there

T = TypeVar("T")


class FindCuts(Protocol):
    """A cut detector."""

    @property
    def name(self) -> str:
        """What the dataset's settings call it."""

    def __call__(self, thumbnails: Images) -> npt.NDArray[np.bool_]:
        """(N,) True at the first frame after a cut, for consecutive RGB thumbnails (N, 27, 48, 3)."""


def thumbnail(image: Images) -> Images:
    """(H, W, 3) as the (27, 48, 3) that a detector looks at; another shape is squeezed, as in TransNetV2's training."""
    return np.asarray(cv2.resize(image, THUMBNAIL, interpolation=cv2.INTER_AREA), np.uint8)


def mark_cuts(frames: Iterable[tuple[T, Images]], find: FindCuts | None) -> Iterator[tuple[T, bool]]:
    """Each frame's payload, and whether a cut lies before it, from pairs of payload and image (H, W, 3).

    The detector sees overlapping windows of `WINDOW`; the video's first and last frame are repeated as context at its
    ends, the last to a whole window. At most `WINDOW` payloads are held. The first frame is never marked, and without
    a detector none is.
    """
    if find is None:
        yield from ((payload, False) for payload, _ in frames)
        return
    seen: list[Images] = []  # CONTEXT judged ones, then those that wait
    waiting: list[T] = []
    first = True
    for payload, image in frames:
        small = thumbnail(image)
        if not seen:
            seen = [small] * CONTEXT
        seen.append(small)
        waiting.append(payload)
        if len(seen) == WINDOW:
            ready = WINDOW - 2 * CONTEXT
            marks = find(np.stack(seen))[CONTEXT : CONTEXT + ready]
            marks[0] &= not first
            yield from zip(waiting[:ready], marks.tolist(), strict=True)
            seen, waiting, first = seen[ready:], waiting[ready:], False
    if waiting:
        marks = find(np.stack(seen + seen[-1:] * (WINDOW - len(seen))))[CONTEXT : CONTEXT + len(waiting)]
        marks[0] &= not first
        yield from zip(waiting, marks.tolist(), strict=True)
