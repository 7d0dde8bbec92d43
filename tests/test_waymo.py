"""Waymo's formats: TFRecord framing, the wire format, and both versions of a segment, there and back."""

import io
import random
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_waymo import frame

from gwm.shards import SourceError
from gwm.shards.schema import Damaged
from gwm.shards.tfrecord import CUT_OFF, DIFFERS, NO_LENGTH, frame_record, masked_crc, read_records
from gwm.shards.waymo import v1, v2
from gwm.shards.wire import all_doubles, fields, put_bytes, put_doubles, put_varint, signed

HUGE = (2**60).to_bytes(8, "little")
GOLDEN = bytes.fromhex("0300000000000000b099490e67776db63ddd9f")  # payload b"gwm", facts of the format
VALUES = tuple(np.random.default_rng(0).normal(size=16).tolist())


def same(a, b):
    assert (a.segment, a.micros, a.time_of_day, a.location, a.weather) == (
        b.segment, b.micros, b.time_of_day, b.location, b.weather,
    )  # fmt: skip
    assert np.array_equal(a.pose, b.pose)
    assert dict(a.images).keys() == dict(b.images).keys()
    for view, image in a.images.items():
        other = b.images[view]
        assert (image.jpeg, image.velocity, image.pose_timestamp) == (other.jpeg, other.velocity, other.pose_timestamp)
        assert np.array_equal(image.pose, other.pose)
    for c, d in zip(a.calibrations, b.calibrations, strict=True):
        assert (c.view, c.width, c.height, c.intrinsic) == (d.view, d.width, d.height, d.intrinsic)
        assert np.array_equal(c.extrinsic, d.extrinsic)


class Files:
    """A segment's components in memory."""

    def __init__(self, data=()):
        self.data = dict(data)

    def write(self, component):
        files = self

        class File(io.BytesIO):
            def close(self):
                files.data.setdefault(component, self.getvalue())
                super().close()

        return File()

    def read(self, component):
        if component not in self.data:
            raise FileNotFoundError(component)
        return io.BytesIO(self.data[component])


def test_records_are_tensorflows():
    assert frame_record(b"gwm") == GOLDEN
    assert list(read_records(io.BytesIO(GOLDEN + frame_record(b"")), "x")) == [b"gwm", b""]


@pytest.mark.parametrize(
    "data",
    [
        put_doubles(1, VALUES),
        put_bytes(1, struct.pack("<16d", *VALUES)),  # packed
        put_doubles(1, VALUES[:9]) + put_varint(2, 300) + put_doubles(3, VALUES) + put_doubles(1, VALUES[9:]),
        put_bytes(1, struct.pack("<7d", *VALUES[:7])) + put_doubles(1, VALUES[7:]),
    ],
)
def test_repeated_doubles_are_found_in_whatever_way_they_are_stored(data):
    assert all_doubles(memoryview(data), 1) == VALUES


def test_repeated_doubles_of_another_field_are_not_taken_for_them_nor_other_types():
    assert all_doubles(memoryview(put_doubles(2, VALUES)), 1) == ()
    with pytest.raises(SourceError, match="doubles were expected"):
        all_doubles(memoryview(put_varint(1, 3)), 1)


@pytest.mark.parametrize(
    ("data", "whole", "item", "cause", "frames"),
    [
        (GOLDEN[:-1], 0, "record 0", CUT_OFF, 1),
        (GOLDEN[:5], 0, "record 0", CUT_OFF, 1),
        (GOLDEN + GOLDEN[:14], 1, "record 1", CUT_OFF, 1),
        (GOLDEN[:13] + b"X" + GOLDEN[14:] + GOLDEN, 1, "record 0", DIFFERS, 1),  # the next one is found
        (b"\1" + GOLDEN[1:], 0, "record 0 and what follows", NO_LENGTH, 0),
        (GOLDEN * 3 + b"\1" + GOLDEN[1:] + GOLDEN, 3, "record 3 and what follows, about 2 frames", NO_LENGTH, 2),
        (b"not a TFRecord at all", 0, "record 0 and what follows", NO_LENGTH, 0),
        (HUGE + struct.pack("<I", masked_crc(HUGE)), 0, "record 0 and what follows", NO_LENGTH, 0),
    ],
)  # fmt: skip
def test_damaged_records_are_named_and_the_others_read(data, whole, item, cause, frames):
    found = list(read_records(io.BytesIO(data), "file.tfrecord"))
    assert [part for part in found if isinstance(part, bytes)] == [b"gwm"] * whole
    (damaged,) = (part for part in found if not isinstance(part, bytes))
    assert damaged == Damaged(f"file.tfrecord: {item}", cause, frames)


def test_fields_come_back():
    data = put_varint(1, 300) + put_varint(2, -5) + put_bytes(3, b"abc") + put_doubles(4, [0.5, -2])
    found = list(fields(memoryview(data)))
    assert [(number, kind) for number, kind, _ in found] == [(1, 0), (2, 0), (3, 2), (4, 1), (4, 1)]
    assert (found[0][2], signed(found[1][2]), bytes(found[2][2])) == (300, -5, b"abc")


def test_a_damaged_frame_is_an_error_and_never_a_hang():
    """Random damage of a real message: decoded or refused, nothing else."""
    rng = random.Random(0)
    data = v1.encode_frame(frame(0))
    refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        damaged = bytes(damaged[: rng.randint(1, len(damaged))])
        (found,) = v1.read_frames(io.BytesIO(frame_record(damaged)), "x")
        refused += isinstance(found, Damaged)
    assert refused > 200


