"""Waymo's segments as chunks: both versions alike, nothing lost unseen."""

import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_shards

from gwm.pipelines.preprocess import preprocess
from gwm.shards import SourceError
from gwm.shards.images import encode_jpeg
from gwm.shards.index import open_dataset
from gwm.shards.motion import planar_pose
from gwm.shards.reader import read_chunk
from gwm.shards.schema import Chunk, Skipped
from gwm.shards.sources.waymo import WaymoSource
from gwm.shards.tfrecord import DIFFERS, NO_LENGTH, frame_record
from gwm.shards.verify import verify
from gwm.shards.waymo import v1, v2
from gwm.shards.waymo.frame import AXES, Calibration, Frame, Image

NAME = "10023947602400723454_1120_000_1140_000"
SIZES = {"front": (48, 32), "front_left": (48, 32), "side_left": (48, 22)}
SPEED, YAW_RATE = 7.0, 0.3  # a left turn


def frame(i: int, views=tuple(SIZES), name: str = NAME, jump: int = 0) -> Frame:
    """Frame i of a drive in a circle to the left."""
    yaw = YAW_RATE * i / 10 + 1
    radius = SPEED / YAW_RATE
    pose = planar_pose(*(np.array([v]) for v in (radius * np.sin(yaw), -radius * np.cos(yaw), yaw)))[0]
    velocity = (*(SPEED * pose[:3, 0]), 0.0, 0.0, YAW_RATE)
    images = {}
    for view in views:
        width, height = SIZES[view]
        picture = np.full((height, width, 3), (i * 5) % 250, np.uint8)
        images[view] = Image(encode_jpeg(picture), pose, tuple(float(np.float32(v)) for v in velocity), i / 10)
    calibrations = tuple(
        Calibration(view, *SIZES[view], (50.0, 51.0, 24.5, 11.0, 0.04, -0.33, 0.0, 0.0, 0.0), np.eye(4) @ np.eye(4))
        for view in ("side_left", "front_left", "front")
    )
    micros = 1_552_440_195_362_591 + 100_000 * (i + jump) + 13 * (i % 3)
    return Frame(name, micros, pose, images, calibrations, "Night", "location_sf", "rain")


def write_v1(folder: Path, frames, name: str = NAME, split: str = "validation") -> Path:
    (folder / split).mkdir(parents=True, exist_ok=True)
    path = folder / split / f"segment-{name}_with_camera_labels.tfrecord"
    path.write_bytes(b"".join(frame_record(v1.encode_frame(f)) for f in frames))
    return path


def write_v2(folder: Path, frames, name: str = NAME, split: str = "validation") -> None:
    def open_component(component):
        (folder / split / component).mkdir(parents=True, exist_ok=True)
        return (folder / split / component / f"{name}.parquet").open("wb")

    v2.write_segment(open_component, iter(frames))


def source(folder: Path, **settings) -> WaymoSource:
    return WaymoSource(folder, **({"size": (32, 16), "views": tuple(SIZES)} | settings))


def read(videos: WaymoSource):
    found = [part for item in videos.items() for part in videos.chunks(item)]
    return [c for c in found if isinstance(c, Chunk)], [s for s in found if isinstance(s, Skipped)]


def test_a_segment_is_one_chunk_with_motion_cameras_and_text(tmp_path):
    write_v1(tmp_path, (frame(i) for i in range(40)))
    (chunk,), skipped = read(source(tmp_path))
    assert skipped == []
    assert (chunk.key, chunk.scene, chunk.split) == (f"waymo-{NAME}-000", NAME, "val")
    assert (chunk.length, chunk.text) == (40, "night, rain, San Francisco")
    assert chunk.timestamps[0] == 0
    assert np.allclose(np.diff(chunk.timestamps), 0.1, atol=1e-4)
    assert np.allclose(chunk.motion.speed, SPEED, rtol=1e-6)
    assert np.array_equal(chunk.motion.pose[7], frame(7).pose)
    relative = np.linalg.inv(chunk.motion.pose[0]) @ chunk.motion.pose[20]
    assert relative[1, 3] > 2  # a left turn is positive
    (front,) = (camera for camera in chunk.cameras if camera.view == "front")
    assert (front.width, front.height) == (32, 16)
    assert np.allclose(front.extrinsics, AXES)
    assert front.intrinsics[0, 0] == pytest.approx(50 * 32 / 48)
    assert chunk.extra["distortion"]["front"] == [0.04, -0.33, 0, 0, 0]


def test_both_versions_give_the_same_shards(tmp_path):
    frames = [frame(i, tuple(SIZES) if i != 20 else ("front",)) for i in range(40)]
    write_v1(tmp_path / "one", frames)
    write_v2(tmp_path / "two", frames)
    for name in ("one", "two"):
        preprocess(source(tmp_path / name), tmp_path / "out" / name)
        assert verify(tmp_path / "out" / name).ok
    for file in ("waymo-000000.tar", "index.parquet", "dataset.json"):
        assert (tmp_path / "out/one" / file).read_bytes() == (tmp_path / "out/two" / file).read_bytes()


