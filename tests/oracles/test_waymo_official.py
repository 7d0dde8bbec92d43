"""Our Waymo reader and writer against the official protocol buffers (extra package, see the Makefile)."""

from pathlib import Path

import numpy as np
import pytest
from toy_waymo import frame

from gwm.pipelines.world import write_world
from gwm.shards.sources.world import WorldSource
from gwm.shards.tfrecord import read_records
from gwm.shards.waymo import v1
from gwm.shards.waymo.frame import VIEWS

official = pytest.importorskip("waymo_open_dataset.dataset_pb2")
REAL = Path(__file__).parents[2].parent / "shared/data/waymo/pvps_data_one_frame.tfrecord"


def same(ours, theirs):
    assert (ours.segment, ours.micros) == (theirs.context.name, theirs.timestamp_micros)
    stats = theirs.context.stats
    assert (ours.time_of_day, ours.location, ours.weather) == (stats.time_of_day, stats.location, stats.weather)
    assert np.array_equal(ours.pose.ravel(), theirs.pose.transform)
    assert len(ours.images) == len(theirs.images)
    for image in theirs.images:
        mine, v = ours.images[VIEWS[image.name]], image.velocity
        assert (mine.jpeg, mine.pose_timestamp) == (image.image, image.pose_timestamp)
        assert mine.velocity == (v.v_x, v.v_y, v.v_z, v.w_x, v.w_y, v.w_z)
        assert np.array_equal(mine.pose.ravel(), image.pose.transform)
    assert len(ours.calibrations) == len(theirs.context.camera_calibrations)
    for mine, c in zip(ours.calibrations, theirs.context.camera_calibrations, strict=True):
        assert (mine.view, mine.width, mine.height, list(mine.intrinsic)) == (
            VIEWS[c.name], c.width, c.height, list(c.intrinsic),
        )  # fmt: skip
        assert np.array_equal(mine.extrinsic.ravel(), c.extrinsic.transform)


@pytest.mark.skipif(not REAL.exists(), reason="the real record is not beside this checkout")
def test_a_real_record_is_read_as_the_official_parser_reads_it():
    with REAL.open("rb") as file:
        (data,) = read_records(file, "real")
        file.seek(0)
        (ours,) = v1.read_frames(file, "real")
    same(ours, official.Frame.FromString(data))
    again = official.Frame.FromString(v1.encode_frame(ours))
    same(ours, again)


def test_what_we_write_the_official_parser_reads_and_writes_alike():
    data = v1.encode_frame(frame(3))
    theirs = official.Frame.FromString(data)
    same(frame(3), theirs)
    assert theirs.SerializeToString() == data


def test_every_record_of_the_world_is_official(tmp_path):
    world = WorldSource(2, frames=12, size=(96, 64), rig="waymo", weather="rain", time="dusk")
    write_world("waymo", world, tmp_path / "waymo")
    seen = 0
    for path in sorted((tmp_path / "waymo").rglob("*.tfrecord")):
        with path.open("rb") as file:
            records = list(read_records(file, path.name))
            file.seek(0)
            for data, ours in zip(records, v1.read_frames(file, path.name), strict=True):
                theirs = official.Frame.FromString(data)
                same(ours, theirs)
                assert theirs.SerializeToString() == data
                assert len(theirs.images) == 5
                seen += 1
    assert seen == 2 * 11
