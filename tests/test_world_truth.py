"""The world in every official format, read back by our readers: what comes out is what the simulator did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import toy_opendv
from toy_nuscenes import read, recording, write
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.pipelines.progress import Ticker
from gwm.pipelines.world import FORMATS, write_world
from gwm.shards import ShardError, SourceError
from gwm.shards.exports import nuscenes, opendv
from gwm.shards.exports.commands import Driven, annotate
from gwm.shards.exports.takes import START, Take, cameras_of, scene_of, takes
from gwm.shards.images import decode_jpeg
from gwm.shards.nuscenes.can_bus import read_can_bus
from gwm.shards.nuscenes.splits import split_of
from gwm.shards.nuscenes.tables import read_scenes
from gwm.shards.opendv.annotations import COMMANDS
from gwm.shards.schema import Camera, Chunk, Floats, Images
from gwm.shards.sources.nuscenes import NuScenesSource
from gwm.shards.sources.waymo import WaymoSource
from gwm.shards.sources.world import WorldSource
from gwm.shards.video import probe
from gwm.shards.waymo import v1
from gwm.shards.world import Renderer, Scene, make_scene

FRAMES = 18
ALL_AROUND, FRONT = 383, 34  # seeds whose first scene is a left turn and whose second is a right one
SIZES = {"nuscenes": (96, 54), "waymo": (96, 64), "waymo-v2": (96, 64), "opendv": (96, 54)}
WAYMO_DELAYS = {"front": 0.052, "front_left": 0.042, "side_left": 0.032, "front_right": 0.062, "side_right": 0.072}


def world_of(kind: str, **settings: object) -> WorldSource:
    plain = {"scenes": 2, "seed": FRONT if kind == "opendv" else ALL_AROUND, "frames": FRAMES, "size": SIZES[kind]}
    return WorldSource(rig=FORMATS[kind].rig, **(plain | settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory):
    """A function that gives the folder of a format, made when it is first asked for."""

    @cache
    def make(kind: str) -> Path:
        out = tmp_path_factory.mktemp("world") / kind
        write_world(kind, world_of(kind), out)
        return out

    return make


@cache
def scenes(kind: str) -> tuple[Scene, Scene]:
    """A left turn and a right turn."""
    left, right = (scene_of(world_of(kind), take) for take in takes(world_of(kind)))
    assert turned(left.ego.pose) > np.radians(12)
    assert turned(right.ego.pose) < -np.radians(12)
    return left, right


def turned(pose: Floats | None) -> float:
    """rad, left positive."""
    assert pose is not None
    step = np.linalg.inv(pose[:-1]) @ pose[1:]
    return float(np.arctan2(step[:, 1, 0], step[:, 0, 0]).sum())


def poses(scene: Scene, times: Sequence[float] | Floats) -> Floats:
    return np.stack([scene.pose_at(float(time)) for time in times])


def psnr(a: Images, b: Images) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def assert_same_camera(read_: Camera, true: Camera) -> None:
    assert (read_.view, read_.width, read_.height) == (true.view, true.width, true.height)
    assert np.abs(read_.intrinsics - true.intrinsics).max() < 1e-9
    assert np.abs(read_.extrinsics - true.extrinsics).max() < 1e-12


def assert_pictures(chunk: Chunk, scene: Scene, cameras: Sequence[Camera], times: dict[str, Floats], good: float):
    """Every camera's pictures are those of its own times, not of the frames beside and not of other cameras."""
    at = (1, chunk.length // 2, chunk.length - 2)
    truth = {c.view: {i: Renderer(scene, c).at(float(times[c.view][i])) for i in at} for c in cameras}
    assert chunk.frames.keys() == truth.keys()
    for camera in cameras:
        shown = [decode_jpeg(jpeg) for jpeg in chunk.frames[camera.view]]
        for i in at:
            true = truth[camera.view][i]
            assert psnr(shown[i], true) > good
            assert max(psnr(shown[k], true) for k in range(chunk.length) if k != i) < good - 2, camera.view
            others = [o[i] for view, o in truth.items() if view != camera.view and o[i].shape == true.shape]
            assert all(psnr(shown[i], other) < good - 10 for other in others), camera.view


# nuScenes


def test_nuscenes_gives_the_world_back(exported):
    world = world_of("nuscenes")
    chunks, skipped = read(NuScenesSource(exported("nuscenes"), size=None))
    assert skipped == []
    assert [(c.scene, c.split) for c in chunks] == [("scene-0061", "train"), ("scene-0103", "val")]
    for chunk, scene, take in zip(chunks, scenes("nuscenes"), takes(world), strict=True):
        micros = np.array(chunk.extra["frame_micros"]) - take.start
        assert micros[0] == 5 * 8_333  # when the last camera begins
        assert (np.diff(micros) == 100_000).all()
        assert np.array_equal(chunk.timestamps, np.arange(16) / 10)
        assert chunk.extra["motion"] == {"pose": "can_bus", "speed": "pose", "steering": "steeranglefeedback"}
        true = poses(scene, micros / 1e6)
        assert np.abs(chunk.motion.pose - true).max() < 2e-3  # m: straight lines between messages 20 ms apart
        assert np.abs(chunk.motion.speed - scene.speed_at(micros / 1e6)).max() < 0.02
        assert np.abs(chunk.motion.steering - scene.steering_at(micros / 1e6)).max() < 0.02
        sign = 1 if take.number == 0 else -1
        assert sign * turned(chunk.motion.pose) > 0.15
        assert sign * chunk.motion.steering.mean() > 0.5
        cameras = cameras_of("nuscenes", world.size)
        for found, camera in zip(chunk.cameras, cameras, strict=True):
            assert_same_camera(found, camera)
        assert list(chunk.frames) == [camera.view for camera in cameras]
        assert chunk.text == scene.text
        taken = {view: np.array(own) - take.start for view, own in chunk.extra["image_micros"].items()}
        assert len({tuple(own) for own in taken.values()}) == 6
        assert all(np.abs(own - micros).max() <= 50_000 for own in taken.values())
        assert_pictures(chunk, scene, cameras, {view: own / 1e6 for view, own in taken.items()}, 38)


def test_nuscenes_tables_and_messages_are_true(exported):
    world = world_of("nuscenes")
    found = list(read_scenes(exported("nuscenes") / "v1.0-mini"))
    for row, scene, take in zip(found, scenes("nuscenes"), takes(world), strict=True):
        assert np.array_equal(np.diff(row.key_micros), [500_000] * 3)
        for camera in cameras_of("nuscenes", world.size):
            sensor = row.cameras[camera.view]
            assert_same_camera(sensor.camera(), camera)
            times = (sensor.shots.micros - take.start) / 1e6
            assert np.abs(sensor.shots.ego.poses - poses(scene, times)).max() < 1e-9
        bus = read_can_bus(exported("nuscenes"), row.name)
        assert set(bus.state.values()) == {"read"}
        for micros, period in ((bus.pose.micros, 20_000), (bus.steering["steeranglefeedback"].micros, 10_000)):
            assert set(np.diff(micros)) == {period}
            assert micros[0] - take.start < period
        assert np.abs(bus.pose.poses - poses(scene, (bus.pose.micros - take.start) / 1e6)).max() < 1e-9
        monitor, angle = bus.speeds["vehicle_monitor"], bus.steering["vehicle_monitor"]
        times = (monitor.micros - take.start) / 1e6
        assert len(times) == 4
        assert np.abs(monitor.values - scene.speed_at(times)).max() <= 0.0051 / 3.6
        assert np.abs(angle.values - scene.steering_at(times)).max() <= np.radians(0.051)
        rows = json.loads((exported("nuscenes") / "can_bus" / f"{row.name}_vehicle_monitor.json").read_text())
        said = np.radians([r["yaw_rate"] for r in rows])
        assert np.abs(said - scene.yaw_rate_at(times)).max() <= np.radians(0.0051)


# Waymo


def waymo_chunks(folder: Path) -> list[Chunk]:
    chunks, skipped = read(WaymoSource(folder, size=None))  # type: ignore[arg-type]
    assert skipped == []
    return sorted(chunks, key=lambda chunk: chunk.split)


def test_waymo_gives_the_world_back(exported):
    world = world_of("waymo")
    chunks = waymo_chunks(exported("waymo"))
    assert [c.split for c in chunks] == ["train", "val"]
    ticks = np.arange(FRAMES - 1) / 10  # the last frame's pictures would be taken after the scene's end
    for chunk, scene, sign in zip(chunks, scenes("waymo"), (1, -1), strict=True):
        assert np.array_equal(chunk.timestamps, ticks)
        assert np.abs(chunk.motion.pose - poses(scene, ticks + 0.05)).max() < 1e-9
        assert np.abs(chunk.motion.speed - scene.speed_at(ticks + 0.052)).max() < 1e-5  # float32
        assert sign * turned(chunk.motion.pose) > 0.15
        cameras = cameras_of("waymo", world.size)
        assert {(c.width, c.height) for c in cameras} == {(96, 64), (96, 44)}
        assert [c.view for c in chunk.cameras] == ["front", "front_right", "side_right", "side_left", "front_left"]
        for camera in cameras:
            assert_same_camera(next(c for c in chunk.cameras if c.view == camera.view), camera)
        assert_pictures(chunk, scene, cameras, {view: ticks + delay for view, delay in WAYMO_DELAYS.items()}, 38)
        times, weathers = {"day": "day", "dusk": "dawn/dusk", "night": "night"}, {"clear": "sunny"}
        assert chunk.text == f"{times[scene.look.time]}, {weathers.get(scene.look.weather, scene.look.weather)}"


def test_waymo_frames_say_where_and_how_fast_each_picture_was_taken(exported):
    for take, scene in zip(takes(world_of("waymo")), scenes("waymo"), strict=True):
        (path,) = (exported("waymo") / {"train": "training", "val": "validation"}[take.split]).iterdir()
        with path.open("rb") as file:
            frames = list(v1.read_frames(file, path.name))
        assert [f.micros for f in frames] == [take.start + 100_000 * i for i in range(FRAMES - 1)]
        assert list(frames[0].images) == ["front", "front_left", "side_left", "front_right", "side_right"]
        assert f"segment-{frames[0].segment}_with_camera_labels.tfrecord" == path.name
        for i, frame in enumerate(frames):
            for view, image in frame.images.items():
                time = i / 10 + WAYMO_DELAYS[view]
                assert image.pose_timestamp == pytest.approx(take.start / 1e6 + time, abs=1e-6)
                pose = scene.pose_at(time)
                assert np.abs(image.pose - pose).max() < 1e-9
                linear, angular = (pose[:3, :3].T @ np.array(part) for part in np.split(np.array(image.velocity), 2))
                assert linear == pytest.approx([float(scene.speed_at(time)), 0, 0], abs=1e-5)
                assert angular == pytest.approx([0, 0, float(scene.yaw_rate_at(time))], abs=1e-9)


def test_both_versions_of_waymo_give_the_same_chunks(exported):
    for a, b in zip(waymo_chunks(exported("waymo")), waymo_chunks(exported("waymo-v2")), strict=True):
        assert (a.key, a.scene, a.split, a.text, a.extra) == (b.key, b.scene, b.split, b.text, b.extra)
        assert a.frames == b.frames
        assert np.array_equal(a.timestamps, b.timestamps)
        assert np.array_equal(a.motion.pose, b.motion.pose)
        assert np.array_equal(a.motion.speed, b.motion.speed)
        for one, other in zip(a.cameras, b.cameras, strict=True):
            assert (one.view, one.width, one.height) == (other.view, other.width, other.height)
            assert np.array_equal(one.intrinsics, other.intrinsics)
            assert np.array_equal(one.extrinsics, other.extrinsics)


# OpenDV


def test_opendv_gives_the_world_back(exported):
    world, folder = world_of("opendv"), exported("opendv")
    chunks, skipped = toy_opendv.read(toy_opendv.source(folder, size=world.size))
    assert skipped == []
    assert [c.split for c in chunks] == ["train", "val"]
    videos = sorted((p for p in (folder / "videos").rglob("*.*") if p.is_file()), key=lambda p: p.suffix)
    infos = [probe(path) for path in videos]
    assert [info.codec for info in infos] == ["h264", "vp9"]
    assert [info.fps for info in infos] == pytest.approx([30, 30_000 / 1_001], abs=0.01)
    for chunk, scene, take in zip(chunks, scenes("opendv"), takes(world), strict=True):
        assert chunk.length == FRAMES
        assert np.array_equal(chunk.timestamps, np.arange(FRAMES) / 10)
        assert chunk.extra["start_time"] == 3.0
        rate = float(opendv.rate_of(take))
        shown = np.floor((np.arange(FRAMES) / 10 + 5e-4) * rate) / rate  # the latest picture of the video
        assert_pictures(chunk, scene, cameras_of("front", world.size), {"front": shown}, 31)
        assert [(c.start, c.end, c.text) for c in chunk.captions] == [(0, FRAMES, scene.text)]
        assert COMMANDS[chunk.captions[0].command] == ("turn left", "turn right")[take.number]


@pytest.mark.parametrize("index", range(6))
def test_commands_are_true_of_the_drive(index):
    scene = make_scene(5, index, 80)
    said = annotate(scene)
    assert [(c.start, c.end) for c in said] == [(i, i + 40) for i in range(41)]
    for caption in said:
        pose = scene.ego.pose[caption.start : caption.end]
        end = np.linalg.inv(pose[0]) @ pose[-1]
        stands = scene.ego.speed[caption.end - 1] < 0.1
        said_ = COMMANDS[caption.command]
        assert (said_ == "stop") == stands
        if not stands:
            side = np.sign(turned(pose)) if abs(turned(pose)) > np.radians(4) * 3.9 else 0
            assert {"turn left": 1, "turn right": -1}.get(said_, 0) == side
            assert not side or np.sign(end[1, 3]) == side


@pytest.mark.parametrize(
    ("command", "changes"),
    [("go straight", {}), ("go straight", {"yaw": 0.2}), ("turn left", {"yaw": 0.3}), ("turn right", {"yaw": -0.3}),
     ("stop", {"speed": 0}), ("stop", {"speed": 0, "yaw": 0.3, "d": 3}), ("change to left lane", {"d": 3.1}),
     ("change to right lane", {"d": -3.1}), ("go straight", {"d": 1}), ("turn left", {"d": 3.1, "yaw": 0.3}),
     ("pass intersection", {"junctions": [7, 22]}), ("go straight", {"junctions": [7, 47]})],
)  # fmt: skip
def test_each_command_has_its_drive(command, changes):
    """Of a drive that begins at arc length 10 and goes 30 m ahead at 7.7 m/s."""
    told = {"speed": 7.7, "yaw": 0.0, "d": 0.0, "junctions": []} | changes
    share = np.linspace(0, 1, 40)
    driven = Driven(
        7.7 + (told["speed"] - 7.7) * share, told["yaw"] * share, 10 + 30 * share, told["d"] * share, 3.2,
        np.array(told["junctions"], float),
    )  # fmt: skip
    assert COMMANDS[driven.command(0, 39)] == command


# Which scenes


def test_no_town_is_train_in_one_format_and_val_in_another():
    world = world_of("waymo", scenes=23)
    chosen = takes(world)
    assert [take.split for take in chosen] == [world.split(take.index) for take in chosen]
    assert len({take.index for take in chosen}) == 23
    assert takes(world_of("waymo")) == chosen[:2] == [Take(0, 0, "train"), Take(1, 9, "val")]
    assert [take.start for take in chosen[:2]] == [START, START + 3_600_000_000]


def test_nuscenes_scenes_have_official_names_of_their_split():
    for count, version in ((10, "v1.0-mini"), (750, "v1.0-trainval")):
        chosen = takes(world_of("nuscenes", scenes=count))
        names = nuscenes.names_of(chosen)
        assert nuscenes.version_of(chosen) == version
        assert len(set(names)) == count
        assert [split_of(version, name) for name in names] == [take.split for take in chosen]
        assert names[:2] == ["scene-0061", "scene-0103"]
        assert "scene-0161" not in names  # the official software reads no CAN bus of it
    with pytest.raises(SourceError, match="900 scenes"):
        write_world("nuscenes", world_of("nuscenes", scenes=900), Path("never"))


@pytest.mark.parametrize(("version", "split"), [("v1.0-mini", "train"), ("v1.0-trainval", "val")])
def test_two_scenes_are_in_mini_train_and_in_val(tmp_path, version, split):
    """Their split once was "train" in both versions: two of the 150 validation scenes were trained on."""
    write(tmp_path, recording("scene-0553", 1.0, ("front",)), version=version)
    (chunk,), _ = read(NuScenesSource(tmp_path, views=("front",)))
    assert chunk.split == split


# The command


def gwm(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_shards_are_those_of_preprocess(tmp_path):
    plain = ("--scenes", 2, "--frames", 3, "--size", "32x18", "--seed", 4, "--rig", "waymo", "--weather", "rain")
    more = ("--time", "night", "--junctions", "--json")
    first = gwm("world", tmp_path / "a", "--as", "shards", *plain, *more)
    second = gwm("preprocess", "world", "-o", tmp_path / "b", *plain, *more)
    assert first.exit_code == second.exit_code == 0, first.output
    assert (tmp_path / "a/world-000000.tar").read_bytes() == (tmp_path / "b/world-000000.tar").read_bytes()
    about = json.loads(gwm("shards", "info", tmp_path / "a", "--json").stdout)
    assert set(about["views"]) == set(WAYMO_DELAYS)


def test_an_official_format_by_the_command(tmp_path):
    tiny = ("--scenes", 1, "--frames", 7, "--size", "32x18", "--json")
    made = json.loads(gwm("world", tmp_path / "deep/w", "--as", "waymo", *tiny).stdout)
    assert (made["format"], made["scenes"], made["pictures"]) == ("waymo", 1, 30)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["w"]
    assert [p.name for p in (tmp_path / "deep/w").iterdir()] == ["training"]
    done = gwm("preprocess", "waymo", tmp_path / "deep/w", "-o", tmp_path / "s", "--size", "native", "--json")
    assert json.loads(done.stdout)["frames"] == 6
    again = gwm("world", tmp_path / "deep/w", "--as", "waymo", *tiny)
    assert again.exit_code == 1
    assert "is there already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--as", "kitti"], "--as kitti"), (["--as", "waymo", "--rig", "front"], "--rig front"),
     (["--as", "waymo", "--frames", 6], "6 frames"), (["--as", "opendv", "--size", "33x18"], "33x18"),
     (["--as", "nuscenes", "--scenes", 0], "0 scenes"), (["--as", "waymo", "--weather", "hail"], "hail")],
)  # fmt: skip
def test_mistakes_have_one_message_and_leave_nothing(tmp_path, arguments, named):
    result = gwm("world", tmp_path / "new", "--size", "32x18", *arguments)
    assert result.exit_code == 1
    assert result.stderr.count("error:") == 1
    assert named in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", FORMATS)
