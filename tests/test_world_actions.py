"""The actions of windows, read back from the world in every format: they are those of the simulator's own poses.

The truth is taken from what the simulator recorded at its frames, with the few lines of numpy below; no code that
writes, reads or derives actions is used for it. The pictures are blank: what they show is tested elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import toy_opendv
from toy_nuscenes import read

from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.world import FORMATS, write_world
from gwm.shards.index import open_dataset
from gwm.shards.motion import window_actions
from gwm.shards.nuscenes.tables import read_scenes
from gwm.shards.nuscenes.vista import write_clips
from gwm.shards.opendv.annotations import COMMANDS
from gwm.shards.plan import Source
from gwm.shards.reader import read_window
from gwm.shards.schema import Actions, Chunk, Floats
from gwm.shards.sources.nuscenes import NuScenesSource
from gwm.shards.sources.waymo import WaymoSource
from gwm.shards.sources.world import WorldSource
from gwm.shards.world import Renderer, Scene, make_scene

FRAMES = 75
WINDOW = 25
# Seeds whose first two scenes turn left, turn right, stop and go straight, all around and as the front camera's world.
ALL_AROUND, FRONT = 3531, 697
SIZE = (64, 32)  # of the shards: the pictures of every format lose some of their height
RIGHT, LEFT, STOP, STRAIGHT = 0, 1, 2, 3
CLEAR = 0.02  # m: a waypoint as near to a command's limit may be on either side of it

# Of the front cameras, in their own pixels: width, height, focal length, centre; m ahead and left of the ego, and high.
NUSCENES = (1600, 900, 1266.0, (816.0, 491.5), (1.70, 0.02, 1.51))
WAYMO = (1920, 1280, 2055.0, (940.0, 641.0), (1.54, -0.02, 2.12))
LIDAR = 0.94  # m ahead of the ego, of nuScenes' lidar, whose way is the trajectory in Vista's file

TEN_HERTZ = np.arange(FRAMES) / 10
# Images of nuScenes' front camera, s: they come at about 12 Hz, and every sixth, each half second, is a key frame.
SHOTS = (np.arange(15)[:, None] / 2 + [0, 0.1, 0.15, 0.25, 0.35, 0.4]).ravel()
ALL_BEGUN = 5 * 8_333e-6  # s, when the last of nuScenes' cameras takes its first image, and 10 Hz begin


@dataclass(frozen=True)
class Way:
    """A way from the world to windows, and how well they should say what was driven."""

    source: Callable[[Path], Source]  # of the folder of the exports
    times: Floats  # s, of which the frames' poses and steering are
    near: float  # m, largest error of a waypoint
    goal: float  # largest error, as a share of the image's sides
    camera: tuple[int, int, float, tuple[float, float], tuple[float, float, float]] = NUSCENES
    later: float = 0.0  # s, how much later the speed is measured
    speed: float = 1e-9  # m/s, largest error
    angle: float | None = 1e-9  # rad, largest error; None: the format says nothing of the steering


def world(rig: str, size: tuple[int, int], seed: int = ALL_AROUND) -> WorldSource:
    """Every second scene is for validation, so that all formats hold the scenes 0 (train) and 1 (val)."""
    return WorldSource(2, seed, FRAMES, size, val_every=2, rig=rig)


def nuscenes(folder: str = "nuscenes", **settings: str) -> Callable[[Path], Source]:
    return lambda exports: NuScenesSource(exports / folder, size=SIZE, **settings)


# The truth is taken to be straight between the simulator's frames, which are 0.1 s apart, and the drive is not: at an
# acceleration of 3 m/s², a bend's or the brake's, it is 3 * 0.1² / 8 = 4 mm beside, at both ends of the way to a
# waypoint. nuScenes' CAN bus (poses 50 times a second, angles 100) is straight between its messages, too, so that it
# cuts off where the speed and the wheel begin to change. Waymo's velocity has the digits of a float32.
BETWEEN, GOAL = 0.01, 0.0005
WAYMO_WAY = Way(lambda e: WaymoSource(e / "waymo", SIZE), TEN_HERTZ + 0.05, BETWEEN, GOAL, WAYMO, 0.002, 1e-5, None)
WAYS = {
    "shards": Way(lambda _: world("nuscenes", SIZE), TEN_HERTZ, 1e-9, 1e-9),
    "nuscenes": Way(nuscenes(), TEN_HERTZ + ALL_BEGUN, BETWEEN, GOAL),
    "nuscenes, raw": Way(nuscenes(rate="raw"), SHOTS, BETWEEN, GOAL, speed=0.005, angle=0.005),
    "nuscenes, no bus": Way(nuscenes("without"), TEN_HERTZ + ALL_BEGUN, BETWEEN, GOAL, speed=0.02, angle=None),
    "waymo": WAYMO_WAY,
    "waymo-v2": replace(WAYMO_WAY, source=lambda e: WaymoSource(e / "waymo-v2", SIZE)),
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the world in every official format, and of nuScenes without its CAN bus."""
    folder = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Renderer, "at", lambda self, _: np.full((self.camera.height, self.camera.width, 3), 90, np.uint8))
        for kind, size in (("nuscenes", (96, 54)), ("waymo", (96, 64)), ("waymo-v2", (96, 64)), ("opendv", (64, 32))):
            write_world(kind, world(FORMATS[kind].rig, size, FRONT if kind == "opendv" else ALL_AROUND), folder / kind)
        shutil.copytree(folder / "nuscenes", folder / "without", ignore=lambda *_: ["can_bus"])
        yield folder


