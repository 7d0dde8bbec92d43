"""Driver commands for rollouts."""

import numpy as np
import pytest

from gwm.core import ConfigError
from gwm.pipelines.control import held, make_motion, manoeuvre
from gwm.shards.motion import yaw_rate
from gwm.shards.schema import Motion


def test_turns_have_the_right_sign_and_rate():
    left, right = (manoeuvre(name, 60, 8.0) for name in ("turn-left", "turn-right"))
    assert (left.steering[1:] > 0).all()
    assert np.array_equal(left.steering, -right.steering)
    assert left.pose[-1, 1, 3] > 5  # y is left
    assert yaw_rate(left.speed, left.steering)[-1] == pytest.approx(0.2)


def test_stop_stops_and_keep_keeps():
    stop = manoeuvre("stop", 60, 8.0)
    assert stop.speed[0] == 8
    assert (stop.speed[30:] == 0).all()
    keep = manoeuvre("keep", 60, 8.0)
    assert keep.pose[-1, 0, 3] == pytest.approx(8.0 * 5.9)
    assert np.allclose(keep.pose[:, 1, 3], 0)


def heading(motion):
    return np.unwrap(np.arctan2(motion.pose[:, 1, 0], motion.pose[:, 0, 0]))


@pytest.mark.parametrize("speed", [3.0, 8.0, 15.0, 30.0])
@pytest.mark.parametrize(("name", "side"), [("lane-left", 1), ("lane-right", -1)])
def test_a_lane_change_ends_one_lane_further_and_parallel(name, side, speed):
    motion = manoeuvre(name, 100, speed)
    y = side * motion.pose[:, 1, 3]
    assert y[-1] == pytest.approx(3.5, abs=0.01)
    assert heading(motion)[-1] == pytest.approx(0, abs=1e-9)
    assert (np.diff(y) > -1e-9).all()  # an s, without a swing to the other side
    if speed >= 5:
        assert y[40] == pytest.approx(3.5, abs=0.01)  # after 4 s
        assert y[20] == pytest.approx(1.75, abs=0.05)
    assert np.abs(np.diff(motion.steering)).max() < 0.5  # rad within 0.1 s at the wheel: by hand
    assert (motion.speed == speed).all()


@pytest.mark.parametrize(
    ("name", "speed", "change", "last"),
    [
        ("accelerate", 8.0, 1.5, 30.0),
        ("accelerate", 33.0, 0, 33.0),
        ("brake", 8.0, -2.0, 0.0),
        ("stop", 8.0, -3.0, 0.0),
    ],
)
def test_speeds_change_at_their_rate_up_to_their_limit(name, speed, change, last):
    motion = manoeuvre(name, 200, speed)
    assert motion.speed[:11] == pytest.approx(speed + change * np.arange(11) / 10)
    assert motion.speed[-1] == last
    assert motion.speed.min() >= 0
    assert (motion.steering == 0).all()


def test_a_script_is_its_parts_one_after_the_other():
    motion = make_motion("left:2s,straight:3s,stop", 100, Motion(speed=np.full(5, 6.0)))
    assert len(motion.speed) == 100
    assert np.array_equal(motion.steering[:21], manoeuvre("turn-left", 21, 6.0).steering)
    assert (np.diff(motion.steering[20:31]) < 0).all()  # the wheel goes back within a second
    assert np.allclose(motion.steering[30:], 0)
    assert (motion.speed[:51] == 6).all()
    assert np.allclose(motion.speed[50:], manoeuvre("stop", 50, 6.0).speed)
    alone = make_motion("right", 30, Motion())
    assert np.array_equal(alone.steering, manoeuvre("turn-right", 30, 8.0).steering)


def test_what_there_is_of_speed_and_steering_is_held():
    """Waymo tells no steering: the model once went on without any action where the source ended."""
    motion = held(Motion(np.zeros((5, 4, 4)), np.arange(5.0)), 30)
    assert motion.speed.tolist() == [0, 1, 2, 3] + [4] * 26
    assert (motion.pose, motion.steering) == (None, None)


def test_a_script_that_ends_is_held():
    motion = make_motion("accelerate:1s", 100, Motion(speed=np.full(5, 6.0)))
    assert motion.speed[-1] == pytest.approx(7.5)
    assert len(motion.speed) == 11
    assert held(motion, 40).speed[-1] == pytest.approx(7.5)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("left:2s,jump", "no manoeuvre is called 'jump'; the manoeuvres are keep, turn-left"),
        ("left,stop", "write how long left lasts, such as left:2s"),
        ("left:2,stop", "write how long left lasts"),
        ("left:nans,stop", "write how long left lasts"),
        ("left:0.01s,stop", "write how long left lasts"),
        ("left:-2s,stop", "write how long left lasts"),
        ("left:2s,", "no manoeuvre is called ''"),
        ("lane-left:2s,stop", "at 8.0 m/s a lane change takes 4.0 s; write lane-left:4.0s or more"),
    ],
)
def test_bad_scripts_are_refused(script, message):
    with pytest.raises(ConfigError, match=message):
        make_motion(script, 100, Motion())


def test_an_unknown_manoeuvre_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match="fly: neither a file nor one of keep, turn-left"):
        make_motion("fly", 10, Motion())
    with pytest.raises(ConfigError, match="lane-right, accelerate, brake, stop"):
        make_motion("", 10, Motion())
