"""Version 2: one Parquet file for each component of a segment, <root>/<split>/<component>/<segment>.parquet.

Rows may lie in any order; poses may be stored as float or double, in lists of fixed size or not. Only the wanted
columns are read, and ten images at a time are made Python's; but a Parquet page is held as a whole, twice while it is
decoded, and where its writer began no new row group that is the segment: 0.7 GB for Waymo's 0.33.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gwm.shards import SourceError
from gwm.shards.schema import Damaged, Floats
from gwm.shards.waymo.frame import CAMERA_NAMES, VIEWS, Calibration, Frame, Image

COMPONENTS = ("camera_image", "camera_calibration", "vehicle_pose", "stats")
SEGMENT, MICROS, CAMERA = "key.segment_context_name", "key.frame_timestamp_micros", "key.camera_name"
IMAGE, CALIBRATION = "[CameraImageComponent]", "[CameraCalibrationComponent]"
POSE, STATS = "[VehiclePoseComponent].world_from_vehicle.transform", "[StatsComponent]"
VELOCITY = [f"{IMAGE}.velocity.{kind}_velocity.{axis}" for kind in ("linear", "angular") for axis in "xyz"]
INTRINSIC = [f"{CALIBRATION}.intrinsic.{name}" for name in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")]
BATCH = 10  # images read at once, about 5 MB
BUFFER = 1 << 20  # bytes

Open = Callable[[str], BinaryIO]


def read_frames(open_component: Open, name: str) -> Iterator[Frame | Damaged]:
    """The frames of one segment in time order; `open_component` opens the file of one of COMPONENTS.

    A `Damaged` stands for a frame without a vehicle pose, and a last one for all that cannot be read (any further):
    a file or a column of it is missing or damaged, or a value that is needed.
    """
    read = 0
    poses: dict[int, Floats] = {}
    try:
        rows = _table(open_component, "vehicle_pose", [SEGMENT, MICROS, POSE])
        poses |= {row[MICROS]: _transform(row[POSE]) for row in rows}
        calibrations = tuple(_calibrations(_table(open_component, "camera_calibration")))
        stats = _table(open_component, "stats", [f"{STATS}.{x}" for x in ("time_of_day", "location", "weather")])
        described = tuple(str(value or "") for value in stats[0].values()) if stats else ("", "", "")
        for micros, images in _images(open_component, poses):
            if micros in poses:
                read += 1
                yield Frame(str(rows[0][SEGMENT]), micros, poses[micros], images, calibrations, *described)
            else:
                yield Damaged(f"{name}: at {micros} us", "a frame has no vehicle pose", 1)
    except (SourceError, OSError, LookupError, TypeError, ValueError, pa.ArrowException) as error:  # nulls are possible
        yield Damaged(f"{name}: after {read} frames: {error}", "its Parquet files cannot be read", len(poses) - read)


def _table(open_component: Open, component: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    with open_component(component) as file:
        rows: list[dict[str, Any]] = pq.read_table(file, columns=columns).to_pylist()
    return rows


def _transform(values: Sequence[float] | None) -> Floats:
    if values is None or len(values) != 16:
        raise SourceError(f"a transform has {len(values or ())} values instead of 16")
    return np.array(values, np.float64).reshape(4, 4)


def _velocity(values: Sequence[float | None]) -> tuple[float, ...] | None:
    return None if values[0] is None else tuple(float(value or 0) for value in values)


def _calibrations(rows: list[dict[str, Any]]) -> Iterator[Calibration]:
    for row in sorted(rows, key=lambda row: int(row[CAMERA])):
        if row[CAMERA] in VIEWS:
            yield Calibration(
                VIEWS[row[CAMERA]], row[f"{CALIBRATION}.width"], row[f"{CALIBRATION}.height"],
                tuple(float(row[column]) for column in INTRINSIC),
                _transform(row[f"{CALIBRATION}.extrinsic.transform"]),
            )  # fmt: skip


def _images(open_component: Open, moments: Iterable[int]) -> Iterator[tuple[int, dict[str, Image]]]:
    """The images of one moment after another, of these `moments` and all others. Those that come out of order wait."""
    columns = [MICROS, CAMERA, f"{IMAGE}.image", f"{IMAGE}.pose.transform", *VELOCITY, f"{IMAGE}.pose_timestamp"]
    with open_component("camera_image") as file:
        table = pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
        left = Counter(table.read([MICROS]).column(MICROS).to_pylist())
        rows: Iterator[dict[str, Any]] = (
            row for batch in table.iter_batches(BATCH, columns=columns) for row in batch.to_pylist()
        )
        waiting: dict[int, dict[str, Image]] = defaultdict(dict)
        for wanted in sorted({*left, *moments}):
            while left[wanted]:
                row = next(rows, {})  # KeyError where there are fewer than the column of times says
                micros, view = row[MICROS], VIEWS.get(row[CAMERA])
                left[micros] -= 1
                if view in waiting[micros]:
                    raise SourceError(f"the frame at {micros} has two images of camera {view}")
                if view is not None:
                    waiting[micros][view] = Image(
                        bytes(row[f"{IMAGE}.image"] or b""), _transform(row[f"{IMAGE}.pose.transform"]),
                        _velocity([row[column] for column in VELOCITY]),
                        float(row[f"{IMAGE}.pose_timestamp"] or 0),
                    )  # fmt: skip
            yield wanted, waiting.pop(wanted, {})


def write_segment(write_component: Open, frames: Iterator[Frame]) -> None:
    """Write a segment of at least one frame as the four components; `write_component` opens the file of one of them."""
    matrix = pa.list_(pa.float64(), 16)
    key, moment = [(SEGMENT, pa.string())], (MICROS, pa.int64())
    numbers = [(column, pa.float32()) for column in VELOCITY[:3]] + [(column, pa.float64()) for column in VELOCITY[3:]]
    image_schema = pa.schema(
        [*key, moment, (CAMERA, pa.int8()), (f"{IMAGE}.image", pa.binary()), (f"{IMAGE}.pose.transform", matrix),
         *numbers, (f"{IMAGE}.pose_timestamp", pa.float64())]
    )  # fmt: skip
    poses, first = [], None
    with (
        write_component("camera_image") as file,
        pq.ParquetWriter(file, image_schema, compression="none") as images,
    ):
        for frame in frames:
            first = first or frame
            base = {SEGMENT: frame.segment, MICROS: frame.micros}
            poses.append({**base, POSE: frame.pose.ravel().tolist()})
            rows = [
                {**base, CAMERA: CAMERA_NAMES[view], f"{IMAGE}.image": x.jpeg,
                 f"{IMAGE}.pose.transform": x.pose.ravel(),
                 **dict(zip(VELOCITY, x.velocity or [None] * 6, strict=True)),
                 f"{IMAGE}.pose_timestamp": x.pose_timestamp}
                for view, x in frame.images.items()
            ]  # fmt: skip
            images.write_table(pa.Table.from_pylist(rows, schema=image_schema))
    assert first is not None, "a segment without frames"
    _write(write_component, "vehicle_pose", pa.schema([*key, moment, (POSE, matrix)]), poses)
    calibrations = [
        {SEGMENT: first.segment, CAMERA: CAMERA_NAMES[c.view], **dict(zip(INTRINSIC, c.intrinsic, strict=True)),
         f"{CALIBRATION}.extrinsic.transform": c.extrinsic.ravel(), f"{CALIBRATION}.width": c.width,
         f"{CALIBRATION}.height": c.height}
        for c in first.calibrations
    ]  # fmt: skip
    sizes = [(f"{CALIBRATION}.width", pa.int32()), (f"{CALIBRATION}.height", pa.int32())]
    doubles = [(column, pa.float64()) for column in INTRINSIC]
    extrinsic = (f"{CALIBRATION}.extrinsic.transform", matrix)
    schema = pa.schema([*key, (CAMERA, pa.int8()), *doubles, extrinsic, *sizes])
    _write(write_component, "camera_calibration", schema, calibrations)
    texts = {"time_of_day": first.time_of_day, "location": first.location, "weather": first.weather}
    schema = pa.schema([*key, moment, *((f"{STATS}.{name}", pa.string()) for name in texts)])
    described = {f"{STATS}.{name}": value for name, value in texts.items()}
    _write(write_component, "stats", schema, [{**pose, **described} for pose in poses])


def _write(write_component: Open, component: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> None:
    with write_component(component) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="none")