@pytest.fixture(scope="module")
def windows(
    exports: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[tuple[Scene, int, Actions]]]:
    """A function that gives the windows of a way: of which scene, at which frame, with which actions."""

    @cache
    def read_back(name: str) -> list[tuple[Scene, int, Actions]]:
        out = tmp_path_factory.mktemp("shards") / "out"
        assert preprocess(WAYS[name].source(exports), out).samples == 2
        dataset, found = open_dataset(out), []
        for row in range(len(dataset)):
            entry = dataset.row(row)
            for start in range(0, entry.frames - WINDOW + 1):
                window = read_window(dataset, row, start, WINDOW, ("front",))
                actions = window_actions(window.motion, window.cameras[0])
                found.append((scene(entry.split), start, actions))
        return found

    return read_back


@cache
def scene(split: str, rig: str = "nuscenes", seed: int = ALL_AROUND) -> Scene:
    """The first for training and the second for validation; the two rigs that look all around have the same drives."""
    return make_scene(seed, ("train", "val").index(split), FRAMES, world(rig, SIZE, seed).variant)


# The truth


def place_at(drive: Scene, times: Floats) -> tuple[Floats, Floats]:
    """(T, 2) m and (T,) rad in the world's axes, straight between the simulator's frames."""
    pose, frames = drive.ego.pose, np.arange(FRAMES) / 10
    yaw = np.unwrap(np.arctan2(pose[:, 1, 0], pose[:, 0, 0]))
    return np.stack([np.interp(times, frames, pose[:, k, 3]) for k in (0, 1)], axis=1), np.interp(times, frames, yaw)


def way_from(place: Floats, yaw: Floats, ahead: float = 0.0) -> Floats:
    """(T, 2) m ahead and to the left of where it all began: of a point `ahead` m before the ego's origin."""
    place = place + ahead * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    x, y = (place - place[0]).T
    c, s = np.cos(yaw[0]), np.sin(yaw[0])
    return np.stack([c * x + s * y, c * y - s * x], axis=1)


def command_of(point: Floats) -> int | None:
    """Vista's: by the place in two seconds. None near a limit."""
    ahead, left = point
    if min(abs(abs(left) - 2), abs(ahead - 2)) < CLEAR:
        return None
    if abs(left) > 2:
        return LEFT if left > 0 else RIGHT
    return STOP if ahead < 2 else STRAIGHT


def seen_at(point: Floats, camera: tuple, shape: float) -> Floats | None:
    """Where a place on the ground is seen by a level camera, as shares of its picture after cropping it to `shape`.

    The picture's middle is left: `shape` is its height over its width. None where it is not seen.
    """
    width, height, focal, centre, mount = camera
    depth = point[0] - mount[0]
    if depth <= 0:
        return None
    u = centre[0] - focal * (point[1] - mount[1]) / depth
    v = centre[1] + focal * mount[2] / depth - (height - shape * width) / 2
    goal = np.array([u / width, v / (shape * width)])
    return goal if ((goal > 0) & (goal < 1)).all() else None


