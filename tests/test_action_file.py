"""Files of driver commands: three kinds, each interpolated to frames, and what is refused."""

import json

import numpy as np
import pytest

from gwm.core import ConfigError
from gwm.pipelines.action_file import read_actions
from gwm.pipelines.control import held, make_motion, manoeuvre
from gwm.shards.motion import integrate
from gwm.shards.schema import Motion


@pytest.mark.parametrize("kind", ["csv", "columns", "rows"])
def test_values_of_every_frame(tmp_path, kind):
    path = tmp_path / ("actions.csv" if kind == "csv" else "actions.json")
    columns = {"speed": [5.0, 6.0], "steering": [0.1, 0.2], "note": ["a", "b"]}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text(
        "speed,steering,note\n5.0,0.1,a\n6.0,0.2,b\n"
        if kind == "csv"
        else json.dumps({"columns": columns, "rows": rows}[kind])
    )
    motion = make_motion(str(path), 100, Motion())
    assert motion.speed.tolist() == [5, 6]
    assert motion.steering.tolist() == [0.1, 0.2]
    longer = held(motion, 10)
    assert longer.speed.tolist() == [5] + [6] * 9
    assert np.allclose(longer.pose, integrate(longer.speed, longer.steering))
    assert held(longer, 10) is longer


def test_speed_and_steering_at_times_are_linear_between_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time,speed,steering\n0.5,4,0\n1.5,6,1\n")
    motion = read_actions(path)
    assert motion.speed == pytest.approx([4] * 6 + [4 + 0.2 * i for i in range(1, 11)])
    assert motion.steering == pytest.approx([0] * 6 + [0.1 * i for i in range(1, 11)])


@pytest.mark.parametrize("name", ["keep", "lane-left", "turn-right", "accelerate", "stop"])
def test_positions_lead_back_to_the_drive_they_were_taken_from(tmp_path, name):
    """Waypoints 0.5 s apart, as Vista has them, of a drive that is known."""
    drive = manoeuvre(name, 60, 8.0)
    at = range(5, 60, 5)
    path = tmp_path / "a.csv"
    rows = [f"{i / 10},{drive.pose[i, 0, 3]:.3f},{drive.pose[i, 1, 3]:.3f}" for i in at]
    path.write_text("\n".join(["time,x,y", *rows]))
    motion = read_actions(path)
    assert len(motion.speed) == 56
    gap = np.abs(motion.pose[:, :2, 3] - drive.pose[:56, :2, 3]).max()
    assert gap < 0.1  # m
    assert np.abs(motion.speed - drive.speed[:56]).max() < 0.5
    assert np.abs(motion.steering - drive.steering[:56]).max() < 0.3  # rad at the wheel
    assert np.abs(motion.steering - drive.steering[:56]).mean() < 0.06


def test_a_position_at_time_0_is_the_origin_or_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time,x,y\n0,0,0\n1,5,0\n2,10,0\n")
    motion = read_actions(path)
    assert motion.speed == pytest.approx(np.full(21, 5.0))
    assert motion.steering == pytest.approx(np.zeros(21))
    path.write_text("time,x,y\n0,3,0\n1,5,0\n")
    with pytest.raises(ConfigError, match="at time 0 the car is at x = 0, y = 0, not at 3, 0"):
        read_actions(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("speed\n1\n", "its columns are speed; wanted are the columns speed"),
        ("x,y\n1,2\n", "its columns are x, y; wanted"),
        ("time,x,y,speed,steering\n1,2,3,4,5\n", "its columns are time, x, y, speed, steering; wanted"),
        ("a,b\n1,2\n", "its columns are a, b; wanted"),
        ("speed,steering\n1,nan\n", "finite"),
        ("time,x,y\n1,inf,0\n", "finite"),
        ("speed,steering\n", "holds no actions"),
        ("speed,steering\n1,fast\n", "fast"),
        ("speed,steering\n1\n", "holds no actions"),
        ("time,speed,steering\n0,1,0\n0,2,0\n", "times must grow from 0 s on; 0 s follows 0 s"),
        ("time,speed,steering\n-1,1,0\n0,2,0\n", "times must grow from 0 s on; -1 s"),
        ("time,x,y\n0,0,0\n", "one position after time 0"),
        ("time,x,y\n1,5,0\n2,5,5\n2.2,0,5\n", "no car turns as tightly"),
        ("time,x,y\n1,500,0\n", "a speed of 500 m/s is beyond 100; is the unit m/s"),
        ("speed,steering\n5,45\n", "a steering of 45 rad is beyond 13.6; is the unit rad"),
    ],
)
def test_bad_files_are_refused_with_the_cause(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as refusal:
        make_motion(str(path), 10, Motion())
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("content", ["[]", "3", "{", '{"speed": [1], "steering": [1, 2]}', '[{"speed": 1}, 2]'])
def test_bad_json_is_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"a\.json"):
        make_motion(str(path), 10, Motion())