def test_an_interrupted_export_is_not_there(tmp_path, monkeypatch, kind):
    """It is stopped inside the second scene, so that a whole first one is on the disk."""
    world, out = world_of(kind, frames=7, size=(32, 18)), tmp_path / "new"
    left, whole = FORMATS[kind].count_pictures(world) - 3, Ticker.advance
    seen: list[int] = []

    def advance(ticker: Ticker) -> None:
        seen.append(len([p for p in tmp_path.rglob("*") if p.is_file()]))
        if len(seen) == left:
            raise KeyboardInterrupt
        whole(ticker)

    monkeypatch.setattr(Renderer, "at", lambda *_: np.zeros((18, 32, 3), np.uint8))  # faster than the world
    monkeypatch.setattr(Ticker, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        write_world(kind, world, out)
    assert max(seen) > 0
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Ticker, "advance", whole)
    killed = tmp_path / ".new.unfinished" / "training"
    killed.mkdir(parents=True)
    (killed / "segment-1_0_000_1_000_with_camera_labels.tfrecord").write_bytes(b"")
    write_world(kind, world, out)
    assert list(tmp_path.iterdir()) == [out]
    assert not list(out.rglob("segment-1_*"))
    with pytest.raises(ShardError, match="is there already"):
        write_world(kind, world, out)


@pytest.mark.parametrize("kind", ["nuscenes", "waymo"])
def test_a_full_disk_is_one_message_about_out(tmp_path, monkeypatch, kind):
    def full(*_: object) -> Images:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Renderer, "at", full)
    with pytest.raises(ShardError, match="new: No space left on device; choose another folder"):
        write_world(kind, world_of(kind, frames=7, size=(32, 18)), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