def test_native_images_are_passed_through_and_views_have_their_own_sizes(tmp_path):
    write_v1(tmp_path / "in", (frame(i) for i in range(10)))
    (chunk,), _ = read(source(tmp_path / "in", size=None))
    assert all(list(chunk.frames[view]) == [frame(i).images[view].jpeg for i in range(10)] for view in SIZES)
    preprocess(source(tmp_path / "in", size=None), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.sizes == {"front": (48, 32), "side_left": (48, 22), "front_left": (48, 32)}
    assert verify(tmp_path / "out").ok
    with pytest.raises(Exception, match="several sizes"):
        read_chunk(dataset, 0)
    assert read_chunk(dataset, 0, (32, 16)).frames.shape == (10, 3, 16, 32, 3)


def test_missing_cameras_and_gaps_break_chunks_and_are_counted(tmp_path):
    """Frames in = frames out + frames reported."""
    frames = [frame(i, jump=7 * (i >= 30)) for i in range(40)]
    frames[10] = replace(frames[10], images={})  # none at all
    for i in range(15, 22):
        frames[i] = replace(frames[i], images={v: x for v, x in frames[i].images.items() if v != "front"})
    frames[25] = replace(
        frames[25], images={**frames[25].images, "front": replace(frames[25].images["front"], jpeg=b"\xff\xd8 broken")}
    )
    write_v1(tmp_path, frames)
    chunks, skipped = read(source(tmp_path))
    assert [(c.length, len(c.frames)) for c in chunks] == [(10, 3), (7, 2), (10, 3)]
    lost = Counter()
    for part in skipped:
        lost[part.cause] += part.frames
    assert +lost == {
        "no image of any camera": 1,
        "fewer than 5 frames between gaps": 4 + 3 + 1 + 4,
        "gap between frames": 7,
    }
    assert sum(c.length for c in chunks) + sum(lost.values()) == 40 + 7
    named = [s.item for s in skipped if s.cause == "camera has no image"]
    assert named == [
        f"{NAME}: front, 8 images, the first at 1.0 s",
        f"{NAME}: front_left, 1 images, the first at 1.0 s",
        f"{NAME}: side_left, 1 images, the first at 1.0 s",
    ]
    assert [s.item for s in skipped if s.cause == "image is damaged"] == [
        f"{NAME}: front, 1 images, the first at 2.5 s"
    ]


def flip(path: Path, at: int) -> None:
    """One byte of a file, whose size and time stay as they are; twice, and it is as it was."""
    before = path.stat()
    toy_shards.flip(path, at)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("part", range(12))
def test_wherever_the_damage_is_frames_in_are_frames_out_and_frames_reported(tmp_path, part):
    """All but the damaged frame are kept; all that follow a damaged length, whose number is estimated, are said."""
    path = write_v1(tmp_path, [frame(i) for i in range(30)])
    starts = np.cumsum([0, *(16 + len(v1.encode_frame(frame(i))) for i in range(30))])
    record, length = part * 29 // 11, part % 3 == 2
    flip(path, int(starts[record]) + (3 if length else 700))
    chunks, skipped = read(source(tmp_path))
    lost = Counter[str]()
    for one in skipped:
        lost[one.cause] += one.frames
    assert sum(chunk.length for chunk in chunks) + sum(lost.values()) == 30
    assert lost[NO_LENGTH if length else DIFFERS] == (30 - record if length else 1)
    assert lost["gap between frames"] == 0


def test_the_rest_of_a_damaged_parquet_file_is_counted(tmp_path):
    write_v2(tmp_path, [frame(i) for i in range(30)])
    (path,) = tmp_path.glob("*/camera_image/*")
    path.write_bytes(path.read_bytes()[:-100])
    chunks, skipped = read(source(tmp_path))
    assert (chunks, [(part.cause, part.frames) for part in skipped]) == ([], [("its Parquet files cannot be read", 30)])


@pytest.mark.parametrize("write", [write_v1, write_v2])
def test_what_was_damaged_is_read_again_once_its_file_has_changed_and_nothing_else(tmp_path, write):
    """A copy that is repaired has the same size as the damaged one."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("1_0_000_20_000", NAME):
        write(folder, [frame(i, name=name) for i in range(10)], name=name)
    path = next(p for p in sorted(folder.rglob("*")) if p.is_file() and NAME in p.name)
    at = path.stat().st_size - 2  # of the last checksum, or of the name of the format
    flip(path, at)
    assert preprocess(source(folder), out).frames < 20
    assert preprocess(source(folder), out).new_shards == 0
    flip(path, at)  # as cp -p does it
    report = preprocess(source(folder), out)
    assert (report.frames, report.skipped, report.new_shards) == (20, [], 1)
    path.touch()
    assert preprocess(source(folder), out).new_shards == 0


def test_a_record_that_is_there_twice_is_left_out_once(tmp_path):
    write_v1(tmp_path, [frame(i) for i in (*range(8), 7, *range(8, 20))])
    (chunk,), (skipped,) = read(source(tmp_path))
    assert (chunk.length, skipped.cause, skipped.frames) == (20, "time does not advance", 1)


@pytest.mark.parametrize(
    "numbers", [(*range(6), 8, 6, 7, *range(9, 20)), (*range(10), 36_000, *range(10, 19)), (0, 5, 0, 0, *range(6, 17))]
)
def test_frames_out_of_order_are_counted_once(tmp_path, numbers):
    """In a gap that was counted; after a time that is wrong; and again."""
    write_v1(tmp_path, [frame(i) for i in numbers])
    chunks, skipped = read(source(tmp_path, min_frames=1))
    absent = 4 if 5 in numbers[:2] else 0
    assert sum(chunk.length for chunk in chunks) + sum(part.frames for part in skipped) == len(numbers) + absent


def test_what_holds_no_frame_is_said_once(tmp_path):
    path = write_v1(tmp_path, [])
    (skipped,) = read(source(tmp_path))[1]
    assert (skipped.item, skipped.cause) == (NAME, "there is no frame in it")
    path.write_bytes(b"this is no TFRecord file")
    assert [part.cause for part in read(source(tmp_path))[1]] == [NO_LENGTH]
    os.mkfifo(tmp_path / "segment-3_0_000_20_000.tfrecord")  # nothing to be waited for
    assert len(source(tmp_path).items()) == 1


def test_copies_of_a_segment_are_refused_before_anything_is_read(tmp_path):
    path = write_v1(tmp_path / "in", [frame(i) for i in range(6)])
    for name in (f"{path.stem} (1).tfrecord", f"individual_files_validation_segment-{NAME}.tfrecord"):
        shutil.copy(path, path.parent / name)
        with pytest.raises(SourceError, match=f"more than once, such as {NAME}"):
            preprocess(source(tmp_path / "in"), tmp_path / "out")
        (path.parent / name).unlink()


def test_a_segment_in_two_files_does_not_end_the_run(tmp_path):
    """Whether they come into one shard or two."""
    for name in ("a", "b"):
        write_v1(tmp_path / "in", [frame(i) for i in range(6)], name)
    report = preprocess(source(tmp_path / "in"), tmp_path / "out")
    assert (report.samples, report.frames, report.skipped) == (2, 12, [])
    assert {row.scene for row in map(open_dataset(tmp_path / "out").row, range(2))} == {NAME}


def test_links_are_followed_and_each_folder_read_once(tmp_path):
    write_v1(tmp_path / "disk", [frame(i) for i in range(6)])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "training").symlink_to(tmp_path / "disk" / "validation")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (item,) = source(tmp_path / "in").items()
    assert (item.name, item.split) == (NAME, "train")
    (tmp_path / "disk" / "testing").symlink_to(tmp_path / "disk" / "validation")  # before it by name
    (item,) = source(tmp_path / "disk").items()
    assert item.split == "val"


def test_a_velocity_that_is_not_there_is_taken_from_the_poses(tmp_path):
    frames = [frame(i) for i in range(20)]
    frames = [replace(f, images={v: replace(x, velocity=None) for v, x in f.images.items()}) for f in frames]
    write_v1(tmp_path / "one", frames)
    write_v2(tmp_path / "two", frames)
    for folder in ("one", "two"):
        (chunk,), _ = read(source(tmp_path / folder))
        assert np.allclose(chunk.motion.speed[1:-1], SPEED, rtol=0.002)


def test_splits_come_from_the_folders(tmp_path):
    for i, folder in enumerate(("training", "validation", "testing", "deep/testing_location/more", "elsewhere")):
        write_v1(tmp_path, [frame(j) for j in range(5)], f"{i}_0_000_20_000", folder)
    assert [item.split for item in source(tmp_path).items()] == ["train", "val", "test", "test", "train"]


def test_what_is_no_waymo_folder(tmp_path):
    with pytest.raises(SourceError, match=r"does not exist; put Waymo's .* gwm world OUT --as waymo"):
        source(tmp_path / "nowhere").items()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match="no segment in"):
        source(tmp_path).items()
    with pytest.raises(SourceError, match="no camera back; Waymo has front"):
        source(tmp_path, views=("front", "back"))
    write_v1(tmp_path, [frame(0)])
    write_v2(tmp_path, [frame(0)])
    with pytest.raises(SourceError, match="more than once"):
        preprocess(source(tmp_path), tmp_path / "out")
