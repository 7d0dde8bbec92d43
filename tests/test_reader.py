"""Windows of frames read back, and the order in which they are read."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_shards import flip, make_chunk, same_motion, toy, write

from gwm.shards import ShardError
from gwm.shards.images import decode_jpeg, encode_jpeg
from gwm.shards.index import open_dataset
from gwm.shards.motion import window_actions
from gwm.shards.reader import MOTION_AHEAD, WindowSchedule, iterate_windows, read_chunk, read_window
from gwm.shards.schema import Motion
from gwm.shards.verify import info, verify


def test_chunk_comes_back_as_it_was(tmp_path: Path) -> None:
    chunk = make_chunk(3, 7, ["front_left", "front", "back"])  # views in no particular order
    window = read_chunk(open_dataset(write(tmp_path / "out", [make_chunk(1), chunk])), 1)
    assert (window.key, window.start, window.text) == (chunk.key, 0, chunk.text)
    assert window.views == ("front", "back", "front_left")
    for k, view in enumerate(window.views):
        for t in range(7):
            assert np.array_equal(window.frames[t, k], decode_jpeg(chunk.frames[view][t]))
    assert same_motion(window.motion, chunk.motion)
    cameras = {camera.view: camera for camera in chunk.cameras}
    assert [camera.view for camera in window.cameras] == list(window.views)
    for camera in window.cameras:
        assert np.array_equal(camera.intrinsics, cameras[camera.view].intrinsics)
        assert np.array_equal(camera.extrinsics, cameras[camera.view].extrinsics)


def test_window_is_a_cut_of_the_chunk_and_its_motion_reaches_two_seconds_on(tmp_path: Path) -> None:
    chunk = make_chunk(0, 40, ["front", "back"])
    dataset = open_dataset(write(tmp_path / "out", [chunk]))
    whole = read_chunk(dataset, 0)
    for start, length in ((0, 1), (5, 8), (39, 1), (0, 40)):
        window = read_window(dataset, 0, start, length)
        assert np.array_equal(window.frames, whole.frames[start : start + length])
        assert same_motion(window.motion, chunk.motion.window(start, length + MOTION_AHEAD))
        back = read_window(dataset, 0, start, length, ["back"])
        assert np.array_equal(back.frames[:, 0], window.frames[:, 1])
        assert [camera.view for camera in back.cameras] == ["back"]
    assert window_actions(read_window(dataset, 0, 19, 1).motion).command is not None
    assert window_actions(read_window(dataset, 0, 20, 1).motion).command is None


def test_a_sample_may_know_nothing_but_its_frames(tmp_path: Path) -> None:
    chunk = replace(make_chunk(0), motion=Motion(), cameras=(), text="", extra={})
    dataset = open_dataset(write(tmp_path / "out", [chunk]))
    window = read_chunk(dataset, 0)
    assert same_motion(window.motion, Motion())
    assert (window.cameras, window.text) == ((), "")
    assert set(info(dataset.path)["present"].values()) == {0.0}
    assert verify(dataset.path).ok


def test_another_size_crops_frames_and_camera_alike(tmp_path: Path) -> None:
    """A bright column at x = 20 of 32 is where the camera says after cropping 32x16 to a square of 8."""
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, 20:22] = 255
    chunk = replace(make_chunk(0, 2), frames={"front": [encode_jpeg(image)] * 2})
    window = read_chunk(open_dataset(write(tmp_path / "out", [chunk])), 0, size=(8, 8))
    assert window.frames.shape == (2, 1, 8, 8, 3)
    before, after = chunk.cameras[0].intrinsics, window.cameras[0].intrinsics
    x = (21 - before[0, 2]) / before[0, 0] * after[0, 0] + after[0, 2]
    brightness = window.frames[0, 0, :, :, 0].mean(axis=0)
    assert (window.cameras[0].width, window.cameras[0].height) == (8, 8)
    assert abs(float((brightness * (np.arange(8) + 0.5)).sum() / brightness.sum()) - x) < 0.1


def test_a_window_outside_the_chunk_or_a_view_it_lacks_is_refused(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    for start, length in ((-1, 2), (0, 13), (12, 1), (0, 0)):
        with pytest.raises(ShardError, match="frames 0 to 11"):
            read_window(dataset, 0, start, length)
    with pytest.raises(ShardError, match="views front, not back"):
        read_window(dataset, 0, 0, 1, ["front", "back"])


def test_a_damaged_jpeg_is_named_when_it_is_read(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    row = dataset.row(3)
    flip(dataset.path / row.shard, int(row.frame_offsets[5]))
    read_window(dataset, 3, 0, 5)
    with pytest.raises(ShardError, match=r"toy-000001.tar: chunk-0003.front.005.jpg: .*gwm shards verify"):
        read_window(dataset, 3, 0, 6)
    flip(dataset.path / row.shard, row.json_offset)
    with pytest.raises(ShardError, match=r"chunk-0003.json: damaged"):
        read_window(dataset, 3, 0, 5)


def test_dataset_and_schedule_survive_pickling(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    schedule = WindowSchedule(dataset, "train", 0, min_length=4)
    again, order = pickle.loads(pickle.dumps((dataset, schedule)))
    assert np.array_equal(read_chunk(again, 2).frames, read_chunk(dataset, 2).frames)
    assert order.batch(5, 3, 4) == schedule.batch(5, 3, 4)


# Order of windows


def test_each_epoch_covers_every_sample_once_in_a_new_order(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out", (12, 9, 25, 12, 7, 12, 12))
    schedule = WindowSchedule(dataset, "train", seed=5, min_length=9)
    drawn = [window for step in range(9) for window in schedule.batch(step, 4, 9 - step % 3)]  # lengths may vary
    epochs = [[row for row, _ in drawn[i : i + 6]] for i in range(0, 36, 6)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 5, 6] for epoch in epochs)  # chunk 4 is too short
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_windows_lie_inside_their_chunk_and_starts_are_uniform(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out", (12, 12))
    schedule = WindowSchedule(dataset, "train", seed=0, min_length=9)
    starts = [start for step in range(1000) for _, start in schedule.batch(step, 2, 9)]
    counts = np.bincount(starts)
    assert len(counts) == 4  # 0 .. 3
    assert np.abs(counts - 500).max() < 4 * np.sqrt(2000 * 0.25 * 0.75)


def test_chunks_shorter_than_the_window_are_left_out(tmp_path: Path) -> None:
    schedule = WindowSchedule(toy(tmp_path / "out", (12, 9, 25, 12, 7)), "train", seed=5)
    assert sorted(row for row, _ in schedule.batch(0, 3, 10)) == [0, 2, 3]
    assert sorted(row for row, _ in schedule.batch(0, 5, 1)) == [0, 1, 2, 3, 4]


def test_schedule_is_a_function_of_seed_rank_and_step(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    unbroken = [WindowSchedule(dataset, "train", 1, min_length=6).batch(step, 3, 6) for step in range(20)]
    resumed = WindowSchedule(dataset, "train", 1, min_length=6)
    assert [resumed.batch(step, 3, 6) for step in range(10, 20)] == unbroken[10:]
    other = WindowSchedule(dataset, "train", 2, min_length=6)
    assert [other.batch(step, 3, 6) for step in range(20)] != unbroken


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_no_shard_and_cover_all(tmp_path: Path, world_size: int) -> None:
    dataset = toy(tmp_path / "out", (12,) * 9)  # five shards, the last with one sample
    ranks = [WindowSchedule(dataset, "train", 0, rank, world_size, 12) for rank in range(world_size)]
    shards = [{dataset.row(int(row)).shard for row in rank.rows} for rank in ranks]
    assert sum(len(of_rank) for of_rank in shards) == len(set.union(*shards)) == 5
    assert sorted(int(row) for rank in ranks for row in rank.rows) == list(range(9))
    assert max(len(rank.rows) for rank in ranks) - min(len(rank.rows) for rank in ranks) <= 2


def test_more_ranks_than_shards_and_no_sample_long_enough(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    with pytest.raises(ShardError, match="5 shards with train samples for 6 processes; use at most"):
        WindowSchedule(dataset, "train", 0, 0, 6)
    with pytest.raises(ShardError, match="no train sample of 25 frames, the longest has 12"):
        WindowSchedule(dataset, "train", 0, min_length=25)
    with pytest.raises(ShardError, match="no windows of 25 frames: the longest sample of rank 0 has 12"):
        WindowSchedule(dataset, "train", 0).batch(0, 1, 25)
    with pytest.raises(ShardError, match="no val samples, only train"):
        iterate_windows(dataset, "val", 5, 5)


def test_evaluation_list_is_exact(tmp_path: Path) -> None:
    chunks = [make_chunk(0, 12), make_chunk(1, 4), make_chunk(2, 5, split="val"), make_chunk(3, 5)]
    dataset = open_dataset(write(tmp_path / "out", chunks, per_shard=1))
    assert iterate_windows(dataset, "train", 5, 3) == [(0, 0), (0, 3), (0, 6), (3, 0)]
    assert iterate_windows(dataset, "val", 5, 5) == [(2, 0)]