def test_version_1_comes_back():
    records = b"".join(frame_record(v1.encode_frame(frame(i))) for i in range(3))
    for i, found in enumerate(v1.read_frames(io.BytesIO(records), "x")):
        same(frame(i), found)
    assert i == 2


def test_packed_doubles_and_unknown_fields_are_read():
    packed = put_bytes(1, np.arange(16, dtype="<f8").tobytes())
    data = v1.encode_frame(frame(0)) + put_bytes(3, packed) + put_bytes(5, b"lidar") + put_varint(1000, 7)
    (found,) = v1.read_frames(io.BytesIO(frame_record(data)), "x")
    assert np.array_equal(found.pose, np.arange(16).reshape(4, 4))


def test_version_2_comes_back_and_says_the_same_as_version_1():
    files = Files()
    v2.write_segment(files.write, (frame(i, ("front", "front_left")[: 2 - i % 2]) for i in range(5)))
    for i, found in enumerate(v2.read_frames(files.read, "x")):
        same(frame(i, ("front", "front_left")[: 2 - i % 2]), found)
    assert i == 4


def test_version_2_in_any_order_and_with_poses_in_single_precision():
    files = Files()
    v2.write_segment(files.write, (frame(i) for i in range(30)))
    images = pq.read_table(io.BytesIO(files.data["camera_image"]))
    order = np.random.default_rng(0).permutation(images.num_rows)
    shuffled, poses = io.BytesIO(), io.BytesIO()
    pq.write_table(images.take(order), shuffled)
    table = pq.read_table(io.BytesIO(files.data["vehicle_pose"]))
    single = pa.array(table[v2.POSE].to_pylist(), pa.list_(pa.float32()))
    pq.write_table(
        table.set_column(table.schema.get_field_index(v2.POSE), v2.POSE, single).take(np.arange(30)[::-1]), poses
    )
    files.data |= {"camera_image": shuffled.getvalue(), "vehicle_pose": poses.getvalue()}
    found = list(v2.read_frames(files.read, "x"))
    assert [f.micros for f in found] == [frame(i).micros for i in range(30)]
    assert all(f.images["side_left"].jpeg == f"side_left{i}".encode() for i, f in enumerate(found))
    assert np.allclose(found[7].pose, frame(7).pose, atol=1e-6)


def without(data: bytes, column: str) -> bytes:
    """The Parquet file `data` with nulls in the column."""
    table, out = pq.read_table(io.BytesIO(data)), io.BytesIO()
    at = table.schema.get_field_index(column)
    pq.write_table(table.set_column(at, column, pa.nulls(len(table), table.schema.field(at).type)), out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("component", "column"),
    [
        ("camera_calibration", v2.INTRINSIC[0]), ("camera_calibration", v2.CAMERA), ("vehicle_pose", v2.POSE),
        ("camera_image", v2.MICROS),
    ],
)  # fmt: skip
def test_nulls_that_are_needed_are_damage(component, column):
    files = Files()
    v2.write_segment(files.write, (frame(i) for i in range(3)))
    files.data[component] = without(files.data[component], column)
    (found,) = v2.read_frames(files.read, "segment-x")
    assert (found.cause, found.frames) == ("its Parquet files cannot be read", 3 * (component != "vehicle_pose"))


def test_moments_of_one_component_alone_are_not_lost():
    """As in version 1: a frame without images; and one without a pose is damage."""
    files, fewer = Files(), Files()
    v2.write_segment(files.write, (frame(i) for i in range(6)))
    v2.write_segment(fewer.write, (frame(i) for i in range(4)))
    found = list(v2.read_frames(Files(files.data | {"camera_image": fewer.data["camera_image"]}).read, "x"))
    assert [(f.micros, len(f.images)) for f in found] == [(frame(i).micros, 3 * (i < 4)) for i in range(6)]
    found = list(v2.read_frames(Files(files.data | {"vehicle_pose": fewer.data["vehicle_pose"]}).read, "x"))
    assert [f.micros for f in found[:4]] == [frame(i).micros for i in range(4)]
    assert found[4:] == [Damaged(f"x: at {frame(i).micros} us", "a frame has no vehicle pose", 1) for i in (4, 5)]


def test_an_image_that_is_null_has_no_bytes():
    files = Files()
    v2.write_segment(files.write, (frame(i) for i in range(3)))
    files.data["camera_image"] = without(files.data["camera_image"], f"{v2.IMAGE}.image")
    for found in v2.read_frames(files.read, "segment-x"):
        assert {image.jpeg for image in found.images.values()} == {b""}


@pytest.mark.parametrize("component", v2.COMPONENTS)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "column"])
def test_damaged_components_are_said_with_all_their_frames(component, damage):
    files = Files()
    v2.write_segment(files.write, (frame(i) for i in range(3)))
    data = files.data.pop(component)
    if damage == "truncated":
        files.data[component] = data[: len(data) // 2]
    if damage == "empty":
        files.data[component] = b""
    if damage == "column":
        table, out = pq.read_table(io.BytesIO(data)), io.BytesIO()
        pq.write_table(table.drop_columns(table.column_names[-1]), out)
        files.data[component] = out.getvalue()
    (found,) = v2.read_frames(files.read, "segment-x")
    assert found.item.startswith("segment-x: after 0 frames: ")
    assert (found.cause, found.frames) == ("its Parquet files cannot be read", 3 * (component != "vehicle_pose"))
