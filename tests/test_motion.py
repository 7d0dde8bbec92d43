"""Ego motion: the bicycle against closed forms, and Vista's actions on motions whose answer is known."""

import numpy as np
import pytest

from gwm.shards.motion import (
    STEERING_RATIO,
    STOP,
    STRAIGHT,
    TURN_LEFT,
    TURN_RIGHT,
    WHEELBASE,
    command_of,
    integrate,
    planar_pose,
    project_goal,
    waypoint_frames,
    window_actions,
    yaw_rate,
)
from gwm.shards.schema import Camera, Motion


def forward_camera() -> Camera:
    """A camera at the origin, 1 m high, looking along x."""
    extrinsics = np.eye(4)
    extrinsics[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    extrinsics[2, 3] = 1.0
    return Camera("front", 200, 100, np.array([[100.0, 0, 100], [0, 100.0, 50], [0, 0, 1]]), extrinsics)


def test_straight_line_is_exact() -> None:
    pose = integrate(np.full(11, 7.0), np.zeros(11))
    assert np.allclose(pose[:, 0, 3], 0.7 * np.arange(11))
    assert np.allclose(pose[:, 1, 3], 0)
    assert np.allclose(pose[:, :3, :3], np.eye(3))


@pytest.mark.parametrize("radius", [-40.0, 12.0, 200.0])
def test_constant_steering_is_a_circle_left_positive(radius: float) -> None:
    steering = np.full(60, np.arctan(WHEELBASE / radius) * STEERING_RATIO)
    speed = np.full(60, 5.0)
    assert np.allclose(yaw_rate(speed, steering), 5.0 / radius)
    pose = integrate(speed, steering)
    # The midpoint rule lands on a circle: its chords are a little too long, by (dt * rate)^2 / 24.
    centre = np.array([0.0, radius])
    distance = np.hypot(*(pose[:, :2, 3] - centre).T)
    assert np.allclose(distance, abs(radius), rtol=1e-3)
    yaw = np.unwrap(np.arctan2(pose[:, 1, 0], pose[:, 0, 0]))
    assert np.allclose(yaw, 5.0 / radius * 0.1 * np.arange(60))
    assert np.sign(pose[5, 1, 3]) == np.sign(radius)


def test_poses_are_rigid_and_the_path_starts_along_its_heading() -> None:
    rng = np.random.default_rng(0)
    pose = integrate(rng.uniform(0, 20, 50), rng.uniform(-3, 3, 50))
    turn = pose[:, :3, :3]
    assert np.allclose(turn @ turn.transpose(0, 2, 1), np.eye(3))
    assert np.allclose(pose[0], np.eye(4))
    assert np.allclose(pose[:, 2, 3], 0)


def test_standing_still_does_not_turn() -> None:
    assert np.allclose(integrate(np.zeros(5), np.full(5, 4.0)), np.eye(4))


def test_one_step_at_a_time_equals_all_at_once() -> None:
    rng = np.random.default_rng(1)
    speed, steering = rng.uniform(0, 15, 30), rng.uniform(-4, 4, 30)
    pose = [np.eye(4)]
    for i in range(29):
        pose.append(pose[-1] @ integrate(speed[i : i + 2], steering[i : i + 2])[1])
    assert np.allclose(np.stack(pose), integrate(speed, steering), atol=1e-12)


def test_waypoints_lie_half_a_second_apart() -> None:
    assert waypoint_frames(25).tolist() == [5, 10, 15, 20]
    assert waypoint_frames(20).tolist() == [5, 10, 15]
    assert waypoint_frames(5).tolist() == []


@pytest.mark.parametrize(
    ("point", "command"),
    [((10, 2), TURN_LEFT), ((10, -2), TURN_RIGHT), ((10, 1.9), STRAIGHT), ((2, 0), STOP), ((1, 5), TURN_LEFT)],
)
def test_commands(point: tuple[float, float], command: int) -> None:
    assert command_of(np.array(point, float)) == command


def test_actions_do_not_depend_on_where_the_car_is() -> None:
    speed, steering = np.linspace(3, 8, 25), np.full(25, 3.0)
    pose = integrate(speed, steering)
    elsewhere = planar_pose(np.array([50.0]), np.array([-20.0]), np.array([2.1]))[0] @ pose
    here, there = (window_actions(Motion(p, speed, steering), forward_camera()) for p in (pose, elsewhere))
    assert here.trajectory is not None
    assert there.trajectory is not None
    assert np.allclose(here.trajectory, there.trajectory)
    assert np.allclose(here.trajectory, pose[[5, 10, 15, 20], :2, 3])
    assert here.speed is not None
    assert np.allclose(here.speed, speed[[5, 10, 15, 20]])
    assert here.command == there.command == TURN_LEFT


def test_a_short_motion_gives_the_waypoints_it_reaches() -> None:
    speed = np.full(12, 4.0)
    actions = window_actions(Motion(integrate(speed, np.zeros(12)), speed, None))
    assert actions.speed is not None
    assert np.isnan(actions.speed).tolist() == [False, False, True, True]
    assert actions.trajectory is not None
    assert np.isnan(actions.trajectory[2:]).all()
    assert actions.command is None
    assert actions.angle is None


def test_motions_too_short_or_empty_give_no_actions() -> None:
    for motion in (Motion(), Motion(speed=np.zeros(3))):
        actions = window_actions(motion)
        assert actions.speed is None
        assert actions.command is None


def test_goal_is_where_the_point_is_seen() -> None:
    goal = project_goal(np.array([10.0, 2.0]), forward_camera())
    assert goal is not None
    assert np.allclose(goal, [0.4, 0.6])  # left of the middle, below the horizon
    assert project_goal(np.array([-1.0, 0.0]), forward_camera()) is None
    assert project_goal(np.array([10.0, 30.0]), forward_camera()) is None
