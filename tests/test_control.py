"""Driver commands for rollouts."""

import json

import numpy as np
import pytest

from gwm.core import ConfigError
from gwm.pipelines.control import MANOEUVRES, held, make_motion, manoeuvre
from gwm.shards.motion import integrate, yaw_rate
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


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_actions_are_read_from_a_file(tmp_path, suffix):
    path = tmp_path / f"actions.{suffix}"
    if suffix == "csv":
        path.write_text("speed,steering\n5.0,0.1\n6.0,0.2\n")
    else:
        path.write_text(json.dumps({"speed": [5.0, 6.0], "steering": [0.1, 0.2]}))
    motion = make_motion(str(path), 100, Motion())
    assert motion.speed.tolist() == [5, 6]
    assert motion.steering.tolist() == [0.1, 0.2]
    longer = held(motion, 10)
    assert longer.speed.tolist() == [5] + [6] * 9
    assert np.allclose(longer.pose, integrate(longer.speed, longer.steering))
    assert held(longer, 10) is longer


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("speed\n1\n", "steering"),
        ("speed,steering\n1,nan\n", "finite"),
        ("speed,steering\n", "holds no actions"),
        ("speed,steering\n1,fast\n", "fast"),
    ],
)
def test_bad_action_files_are_refused_with_the_cause(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        make_motion(str(path), 10, Motion())


def test_an_unknown_manoeuvre_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match="fly: neither a file nor one of keep, turn-left"):
        make_motion("fly", 10, Motion())
    assert set(MANOEUVRES) >= {"keep", "stop"}
