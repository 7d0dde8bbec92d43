"""The CAN bus of a scene: what the vehicle says of its own motion. Not every scene has every message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from gwm.shards import SourceError
from gwm.shards.nuscenes.scene import Micros
from gwm.shards.nuscenes.table import numbers, read_list, rotation, whole
from gwm.shards.nuscenes.track import Track
from gwm.shards.schema import Floats
from gwm.shards.storage import AnyPath

FOLDER = "can_bus"
MESSAGES = ("pose", "steeranglefeedback", "vehicle_monitor")  # those that are used
KMH = 1 / 3.6  # m/s
REACH = {"pose": 100_000, "steeranglefeedback": 100_000, "vehicle_monitor": 500_000}  # µs

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Signal:
    """A number at N moments."""

    micros: Micros  # (N,) rising
    values: Floats  # (N,)
    reach: int  # µs that a value holds for

    def at(self, micros: Micros) -> Floats | None:
        """(T,) values, linear in between; None where one of the moments is further than `reach` from any value."""
        if not len(self.micros):
            return None
        after = np.searchsorted(self.micros, micros)
        right = self.micros[np.minimum(after, len(self.micros) - 1)]
        left = self.micros[np.maximum(after - 1, 0)]
        if (np.minimum(np.abs(micros - left), np.abs(right - micros)) > self.reach).any():
            return None
        # Differences of microseconds are exact as floats, the times themselves (1.5e15) only just.
        values: Floats = np.interp(micros - self.micros[0], self.micros - self.micros[0], self.values)
        return values


@dataclass(frozen=True, eq=False)
class CanBus:
    """The messages of a scene that are there."""

    state: Mapping[str, str]  # of each message: read, missing, empty or damaged
    pose: Track | None = None  # ego -> global, 50 Hz
    speeds: Mapping[str, Signal] = field(default_factory=dict)  # m/s by message, the best first
    steering: Mapping[str, Signal] = field(default_factory=dict)  # rad at the wheel, left positive; likewise


class _Pose(NamedTuple):
    micros: int
    position: Floats  # m, global
    orientation: Floats
    speed: float  # m/s


class _Monitor(NamedTuple):
    micros: int
    speed: float  # m/s
    steering: float  # rad


def message_file(folder: AnyPath, scene: str, message: str) -> AnyPath:
    """Where a message of a scene is, below the dataset's folder."""
    return folder / FOLDER / f"{scene}_{message}.json"


def read_can_bus(folder: AnyPath, scene: str) -> CanBus:
    """The CAN bus of a scene of the dataset in `folder`; what is missing or damaged is said in `state`."""
    state: dict[str, str] = {}

    def read(message: str, make: Callable[[Any], T]) -> list[T]:
        path = message_file(folder, scene, message)
        if not path.is_file():
            state[message] = "missing"
            return []
        try:
            rows = list(read_list(path, make))
        except SourceError:
            state[message] = "damaged"
            return []
        state[message] = "read" if rows else "empty"
        return rows

    pose = _in_time(read("pose", _pose))
    angles = _in_time(read("steeranglefeedback", lambda row: (whole(row, "utime"), float(numbers(row, "value")))))
    monitor = _in_time(read("vehicle_monitor", _monitor))
    speeds, steering = {}, {}
    track = None
    if pose:
        micros = np.array([row.micros for row in pose])
        track = Track(micros, np.stack([row.position for row in pose]), np.stack([row.orientation for row in pose]))
        speeds["pose"] = Signal(micros, np.array([row.speed for row in pose]), REACH["pose"])
    if angles:
        times, values = (np.array(column) for column in zip(*angles, strict=True))
        steering["steeranglefeedback"] = Signal(times, values, REACH["steeranglefeedback"])
    if monitor:
        micros = np.array([row.micros for row in monitor])
        reach = REACH["vehicle_monitor"]
        speeds["vehicle_monitor"] = Signal(micros, np.array([row.speed for row in monitor]), reach)
        steering["vehicle_monitor"] = Signal(micros, np.array([row.steering for row in monitor]), reach)
    return CanBus(state, track, speeds, steering)


def _pose(row: Any) -> _Pose:
    return _Pose(
        whole(row, "utime"), numbers(row, "pos", 3), rotation(row, "orientation"), float(numbers(row, "vel", 3)[0])
    )


def _monitor(row: Any) -> _Monitor:
    """Not stated in the format's description: that `steering` is left positive as steeranglefeedback is."""
    speed, angle = float(numbers(row, "vehicle_speed")), float(numbers(row, "steering"))
    return _Monitor(whole(row, "utime"), speed * KMH, float(np.deg2rad(angle)))


Timed = TypeVar("Timed", bound=tuple[Any, ...])


def _in_time(rows: list[Timed]) -> list[Timed]:
    """Sorted by time; of several at the same moment the last."""
    return list({row[0]: row for row in sorted(rows, key=lambda row: row[0])}.values())
