"""What the driver does during a rollout: a file, a named manoeuvre, or a script of several.

Time 0 is the first frame of the start. A left turn is positive; steering is the angle of the steering wheel.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gwm.core import ConfigError
from gwm.pipelines.action_file import read_actions
from gwm.shards.motion import STEERING_RATIO, WHEELBASE, integrate
from gwm.shards.schema import FRAME_RATE, Floats, Motion

DEFAULT_SPEED = 8.0  # m/s, where the start does not tell one
TURN_RATE = 0.2  # rad/s of a turn: 90 degrees in about 8 s
RAMP = 1.0  # s in which the steering goes over from one manoeuvre to the next
SLOW = 2.0  # m/s: a slower car steers as it would at this speed, and so turns less
LANE_WIDTH, LANE_TIME = 3.5, 4.0  # m, s
LANE_HEADING = 0.35  # rad, the most that a lane change turns away from the lane: a slow car takes longer
ACCELERATION, BRAKING, STOPPING = 1.5, 2.0, 3.0  # m/s²; 3 is a firm, safe stop
TOP_SPEED = 30.0  # m/s, to which `accelerate` goes
MANOEUVRES = ("keep", "turn-left", "turn-right", "lane-left", "lane-right", "accelerate", "brake", "stop")
SHORT = {"left": "turn-left", "right": "turn-right", "straight": "keep"}


@dataclass(frozen=True)
class Part:
    """One manoeuvre of a script."""

    name: str  # of MANOEUVRES
    seconds: float  # inf: to the end


def manoeuvre(name: str, frames: int, speed: float) -> Motion:
    """Speed and steering of a named manoeuvre that starts at `speed` m/s, for `frames` frames."""
    return _drive([Part(name, math.inf)], frames, speed)


def read_script(text: str) -> list[Part]:
    """`left:2s,straight:3s,stop`: manoeuvres and how long each lasts; the last may go without and lasts to the end."""
    parts = []
    entries = [entry.strip() for entry in text.split(",")]
    for place, entry in enumerate(entries):
        name, _, lasts = entry.partition(":")
        if SHORT.get(name, name) not in MANOEUVRES:
            raise ConfigError(f"--actions {text}: no manoeuvre is called {name!r}; {_choice()}")
        if not lasts and place == len(entries) - 1:
            parts.append(Part(SHORT.get(name, name), math.inf))
        elif not re.fullmatch(r"\d+(\.\d+)?s", lasts) or round(float(lasts[:-1]) * FRAME_RATE) == 0:
            raise ConfigError(f"--actions {text}: write how long {name} lasts, such as {name}:2s (at least 0.1s)")
        else:
            parts.append(Part(SHORT.get(name, name), float(lasts[:-1])))
    return parts


def make_motion(actions: str, frames: int, start: Motion) -> Motion:
    """The motion that `--actions` names: a manoeuvre or a script from the start's speed on, or a file.

    Of up to `frames` frames: fewer where a file or a script ends sooner.
    """
    known = start.speed is not None and len(start.speed) > 0
    speed = float(start.speed[0]) if known and start.speed is not None else DEFAULT_SPEED
    if actions in MANOEUVRES:
        return manoeuvre(actions, frames, speed)
    if Path(actions).is_file():
        return read_actions(Path(actions))
    if actions in SHORT or re.search("[,:]", actions):
        return _drive(read_script(actions), frames, speed)
    raise ConfigError(f"--actions {actions}: neither a file nor one of {', '.join(MANOEUVRES)}; {_choice()}")


def told_frames(motion: Motion) -> int:
    """Of how many frames speed and steering are known, what there is of them."""
    return min((len(values) for values in (motion.speed, motion.steering) if values is not None), default=0)


def held(motion: Motion, frames: int) -> Motion:
    """A motion of at least `frames` frames: where it ends sooner, speed and steering stay, what there is of them."""
    if not 0 < told_frames(motion) < frames:
        return motion
    speed, steering = _hold(motion.speed, frames), _hold(motion.steering, frames)
    pose = None if speed is None or steering is None else integrate(speed, steering)
    return Motion(pose, speed, steering)


def _hold(values: Floats | None, frames: int) -> Floats | None:
    """The last value repeated up to `frames`."""
    return None if values is None else values[np.minimum(np.arange(max(frames, len(values))), len(values) - 1)]


def _choice() -> str:
    return f"the manoeuvres are {', '.join((*MANOEUVRES, *SHORT))}; a script is like left:2s,straight:3s,stop"


def _drive(parts: list[Part], frames: int, speed: float) -> Motion:
    """One manoeuvre after the other; each takes over the speed and, within RAMP, the steering of the one before."""
    speeds, steerings = [np.full(1, speed)], [np.zeros(1)]
    end, done = 0.0, 0
    for part in parts:
        end += part.seconds
        n = (frames if math.isinf(end) else min(frames, round(end * FRAME_RATE))) - done  # frames of this part
        v, steering = _steps(part, n, float(speeds[-1][-1]), float(steerings[-1][-1]))
        speeds, steerings = [*speeds[:-1], speeds[-1][:-1], v], [*steerings[:-1], steerings[-1][:-1], steering]
        done += n
    all_speeds, all_steerings = np.concatenate(speeds)[:frames], np.concatenate(steerings)[:frames]
    return Motion(integrate(all_speeds, all_steerings), all_speeds, all_steerings)


def _steps(part: Part, frames: int, speed: float, steering: float) -> tuple[Floats, Floats]:
    """Speed and steering (frames + 1,) of a manoeuvre; the last is that of the frame after it."""
    t = np.arange(frames + 1) / FRAME_RATE
    ramp = np.minimum(t / RAMP, 1.0)
    speeds = np.full(frames + 1, speed)
    own = np.zeros(frames + 1)
    if part.name == "accelerate":
        speeds = np.minimum(speed + ACCELERATION * t, max(speed, TOP_SPEED))
    elif part.name in ("brake", "stop"):
        strength = STOPPING if part.name == "stop" else BRAKING
        speeds = np.sign(speed) * np.maximum(0.0, abs(speed) - strength * t)
    elif part.name in ("turn-left", "turn-right"):
        own = ramp * _wheel(TURN_RATE, speed)
    elif part.name in ("lane-left", "lane-right"):
        change = _lane_change(part, speed)
        own[: len(change)] = change[: frames + 1]
    side = -1.0 if part.name.endswith("right") else 1.0
    return speeds, side * own + (1 - ramp) * steering


def _wheel(rate: float | Floats, speed: float) -> Floats:
    """The steering-wheel angle for a yaw rate in rad/s."""
    angle: Floats = STEERING_RATIO * np.arctan(np.asarray(rate) * WHEELBASE / max(speed, SLOW))
    return angle


def _lane_change(part: Part, speed: float) -> Floats:
    """Steering of a change to the left: the heading goes out and back as sin², so that the car ends parallel."""
    v = max(speed, SLOW)
    frames = math.ceil(max(LANE_TIME, 2 * LANE_WIDTH / (v * LANE_HEADING)) * FRAME_RATE)
    seconds = frames / FRAME_RATE
    if part.seconds < seconds:
        raise ConfigError(
            f"--actions {part.name}:{part.seconds:g}s: at {speed:.1f} m/s a lane change takes {seconds:.1f} s; "
            f"write {part.name}:{seconds:.1f}s or more"
        )
    wave = np.sin(2 * math.pi * np.arange(frames + 1) / frames)
    heading = 2 * LANE_WIDTH / (v * seconds)  # rad, where sin of the heading is the heading
    for _ in range(3):
        steering = _wheel(heading * math.pi / seconds * wave, speed)
        heading *= LANE_WIDTH / float(integrate(np.full(frames + 1, v), steering)[-1, 1, 3])
    return _wheel(heading * math.pi / seconds * wave, speed)
