"""The ego motion of a scene at given moments, each quantity from the best that there is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gwm.shards.motion import forward_speed
from gwm.shards.nuscenes.can_bus import CanBus, Signal
from gwm.shards.nuscenes.scene import Micros, Scene
from gwm.shards.nuscenes.track import Track, merge
from gwm.shards.schema import Floats, Motion

POSE_REACH = 100_000  # µs


def ego_track(scene: Scene) -> Track:
    """The ego poses of all its images, about 70 a second."""
    return merge([camera.shots.ego for camera in scene.cameras.values()])


def motion_at(track: Track, can_bus: CanBus, micros: Micros) -> tuple[Motion, dict[str, str | None]]:
    """Pose, speed and steering at T moments, and which message each is from (None for a quantity that is unknown).

    Poses are those of the CAN bus (50 Hz) where it covers a moment, else those of `track`; nothing beyond 0.1 s from
    one. Speeds are measured, or follow from the poses.
    """
    pose, pose_from = _pose(track, can_bus.pose, micros)
    speed, speed_from = _first(can_bus.speeds, micros)
    if speed is None and pose is not None:
        speed = forward_speed(pose, (micros - micros[0]) / 1e6)
        speed_from = None if speed is None else "poses"
    steering, steering_from = _first(can_bus.steering, micros)
    return Motion(pose, speed, steering), {"pose": pose_from, "speed": speed_from, "steering": steering_from}


def _pose(track: Track, better: Track | None, micros: Micros) -> tuple[Floats | None, str | None]:
    near = np.abs(micros - np.clip(micros, track.micros[0], track.micros[-1])) <= POSE_REACH
    pose = track.at(micros)
    use = np.zeros(len(micros), np.bool_) if better is None else better.covers(micros, POSE_REACH)
    if not (near | use).all():
        return None, None
    if better is not None and use.any():
        pose[use] = better.at(micros[use])
    return pose, "can_bus" if use.all() else "can_bus and ego_pose" if use.any() else "ego_pose"


def _first(signals: Mapping[str, Signal], micros: Micros) -> tuple[Floats | None, str | None]:
    for message, signal in signals.items():
        values = signal.at(micros)
        if values is not None:
            return values, message
    return None, None
