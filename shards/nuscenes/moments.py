"""Six cameras that run at an irregular 12 Hz, brought to common moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gwm.shards.nuscenes.scene import Micros
from gwm.shards.schema import FRAME_RATE

STEP = round(1_000_000 / FRAME_RATE)  # µs
LONGEST = 150_000  # µs between a moment and a camera's nearest image; one and a half periods
RATES = ("10", "raw")

Picks = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Moments:
    """T output frames of a scene."""

    ticks: npt.NDArray[np.int64]  # (T,) rising; frames that follow each other differ by one
    micros: Micros  # (T,) when
    picks: Mapping[str, Picks]  # by view: (T,) which of the camera's images, -1 for none that is near enough
    late: int  # output times before the first, at which not every camera had begun


def at_ten_hertz(times: Mapping[str, Micros]) -> Moments:
    """Every 0.1 s from the moment on at which every camera has had an image; each camera's nearest image.

    `times` are those of each view, rising, at least one. Of two images equally near the earlier one is taken.
    """
    first = max(int(micros[0]) for micros in times.values())
    last = max(int(micros[-1]) for micros in times.values())
    late = (first - min(int(micros[0]) for micros in times.values())) // STEP
    ticks = np.arange((last - first) // STEP + 1)
    micros = first + ticks * STEP
    return Moments(ticks, micros, {view: nearest(own, micros) for view, own in times.items()}, late)


def as_they_come(times: Mapping[str, Micros]) -> Moments:
    """The images of the first of the views one by one, as if they were taken at 10 Hz; the others' nearest to each.

    That is how Vista takes nuScenes. A step of over 0.15 s is a gap: the ticks go on as far as it is long.
    """
    micros = next(iter(times.values()))
    steps = np.diff(micros)
    jumps = np.where(steps > LONGEST, np.maximum(2, np.round(steps / STEP)), 1).astype(np.int64)
    ticks = np.concatenate([[0], np.cumsum(jumps)])
    picks = {view: nearest(own, micros) for view, own in times.items()}
    picks[next(iter(times))] = np.arange(len(micros))
    return Moments(ticks, micros, picks, 0)


def nearest(times: Micros, moments: Micros) -> Picks:
    """For each moment (T,) which of `times` (N,), rising, is nearest, the earlier of two; -1 where none is near."""
    after = np.searchsorted(times, moments)
    right = np.minimum(after, len(times) - 1)
    left = np.maximum(after - 1, 0)
    picks = np.where(np.abs(times[right] - moments) < np.abs(moments - times[left]), right, left)
    return np.where(np.abs(times[picks] - moments) > LONGEST, -1, picks)
