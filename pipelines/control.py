"""What the driver does during a rollout: a file of speed and steering, or a named manoeuvre."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from gwm.core import ConfigError
from gwm.shards.motion import STEERING_RATIO, WHEELBASE, integrate
from gwm.shards.schema import FRAME_RATE, Floats, Motion

DEFAULT_SPEED = 8.0  # m/s, where the start does not tell one
TURN_RATE = 0.2  # rad/s of a turn: 90 degrees in about 8 s
RAMP = 1.0  # s until a manoeuvre is fully on
MANOEUVRES = ("keep", "turn-left", "turn-right", "stop")


def manoeuvre(name: str, frames: int, speed: float) -> Motion:
    """Speed and steering of a named manoeuvre that starts at `speed` m/s, for `frames` frames."""
    ramp = np.minimum(np.arange(frames) / FRAME_RATE / RAMP, 1.0)
    speeds = np.full(frames, speed)
    turn = {"turn-left": 1.0, "turn-right": -1.0}.get(name, 0.0)
    steering = turn * ramp * STEERING_RATIO * np.arctan(TURN_RATE * WHEELBASE / max(speed, 2.0))
    if name == "stop":
        speeds = np.maximum(0.0, speed - 3.0 * np.arange(frames) / FRAME_RATE)  # 3 m/s² is a firm, safe stop
    return Motion(integrate(speeds, steering), speeds, steering)


def _columns(path: Path) -> dict[str, list[float]]:
    try:
        text = path.read_text()
        if path.suffix == ".json":
            values = json.loads(text)
        else:
            rows = list(csv.DictReader(text.splitlines()))
            values = {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
        return {name: [float(v) for v in values[name]] for name in ("speed", "steering")}
    except OSError as error:
        raise ConfigError(f"cannot read actions from {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no actions ({type(error).__name__}: {error}); wanted are the columns speed (m/s) and "
            "steering (rad at the steering wheel, left positive), one row per frame of 0.1 s, as CSV or JSON"
        ) from error


def read_actions(path: Path) -> Motion:
    """Per-frame speed and steering from a CSV or JSON file, and the poses they lead through."""
    columns = {name: np.asarray(values) for name, values in _columns(path).items()}
    speed, steering = columns["speed"], columns["steering"]
    if len(speed) != len(steering) or len(speed) == 0:
        raise ConfigError(f"{path}: {len(speed)} values of speed and {len(steering)} of steering; give as many of each")
    if not (np.isfinite(speed).all() and np.isfinite(steering).all()):
        raise ConfigError(f"{path}: all values of speed and steering must be finite")
    return Motion(integrate(speed, steering), speed, steering)


def make_motion(actions: str, frames: int, start: Motion) -> Motion:
    """The motion that `--actions` names: a manoeuvre at the start's speed, or a file."""
    if actions in MANOEUVRES:
        speed = DEFAULT_SPEED if start.speed is None else float(start.speed[0])
        return manoeuvre(actions, frames, speed)
    if not Path(actions).is_file():
        raise ConfigError(f"--actions {actions}: neither a file nor one of {', '.join(MANOEUVRES)}")
    return read_actions(Path(actions))


def _hold(values: Floats | None, frames: int) -> Floats | None:
    """The last value repeated up to `frames`."""
    if values is None:
        return None
    return values[np.minimum(np.arange(max(frames, len(values))), len(values) - 1)]


def held(motion: Motion, frames: int) -> Motion:
    """A motion of at least `frames` frames: where it ends sooner, speed and steering stay."""
    if motion.speed is None or motion.steering is None or len(motion.speed) >= frames:
        return motion
    speed, steering = _hold(motion.speed, frames), _hold(motion.steering, frames)
    assert speed is not None
    assert steering is not None
    return Motion(integrate(speed, steering), speed, steering)