def assert_goal(found: Floats | None, true: Floats | None, tolerance: float) -> bool:
    """Whether there is one; at the border of the picture there may be one or not."""
    if found is None or true is None:
        known = found if true is None else true
        assert known is None or np.minimum(known, 1 - known).min() < tolerance
        return False
    assert np.abs(found - true).max() < tolerance
    return True


def spoken_of(drive: Scene, first: int, last: int) -> str | None:
    """OpenDV's command: standing at the end, or else turning by over 4 degrees/s, or else beside by half a lane."""
    pose, road = drive.ego.pose, drive.road
    yaw = np.unwrap(np.arctan2(pose[first : last + 1, 1, 0], pose[first : last + 1, 0, 0]))
    turned = np.degrees(yaw[-1] - yaw[0]) / (last - first) * 10
    s = np.arange(0, road.length, 0.1)
    middle = road.point(s, 0.0)
    offsets = []
    for place in pose[[first, last], :2, 3]:
        nearest = np.hypot(*(middle - place).T).argmin()
        heading = road.heading(s[nearest])
        offsets.append((place - middle[nearest]) @ [-np.sin(heading), np.cos(heading)])
    beside = (offsets[1] - offsets[0]) / drive.layout.place.lane_width
    if abs(abs(turned) - 4) < 0.1 or abs(abs(beside) - 0.5) < 0.02:
        return None
    if drive.ego.speed[last] < 0.1:
        return "stop"
    if abs(turned) > 4:
        return "turn left" if turned > 0 else "turn right"
    if abs(beside) > 0.5:
        return "change to left lane" if beside > 0 else "change to right lane"
    return "go straight"


# Windows


@pytest.mark.parametrize("name", WAYS)
def test_the_actions_of_a_window_are_what_was_driven(windows, name):
    way, commands, goals = WAYS[name], [], 0
    for drive, start, actions in windows(name):
        times = way.times[start : start + 21 : 5]
        true = way_from(*place_at(drive, times))
        assert np.abs(actions.trajectory - true[1:]).max() < way.near
        assert np.abs(actions.speed - np.interp(times[1:] + way.later, TEN_HERTZ, drive.ego.speed)).max() < way.speed
        if way.angle is None:
            assert actions.angle is None
        else:
            assert np.abs(actions.angle - np.interp(times[1:], TEN_HERTZ, drive.ego.steering)).max() < way.angle
        goals += assert_goal(actions.goal, seen_at(true[-1], way.camera, SIZE[1] / SIZE[0]), way.goal)
        commands.append(command_of(true[-1]))
        assert commands[-1] in (actions.command, None)
    assert min(commands.count(one) for one in (RIGHT, LEFT, STOP, STRAIGHT)) >= 4
    assert goals > 40
    assert commands.count(None) < 5


@pytest.mark.parametrize("name", WAYS)
def test_a_left_turn_is_positive_in_every_format(windows, name):
    """A turn is where the simulator's poses turn by over two degrees in each half second; left is counterclockwise."""
    way, turns = WAYS[name], {-1: 0, 1: 0}
    for drive, start, actions in windows(name):
        turned = np.diff(place_at(drive, way.times[start : start + 21 : 5])[1])
        sign = int(np.sign(turned[0]))
        if (sign * turned < np.radians(2)).any():
            continue
        turns[sign] += 1
        assert (sign * actions.trajectory[:, 1] > 0).all()
        assert (np.diff(sign * actions.trajectory[:, 1]) > 0).all()
        assert actions.angle is None or (sign * actions.angle > 0).all()
        assert actions.goal is None or sign * actions.goal[0] < sign * way.camera[3][0] / way.camera[0]
        assert actions.command == {1: LEFT, -1: RIGHT}[sign] or abs(actions.trajectory[-1, 1]) < 2
    assert min(turns.values()) >= 3, turns


# nuScenes' clips, by Vista's annotation file


