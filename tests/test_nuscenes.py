"""nuScenes' tables, CAN bus and Vista's annotations: there and back, on a drive whose truth is known."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from toy_nuscenes import (
    DELAYS,
    SPEED,
    START,
    STEERING,
    camera,
    pose,
    read,
    recording,
    without,
    write,
)  # fmt: skip

from gwm.pipelines.preprocess import preprocess
from gwm.shards import SourceError
from gwm.shards.images import encode_jpeg
from gwm.shards.nuscenes.moments import LONGEST, as_they_come, at_ten_hertz, nearest
from gwm.shards.nuscenes.scene import VIEWS
from gwm.shards.nuscenes.splits import OFFICIAL, SPLIT_OF
from gwm.shards.nuscenes.tables import read_scenes, version_folder
from gwm.shards.nuscenes.track import Track, matrices, quaternion
from gwm.shards.nuscenes.write import TABLES, Taken
from gwm.shards.schema import Damaged
from gwm.shards.sources.nuscenes import NuScenesSource
from gwm.shards.verify import verify

NATIVE = {"size": None}


def edit(folder, table, change):
    """Change the rows of a table in place."""
    path = folder / "v1.0-mini" / f"{table}.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(change(rows) or rows))


def test_official_splits():
    sizes = {name: len(set(scenes)) for name, scenes in OFFICIAL.items()}
    halves = {"train_detect": 350, "train_track": 350}
    assert sizes == {"train": 700, "val": 150, "test": 150, "mini_train": 8, "mini_val": 2, **halves}
    assert {*OFFICIAL["train_detect"], *OFFICIAL["train_track"]} == set(OFFICIAL["train"])
    assert len(SPLIT_OF) == 1000
    assert (SPLIT_OF["scene-0061"], SPLIT_OF["scene-0103"], SPLIT_OF["scene-0077"]) == ("train", "val", "test")


def test_a_scene_is_one_chunk_with_true_motion_and_cameras(tmp_path):
    (chunk,), skipped = read(NuScenesSource(write(tmp_path), **NATIVE))
    assert skipped == []
    assert (chunk.key, chunk.scene, chunk.split) == ("nuscenes-scene-0103-000", "scene-0103", "val")
    assert (chunk.text, chunk.length, set(chunk.frames)) == ("Rain, left turn", 41, set(VIEWS))
    first = START + max(DELAYS.values())
    assert np.allclose(chunk.timestamps, np.arange(41) / 10)
    truth = np.stack([pose(first + 100_000 * i) for i in range(41)])
    assert np.allclose(chunk.motion.pose, truth, atol=2e-4)
    assert np.allclose(chunk.motion.speed, SPEED)
    assert np.allclose(chunk.motion.steering, STEERING)
    assert (np.linalg.inv(chunk.motion.pose[0]) @ chunk.motion.pose[20])[1, 3] > 2  # a left turn is positive
    for found in chunk.cameras:
        assert np.allclose(found.extrinsics, camera(found.view).extrinsics)
        assert np.allclose(found.intrinsics, camera(found.view).intrinsics)
    assert chunk.extra["motion"] == {"pose": "can_bus", "speed": "pose", "steering": "steeranglefeedback"}


def test_frames_are_the_nearest_ones_untouched_and_in_their_own_view(tmp_path):
    (chunk,), _ = read(NuScenesSource(write(tmp_path), **NATIVE))
    own = {view: [t for t in recording().images if t.view == view] for view in VIEWS}
    for view in VIEWS:
        for i, jpeg in enumerate(chunk.frames[view]):
            now = START + max(DELAYS.values()) + 100_000 * i
            best = min(own[view], key=lambda taken: (abs(taken.micros - now), taken.micros))
            assert jpeg == best.jpeg
            assert chunk.extra["image_micros"][view][i] == best.micros


def test_ties_go_to_the_earlier_image_and_far_images_are_none():
    times = np.array([0, 100, 150, 250], np.int64) * 1000 + START
    moments = np.array([50_000, 125_000, 125_001, 250_000 + LONGEST, 250_000 + LONGEST + 1]) + START
    assert nearest(times, moments).tolist() == [0, 1, 2, 3, -1]


def test_moments_begin_when_every_camera_has_begun():
    own = np.arange(20) * 80_000
    moments = at_ten_hertz({"front": own, "back": own[10:]})
    assert (moments.micros[0], moments.late) == (800_000, 8)
    assert len(moments.micros) == (own[-1] - 800_000) // 100_000 + 1


def test_the_raw_chain_counts_a_gap():
    moments = as_they_come({"front": np.array([0, 80, 160, 560, 640]) * 1000})
    assert moments.ticks.tolist() == [0, 1, 2, 6, 7]


def test_raw_rate_takes_every_front_image(tmp_path):
    (chunk,), skipped = read(NuScenesSource(write(tmp_path), rate="raw", **NATIVE))
    assert skipped == []
    assert list(chunk.frames["front"]) == [t.jpeg for t in recording().images if t.view == "front"]
    assert np.allclose(np.diff(chunk.timestamps), 0.1)
    assert np.allclose(chunk.motion.pose[10], pose(chunk.extra["frame_micros"][10]), atol=2e-4)


def test_shards_are_whole_and_the_same_from_pickled_items(tmp_path):
    source = NuScenesSource(write(tmp_path / "in", recording(), recording("scene-0061")), size=(16, 16))
    assert preprocess(source, tmp_path / "out").frames == 82
    assert verify(tmp_path / "out").ok
    (item, _) = source.items()
    again = pickle.loads(pickle.dumps(item))
    (a,), (b,) = source.chunks(item), source.chunks(again)
    assert a.frames == b.frames
    assert json.dumps(a.extra) == json.dumps(b.extra)
    assert [i.stamp for i in source.items()] == [i.stamp for i in source.items()]


@pytest.mark.parametrize(
    ("missing", "speed", "steering", "pose_from"),
    [
        ((), SPEED, STEERING, "can_bus"),
        (("steeranglefeedback",), SPEED, np.pi / 2, "can_bus"),
        (("pose",), SPEED + 0.5, STEERING, "ego_pose"),
        (("pose", "vehicle_monitor", "steeranglefeedback"), SPEED, None, "ego_pose"),
    ],
)
def test_motion_is_from_the_best_there_is(tmp_path, missing, speed, steering, pose_from):
    write(tmp_path)
    for message in missing:
        (tmp_path / f"can_bus/scene-0103_{message}.json").unlink()
    (chunk,), skipped = read(NuScenesSource(tmp_path, **NATIVE))
    assert skipped == []
    assert np.allclose(chunk.motion.speed, speed, rtol=2e-3)
    assert (chunk.motion.steering is None) == (steering is None)
    assert steering is None or np.allclose(chunk.motion.steering, steering)
    assert chunk.extra["motion"]["pose"] == pose_from
    assert [m for m, state in chunk.extra["can_bus"].items() if state == "missing"] == sorted(
        missing, key=("pose", "steeranglefeedback", "vehicle_monitor").index
    )
    first = START + max(DELAYS.values())
    assert np.allclose(chunk.motion.pose, [pose(first + 100_000 * i) for i in range(41)], atol=2e-3)


def test_messages_that_end_early_are_not_extrapolated(tmp_path):
    write(tmp_path)
    path = tmp_path / "can_bus/scene-0103_steeranglefeedback.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:100]))
    (tmp_path / "can_bus/scene-0103_vehicle_monitor.json").write_text("[]")
    (chunk,), _ = read(NuScenesSource(tmp_path, **NATIVE))
    assert chunk.motion.steering is None
    assert chunk.extra["can_bus"]["vehicle_monitor"] == "empty"


def test_a_damaged_message_is_reported(tmp_path):
    write(tmp_path)
    path = tmp_path / "can_bus/scene-0103_pose.json"
    path.write_bytes(path.read_bytes()[:1000])
    (chunk,), (skipped,) = read(NuScenesSource(tmp_path, **NATIVE))
    assert skipped == Damaged("scene-0103_pose.json", "CAN bus message is damaged")
    assert chunk.extra["motion"]["pose"] == "ego_pose"


def test_a_camera_that_is_missing_for_a_while_breaks_the_chunk_and_is_counted(tmp_path):
    write(tmp_path, without(recording(), "back", 1.6, 2.4))
    chunks, skipped = read(NuScenesSource(tmp_path, **NATIVE))
    assert len(chunks) == 2
    assert [s.cause for s in skipped] == ["camera has a gap"]
    assert sum(c.length for c in chunks) + skipped[0].frames == 41
    assert skipped[0].item.startswith("scene-0103: back from 1.7 s on")
    (whole,), none = read(NuScenesSource(tmp_path, views=("front", "front_left"), **NATIVE))
    assert (whole.length, none) == (41 + (max(DELAYS.values()) - DELAYS["front_left"] > 100_000), [])


def test_a_camera_that_begins_late_or_is_never_there(tmp_path):
    write(tmp_path / "late", without(recording(), "back", 0, 1.2))
    (chunk,), (late,) = read(NuScenesSource(tmp_path / "late", **NATIVE))
    assert (late.cause, late.frames + chunk.length) == ("not every camera has begun", 40)  # its moments lie elsewhere
    write(tmp_path / "never", recording(views=("front", "back")))
    chunks, (never,) = read(NuScenesSource(tmp_path / "never", **NATIVE))
    assert (chunks, never.cause, never.frames) == ([], "camera has no images", 41)


def broken_file(path, damage):
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "size":
        path.write_bytes(encode_jpeg(np.zeros((20, 20, 3), np.uint8)))
    else:
        path.write_bytes(b"no JPEG")


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        ("missing", "image file is missing"),
        ("truncated", "image is damaged"),
        ("size", "image and table differ in size"),
        ("text", "image is damaged"),
    ],
)
def test_a_lost_image_is_a_lost_moment(tmp_path, damage, cause):
    write(tmp_path)
    files = sorted((tmp_path / "samples/CAM_BACK").iterdir())
    broken_file(files[4], damage)
    chunks, skipped = read(NuScenesSource(tmp_path, **NATIVE))
    assert {s.cause for s in skipped} == {cause}
    assert sum(c.length for c in chunks) + sum(s.frames for s in skipped) == 41
    assert all(s.item.startswith("scene-0103: back from ") for s in skipped)


def test_too_short_a_run_is_counted(tmp_path):
    scene = without(without(recording(), "back", 0.6, 1.4), "front", 1.5, 2.6)
    chunks, skipped = read(NuScenesSource(write(tmp_path, scene), **NATIVE))
    assert "too few frames between gaps" in [s.cause for s in skipped]
    assert sum(c.length for c in chunks) + sum(s.frames for s in skipped) == 41


def test_own_splits_and_scenes_in_no_list(tmp_path):
    write(tmp_path, recording("scene-9001", 1), recording("scene-9002", 1), recording("scene-0103", 1))
    (tmp_path / "v1.0-mini/splits.json").write_text(json.dumps({"val": ["scene-9001", "scene-0103"], "x": []}))
    chunks, _ = read(NuScenesSource(tmp_path, **NATIVE))
    assert [(c.split, c.extra["split_from"]) for c in chunks] == [
        ("val", "official"), ("val", "splits.json"), ("train", "in no list, so train"),
    ]  # fmt: skip


def test_the_largest_version_unless_one_is_named(tmp_path):
    write(tmp_path, recording("scene-0061", 1), recording("scene-0103", 1), version="v1.0-trainval")
    write(tmp_path, recording("scene-0103", 1))
    assert version_folder(tmp_path).name == "v1.0-trainval"
    assert version_folder(tmp_path, "v1.0-mini").name == "v1.0-mini"
    with pytest.raises(SourceError, match=r"no tables in .*v1.0-test; put nuScenes there .* gwm world OUT --as nuscen"):
        version_folder(tmp_path, "v1.0-test")


def test_what_is_no_nuscenes_folder(tmp_path):
    with pytest.raises(SourceError, match="does not exist or is no folder; put nuScenes there"):
        NuScenesSource(tmp_path / "nowhere").items()
    with pytest.raises(SourceError, match=r"no tables in .*v1.0-\*; put nuScenes there"):
        NuScenesSource(tmp_path).items()
    for settings, words in (
        ({"rate": "12"}, "rate"), ({"fit": "x"}, "fit images"), ({"views": ("side_left",)}, "no camera side_left"),
        ({"frames": 0}, "0 frames"),
    ):  # fmt: skip
        with pytest.raises(SourceError, match=words):
            NuScenesSource(tmp_path, **settings)


READ = ("log", "scene", "sensor", "calibrated_sensor", "sample", "sample_data", "ego_pose")


@pytest.mark.parametrize("table", READ)
@pytest.mark.parametrize("damage", ["missing", "truncated", "object", "empty", "strange", "twice", "gone", "nan"])
def test_damaged_tables_are_refused(tmp_path, table, damage):
    write(tmp_path, recording(seconds=1))
    path = tmp_path / "v1.0-mini" / f"{table}.json"
    data = path.read_bytes()
    rows = json.loads(data)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "truncated": data[: len(data) // 2],
                "object": b'{"a": 1}',
                "empty": b"",
                "strange": json.dumps([*rows, 7]).encode(),
                "twice": json.dumps([*rows, rows[0]]).encode(),
                "gone": json.dumps([{**row, "token": f"x{i}"} for i, row in enumerate(rows)]).encode(),
                "nan": data.replace(b'"token"', b'"token": 3, "x"', 1),
            }[damage]
        )
    if (table, damage) == ("sample_data", "gone"):
        assert len(NuScenesSource(tmp_path).items()) == 1  # nothing names its tokens
        return
    with pytest.raises(SourceError, match=rf"{table}|no tables|{tmp_path}"):
        NuScenesSource(tmp_path).items()


@pytest.mark.parametrize("name", ["../../etc/x", "/etc/passwd", "samples/../../x", "s3://bucket/x", ""])
def test_a_file_outside_the_folder_is_refused(tmp_path, name):
    write(tmp_path, recording(seconds=1))
    edit(tmp_path, "sample_data", lambda rows: [{**rows[0], "filename": name}, *rows[1:]])
    with pytest.raises(SourceError, match=r"sample_data.json: row 1 .*no file inside the dataset's folder"):
        NuScenesSource(tmp_path).items()
    edit(tmp_path, "scene", lambda rows: [{**rows[0], "name": "../x"}])
    with pytest.raises(SourceError, match=r"scene.json: row 1"):
        NuScenesSource(tmp_path).items()


@pytest.mark.parametrize("pose", [{"rotation": [0, 0, 0, 0]}, {"translation": [1, 2]}, {"translation": [1, 2, "x"]}])
@pytest.mark.parametrize("table", ["ego_pose", "calibrated_sensor"])
def test_a_pose_that_is_none_is_refused(tmp_path, table, pose):
    write(tmp_path, recording(seconds=1))
    edit(tmp_path, table, lambda rows: [{**row, **pose} for row in rows])
    with pytest.raises(SourceError, match=f"{table}.json"):
        NuScenesSource(tmp_path).items()


def test_rows_may_come_in_any_order(tmp_path):
    a = [*read_scenes(write(tmp_path) / "v1.0-mini")]
    rng = np.random.default_rng(0)
    for table in READ:
        edit(tmp_path, table, lambda rows: [rows[i] for i in rng.permutation(len(rows))])
    (one,), (two,) = a, read_scenes(tmp_path / "v1.0-mini")
    assert np.array_equal(one.samples, two.samples)
    for view in VIEWS:
        assert np.array_equal(one.cameras[view].shots.files, two.cameras[view].shots.files)
        assert np.array_equal(one.cameras[view].shots.ego.poses, two.cameras[view].shots.ego.poses)


def test_rotations_come_back_and_are_interpolated_evenly():
    rng = np.random.default_rng(0)
    for q in rng.normal(size=(50, 4)):
        q = q / np.linalg.norm(q) * np.sign(q[0])
        assert np.allclose(quaternion(matrices(np.zeros((1, 3)), q[None])[0, :3, :3]), q)
    angles = np.array([0.2, 2.0])
    turn = np.stack([np.cos(angles / 2), 0 * angles, 0 * angles, np.sin(angles / 2)], axis=1)
    track = Track(np.array([0, 10]), np.array([[0.0, 0, 0], [1, 2, 3]]), turn * [[1], [-1]])  # -q is the same rotation
    found = track.at(np.array([0, 5, 7, 10, 99]))
    assert np.allclose(np.arctan2(found[:, 1, 0], found[:, 0, 0]), [0.2, 1.1, 0.2 + 1.8 * 0.7, 2.0, 2.0])
    assert np.allclose(found[1, :3, 3], [0.5, 1, 1.5])


def test_writing_is_deterministic_and_whole(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)
    tables = {table: json.loads((one / f"v1.0-mini/{table}.json").read_text()) for table in TABLES}
    assert len(tables["sample"]) == 9
    assert all((one / row["filename"]).is_file() for row in tables["sample_data"])
    front = sorted(row["timestamp"] - START for row in tables["sample_data"] if "__CAM_FRONT__" in row["filename"])
    assert front[:7] == [0, 100_000, 150_000, 250_000, 350_000, 400_000, 500_000]


def test_a_recording_that_is_no_scene(tmp_path):
    with pytest.raises(SourceError, match="no key frame"):
        write(tmp_path, replace(recording(), images=()))
    with pytest.raises(SourceError, match="no such camera"):
        write(tmp_path, replace(recording(), images=(Taken("side_left", 0, True, b""),)))
