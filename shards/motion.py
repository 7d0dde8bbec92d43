"""Ego motion: the kinematic bicycle, and the actions of a window."""

from __future__ import annotations

import numpy as np

from gwm.shards.schema import FRAME_RATE, Actions, Camera, Floats, Motion

WHEELBASE = 2.8  # m, of a mid-size car
STEERING_RATIO = 16.0  # steering-wheel angle over road-wheel angle
WAYPOINTS = 4  # Vista: 4 waypoints
WAYPOINT_SPACING = 0.5  # s, Vista
TURN_RIGHT, TURN_LEFT, STOP, STRAIGHT = 0, 1, 2, 3  # Vista's numbering of commands


def yaw_rate(speed: Floats, steering: Floats) -> Floats:
    """Kinematic bicycle: yaw rate in rad/s from speed (m/s) and steering-wheel angle (rad). Any shape."""
    return speed * np.tan(steering / STEERING_RATIO) / WHEELBASE


def integrate(speed: Floats, steering: Floats, dt: float = 1 / FRAME_RATE) -> Floats:
    """Poses (T, 4, 4) of a bicycle that starts at the origin along x, from speed and steering (T,).

    Midpoint rule: between frames i and i+1 both inputs are the mean of their values at i and i+1.
    """
    v = (speed[:-1] + speed[1:]) / 2
    w = yaw_rate(v, (steering[:-1] + steering[1:]) / 2)
    yaw = np.concatenate([[0.0], np.cumsum(w) * dt])
    heading = (yaw[:-1] + yaw[1:]) / 2
    x = np.concatenate([[0.0], np.cumsum(v * np.cos(heading)) * dt])
    y = np.concatenate([[0.0], np.cumsum(v * np.sin(heading)) * dt])
    return planar_pose(x, y, yaw)


def planar_pose(x: Floats, y: Floats, yaw: Floats) -> Floats:
    """(T, 4, 4) ego -> world on the ground plane."""
    pose = np.zeros((len(x), 4, 4))
    pose[:, 0, 0] = pose[:, 1, 1] = np.cos(yaw)
    pose[:, 1, 0] = np.sin(yaw)
    pose[:, 0, 1] = -np.sin(yaw)
    pose[:, 2, 2] = pose[:, 3, 3] = 1.0
    pose[:, 0, 3], pose[:, 1, 3] = x, y
    return pose


def waypoint_frames(length: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Frame indices of the waypoints in a motion of `length` frames; those past its end are left out."""
    frames = np.round(np.arange(1, WAYPOINTS + 1) * WAYPOINT_SPACING * FRAME_RATE).astype(np.int64)
    return frames[frames < length]


def command_of(point: Floats) -> int:
    """Vista's rule on the last waypoint (x forward, y left, m): 2 m sideways is a turn, over 2 m ahead is no stop."""
    x, y = float(point[0]), float(point[1])
    if y >= 2.0:
        return TURN_LEFT
    if y <= -2.0:
        return TURN_RIGHT
    return STOP if x <= 2.0 else STRAIGHT


def project_goal(point: Floats, camera: Camera) -> Floats | None:
    """Ground point (x, y) of the ego frame in the camera's image, / (width, height); None if behind or outside."""
    p = np.linalg.inv(camera.extrinsics) @ np.array([point[0], point[1], 0.0, 1.0])
    if p[2] <= 0:
        return None
    uv = (camera.intrinsics @ p[:3])[:2] / p[2]
    goal: Floats = uv / np.array([camera.width, camera.height])
    return goal if bool(((goal > 0) & (goal < 1)).all()) else None


def window_actions(motion: Motion, camera: Camera | None = None) -> Actions:
    """Vista's actions of a window that begins at frame 0 of `motion`.

    `motion` may be longer than the window: waypoints are read as far as it reaches (up to 2 s), the others are NaN;
    command and goal need the last one.
    """
    lengths = [len(a) for a in (motion.pose, motion.speed, motion.steering) if a is not None]
    at = waypoint_frames(min(lengths)) if lengths else np.zeros(0, np.int64)
    if len(at) == 0:
        return Actions()

    def sample(values: Floats | None) -> Floats | None:
        if values is None:
            return None
        out = np.full((WAYPOINTS, *values.shape[1:]), np.nan)
        out[: len(at)] = values[at]
        return out

    trajectory, goal, command = None, None, None
    if motion.pose is not None:
        relative = np.linalg.inv(motion.pose[0]) @ motion.pose
        trajectory = sample(relative[:, :2, 3])
        if len(at) == WAYPOINTS and trajectory is not None:
            command = command_of(trajectory[-1])
            goal = None if camera is None else project_goal(trajectory[-1], camera)
    return Actions(sample(motion.steering), sample(motion.speed), trajectory, goal, command)


def forward_speed(pose: Floats, times: Floats) -> Floats | None:
    """(T,) m/s along the vehicle's own x from poses (T, 4, 4) at `times` (T,) s; None for fewer than two.

    Central differences; a reversing vehicle has a negative speed.
    """
    if len(times) < 2:
        return None
    velocity = np.gradient(pose[:, :3, 3], times, axis=0)
    forward: Floats = np.einsum("td,td->t", velocity, pose[:, :3, 0])
    return forward