@pytest.fixture(scope="module")
def clips(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Scene, int, Chunk]]:
    """Of which scene, at which key frame it begins, and what comes back of it."""
    path, folder = tmp_path_factory.mktemp("clips") / "clips.json", exports / "nuscenes"
    exported = write_clips(path, folder, read_scenes(folder / "v1.0-mini"))
    chunks, skipped = read(NuScenesSource(folder, size=SIZE, annotations=path))
    assert (len(chunks), skipped, exported.without_lidar) == (exported.clips, [], 0)
    found = []
    for split in ("train", "val"):
        of_scene = [chunk for chunk in chunks if chunk.split == split]
        assert len(of_scene) > 8
        found += [(scene(split), key, chunk) for key, chunk in enumerate(of_scene)]
    return found


def test_the_actions_of_vistas_clips_are_what_was_driven(clips):
    """Key frames are frames of the simulator, so that places and goals have all their digits.

    Speed and angle have those of the CAN bus's monitor, and are of its moments: 0.18 s after each key frame.
    """
    commands, goals = [], 0
    for drive, key, chunk in clips:
        times, told = key / 2 + np.arange(5) / 2, chunk.extra["clip"]
        true = way_from(*place_at(drive, times), ahead=LIDAR)
        assert np.abs(told["trajectory"] - true[1:]).max() < 1e-9
        assert np.abs(told["speed"] - np.interp(times[1:] + 0.18, TEN_HERTZ, drive.ego.speed)).max() < 0.0051 / 3.6
        steering = np.interp(times[1:] + 0.18, TEN_HERTZ, drive.ego.steering)
        assert np.abs(told["angle"] - steering).max() < np.radians(0.051)
        goals += assert_goal(told["goal"], seen_at(true[-1] + [LIDAR, 0], NUSCENES, 900 / 1600), 1e-9)
        commands.append(command_of(true[-1]))
        assert commands[-1] in (told["command"], None)
        if told["command"] in (LEFT, RIGHT):
            sign = 1 if told["command"] == LEFT else -1
            assert sign * np.diff(place_at(drive, times[[0, -1]])[1])[0] > np.radians(5)
            assert sign * told["trajectory"][-1][1] > 0
            assert sign * np.mean(told["angle"]) > 0
    assert {RIGHT, LEFT, STOP, STRAIGHT} <= {*commands}
    assert goals > 10


def test_the_windows_of_vistas_clips_are_what_was_driven(clips):
    """Their frames are the images, their places those of the images' own times; speed and angle are the file's.

    Those are of 0.18 s after each key frame and straight between, so that they are the drive's from 0.32 s before an
    image to 0.68 s after it.
    """
    for drive, key, chunk in clips:
        times = SHOTS[6 * key : 6 * key + 21 : 5]
        true, actions = way_from(*place_at(drive, times)), window_actions(chunk.motion, chunk.cameras[0])
        assert np.abs(actions.trajectory - true[1:]).max() < BETWEEN
        assert_goal(actions.goal, seen_at(true[-1], NUSCENES, SIZE[1] / SIZE[0]), GOAL)
        assert command_of(true[-1]) in (actions.command, None)
        for values, truth in ((actions.speed, drive.ego.speed), (actions.angle, drive.ego.steering)):
            around = [np.interp(times[1:] + shift, TEN_HERTZ, truth) for shift in np.linspace(-0.32, 0.68, 21)]
            assert (values > np.min(around, axis=0) - 0.01).all()
            assert (values < np.max(around, axis=0) + 0.01).all()


# OpenDV


def test_opendvs_commands_are_what_was_driven(exports):
    """A command for each four seconds, read back with the video's frames."""
    chunks, skipped = toy_opendv.read(toy_opendv.source(exports / "opendv", size=SIZE))
    assert skipped == []
    said = []
    for chunk in chunks:
        drive = scene(chunk.split, "front", FRONT)
        assert chunk.length == FRAMES
        assert [(c.start, c.end) for c in chunk.captions] == [(i, i + 40) for i in range(FRAMES - 39)]
        for caption in chunk.captions:
            true = spoken_of(drive, caption.start, caption.end - 1)
            assert true in (COMMANDS[caption.command], None)
            said.append(true)
    assert said.count(None) < 8
    assert {*said} >= {"turn left", "turn right", "stop", "go straight", "change to left lane"}
