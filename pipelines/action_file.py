"""Files of driver commands: speed and steering per frame, or waypoints at times of one's own, as CSV or JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gwm.core import ConfigError
from gwm.shards.motion import STEERING_RATIO, WHEELBASE, integrate
from gwm.shards.schema import FRAME_RATE, Floats, Motion

KNOWN = ("time", "x", "y", "speed", "steering")
KINDS = (("speed", "steering"), ("time", "x", "y"), ("time", "speed", "steering"))
WANTED = (
    "wanted are the columns speed (m/s) and steering (rad at the steering wheel, left positive), one row per frame of "
    "0.1 s; or time (s), speed and steering; or time (s), x and y (m forward and left of the start); as CSV, or as "
    "JSON: one list per column"
)
MAX_SPEED = 100.0  # m/s
MAX_STEERING = math.radians(780)  # at the steering wheel, which turns no further
MOVING = 0.5  # m/s: below it a path has no direction


def read_actions(path: Path) -> Motion:
    """Speed and steering of every frame from the file `path`, and the poses they lead through.

    Three kinds, told by the columns: `speed`, `steering` of every frame; the same two at `time`s, between which both
    are linear; or positions `x`, `y` at `time`s, through which a smooth path is laid that begins straight ahead at the
    origin. Time 0 is the first frame of the start. Other columns are not read. ConfigError for what is none of these,
    is not finite, or no car can do.
    """
    columns = _columns(path)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        counts = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise ConfigError(f"{path}: values: {counts}; give as many of each, and at least one")
    if not all(np.isfinite(values).all() for values in columns.values()):
        raise ConfigError(f"{path}: all values of {', '.join(columns)} must be finite")
    if "time" in columns:
        _check_times(path, columns["time"])
    if "x" in columns:
        speed, steering = _along(path, columns["time"], columns["x"], columns["y"])
    elif "time" in columns:
        at = _frames(columns["time"])
        speed, steering = (np.interp(at, columns["time"], columns[name]) for name in ("speed", "steering"))
    else:
        speed, steering = columns["speed"], columns["steering"]
    _check_limits(path, speed, steering)
    return Motion(integrate(speed, steering), speed, steering)


def _columns(path: Path) -> Mapping[str, Floats]:
    """The known columns of a file, which must be those of one kind."""
    try:
        table = _table(path)
        columns = {name: np.array([float(v) for v in table[name]]) for name in KNOWN if name in table}
    except OSError as error:
        raise ConfigError(f"cannot read actions from {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no actions ({type(error).__name__}: {error}); {WANTED}") from error
    if tuple(columns) not in KINDS:
        raise ConfigError(f"{path} holds no actions: its columns are {', '.join(map(str, table)) or 'none'}; {WANTED}")
    return columns


def _table(path: Path) -> Mapping[str, Any]:
    """Lists by column, of whatever a file holds."""
    text = path.read_text(encoding="utf-8-sig")
    rows = json.loads(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    if isinstance(rows, dict):
        return rows
    return {str(name).strip(): [row[name] for row in rows] for name in (rows[0] if rows else {})}


def _check_times(path: Path, times: Floats) -> None:
    for before, after in pairwise([-1.0, *times.tolist()]):
        if after <= max(before, -1e-9):
            raise ConfigError(f"{path}: times must grow from 0 s on; {after:g} s follows {max(before, 0.0):g} s")


def _check_limits(path: Path, speed: Floats, steering: Floats) -> None:
    for name, values, most, unit in (("speed", speed, MAX_SPEED, "m/s"), ("steering", steering, MAX_STEERING, "rad")):
        worst = float(values[np.abs(values).argmax()])
        if abs(worst) > most:
            raise ConfigError(f"{path}: a {name} of {worst:.4g} {unit} is beyond {most:.3g}; is the unit {unit}?")


def _frames(times: Floats) -> Floats:
    """The times of all frames up to the last of `times`, s."""
    frames: Floats = np.arange(math.floor(times[-1] * FRAME_RATE + 1e-6) + 1) / FRAME_RATE
    return frames


def _along(path: Path, times: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Speed and steering of a car that drives through the positions; straight ahead at first."""
    if times[0] == 0:
        if max(abs(x[0]), abs(y[0])) > 0.01:
            raise ConfigError(f"{path}: at time 0 the car is at x = 0, y = 0, not at {x[0]:g}, {y[0]:g}")
        times, x, y = times[1:], x[1:], y[1:]
    if len(times) == 0:
        raise ConfigError(f"{path}: one position after time 0 s at least is needed")
    mirrored = np.concatenate([-times[::-1], [0.0], times])  # odd in x, even in y: the path begins along x
    at = _frames(times)
    v_x = _slopes(mirrored, np.concatenate([-x[::-1], [0.0], x]), at)
    v_y = _slopes(mirrored, np.concatenate([y[::-1], [0.0], y]), at)
    speed = np.hypot(v_x, v_y)
    moving = speed > MOVING
    held = np.maximum.accumulate(np.where(moving, np.arange(len(at)), 0))  # the last frame with a direction
    yaw = np.unwrap(np.where(moving[held], np.arctan2(v_y, v_x)[held], 0.0))
    rate = np.gradient(yaw) * FRAME_RATE if len(yaw) > 1 else np.zeros(1)
    steering = STEERING_RATIO * np.arctan(WHEELBASE * rate / np.maximum(speed, MOVING))
    if (np.abs(steering) > MAX_STEERING).any():
        frame = int(np.abs(steering).argmax())
        raise ConfigError(f"{path}: no car turns as tightly as the path at {at[frame]:.1f} s; give smoother positions")
    return speed, steering


def _slopes(times: Floats, values: Floats, at: Floats) -> Floats:
    """Derivative at `at` of a cubic spline through the values, which bends on at its ends as beside them."""
    step, rise = np.diff(times), np.diff(values) / np.diff(times)
    n = len(times)
    tangent = np.concatenate([[2 * rise[0]], 3 * (rise[:-1] * step[1:] + rise[1:] * step[:-1]), [2 * rise[-1]]])
    left = np.concatenate([[0.0], step[1:], [1.0]])  # of the system of the slopes at `times`, with one unknown each:
    middle = np.concatenate([[1.0], 2 * (step[1:] + step[:-1]), [1.0]])  # the second derivative is continuous,
    right = np.concatenate([[1.0], step[:-1], [0.0]])  # and constant in the first and last piece
    for j in range(1, n):
        factor = left[j] / middle[j - 1]
        middle[j] -= factor * right[j - 1]
        tangent[j] -= factor * tangent[j - 1]
    tangent[-1] /= middle[-1]
    for j in range(n - 2, -1, -1):
        tangent[j] = (tangent[j] - right[j] * tangent[j + 1]) / middle[j]
    i = np.clip(np.searchsorted(times, at, side="right") - 1, 0, n - 2)
    s = (at - times[i]) / step[i]  # 0 to 1 within the piece: a cubic Hermite curve
    slopes: Floats = 6 * s * (1 - s) * rise[i] + (1 - 4 * s + 3 * s * s) * tangent[i] + s * (3 * s - 2) * tangent[i + 1]
    return slopes
