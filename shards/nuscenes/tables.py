"""The tables of nuScenes as scenes. Each file is streamed; `sample_data` and `ego_pose` are left to `rows`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ijson
import numpy as np

from gwm.shards import SourceError
from gwm.shards.nuscenes.rows import Calibration, Rows, read_rows
from gwm.shards.nuscenes.scene import CHANNELS, LIDAR, Scene, Sensor, Shots
from gwm.shards.nuscenes.splits import OURS, split_of
from gwm.shards.nuscenes.table import WHAT_TO_DO, numbers, read_list, rotation, text, token, whole
from gwm.shards.nuscenes.track import Track
from gwm.shards.storage import AnyPath, stamp

T = TypeVar("T")
VERSIONS = "v1.0-*"


@dataclass(frozen=True)
class _Scene:
    """A row of the scene table."""

    name: str
    description: str
    log: bytes


def version_folder(folder: AnyPath, version: str | None = None) -> AnyPath:
    """The folder of the tables: v1.0-trainval, v1.0-test or v1.0-mini; of several the one with most scenes.

    Raises SourceError where there is none, or not the wanted one.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} does not exist or is no folder; {WHAT_TO_DO}")
    found = sorted((path for path in folder.iterdir() if (path / "scene.json").is_file()), key=lambda path: path.name)
    if version is not None:
        found = [path for path in found if path.name == version]
    if not found:
        raise SourceError(f"no tables in {folder / (version or VERSIONS)}; {WHAT_TO_DO}")
    return max(found, key=lambda path: int(stamp(path / "scene.json") or 0))


def read_scenes(tables: AnyPath) -> Iterator[Scene]:
    """The scenes of the version in the folder `tables`, sorted by name.

    Raises SourceError for a table that is missing or damaged, for a token that occurs twice or leads nowhere, and for
    a file outside the dataset's folder.
    """
    logs = _keyed(tables, "log", lambda row: (text(row, "location"), text(row, "date_captured")))
    scenes = _keyed(tables, "scene", _scene_row)
    sensors = _keyed(tables, "sensor", lambda row: text(row, "channel"))
    calibrations = _calibrations(tables, sensors)
    samples = _keyed(tables, "sample", lambda row: (token(row, "scene_token"), whole(row, "timestamp")))
    numbered = {scene: number for number, scene in enumerate(scenes)}
    for sample, (scene, _) in samples.items():
        if scene not in numbered:
            raise _nowhere(tables, "sample", sample, "scene", scene)
    belongs = {sample: numbered[scene] for sample, (scene, _) in samples.items()}
    rows = read_rows(tables, belongs, calibrations)
    moments: list[list[tuple[int, bytes]]] = [[] for _ in scenes]
    for sample, (scene, micros) in samples.items():
        moments[numbered[scene]].append((micros, sample))
    own = _own_splits(tables)
    for scene, row in sorted(scenes.items(), key=lambda pair: pair[1].name):
        if row.log not in logs:
            raise _nowhere(tables, "scene", scene, "log", row.log)
        times = sorted(moments[numbered[scene]])
        official = split_of(tables.name, row.name)
        sensors_here = _sensors(tables, row.name, rows.of_scene(numbered[scene]), calibrations)
        yield Scene(
            row.name,
            scene.decode(),
            row.description,
            *logs[row.log],
            split=official or own.get(row.name, "train"),
            split_from="official" if official else "splits.json" if row.name in own else "",
            samples=np.array([sample for _, sample in times], np.bytes_),
            key_micros=np.array([micros for micros, _ in times], np.int64),
            cameras={view: sensors_here[channel] for channel, view in CHANNELS.items() if channel in sensors_here},
            lidar=sensors_here.get(LIDAR),
        )


def _keyed(tables: AnyPath, table: str, make: Callable[[Any], T]) -> dict[bytes, T]:
    """A table by token."""
    path, found = tables / f"{table}.json", dict[bytes, T]()
    for name, value in read_list(path, lambda row: (token(row), make(row))):
        if name in found:
            raise SourceError(f"{path}: the token {name.decode()} occurs more than once; download the tables again")
        found[name] = value
    return found


def _scene_row(row: Any) -> _Scene:
    name = text(row, "name")
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():  # it becomes part of file names
        raise ValueError(f"name is {name!r}; a scene's has letters, digits, - and _ only")
    return _Scene(name, text(row, "description"), token(row, "log_token"))


def _calibrations(tables: AnyPath, sensors: Mapping[bytes, str]) -> dict[bytes, Calibration]:
    """Those of the cameras and the lidar, by token."""

    def make(row: Any) -> Calibration | None:
        sensor = token(row, "sensor_token")
        if sensor not in sensors:
            raise ValueError(f"sensor_token {sensor.decode()} is not in the sensor table")
        channel = sensors[sensor]
        if channel not in CHANNELS and channel != LIDAR:
            return None
        shape = (3, 3) if channel in CHANNELS else (0,)
        intrinsics = numbers(row, "camera_intrinsic", *shape).reshape(shape[0], shape[0])
        return Calibration(channel, numbers(row, "translation", 3), rotation(row), intrinsics)

    return {name: found for name, found in _keyed(tables, "calibrated_sensor", make).items() if found is not None}


def _own_splits(tables: AnyPath) -> dict[str, str]:
    """The split of each scene in `splits.json`, which a dataset of one's own may have beside its tables."""
    path = tables / "splits.json"
    found: dict[str, str] = {}
    if not path.is_file():
        return found
    try:
        with path.open("rb") as stream:
            for split, names in ijson.kvitems(stream, ""):
                if split in OURS:
                    found |= {name: OURS[split] for name in names if isinstance(name, str)}
    except (OSError, ijson.JSONError, ValueError, TypeError) as error:
        raise SourceError(f"{path} is no JSON object of lists of scene names: {error}") from error
    return found


def _sensors(
    tables: AnyPath, scene: str, rows: Iterable[tuple[str, Rows]], calibrations: Mapping[bytes, Calibration]
) -> dict[str, Sensor]:
    """The sensors of one scene, by channel."""
    found = {}
    for channel, part in rows:
        constant = (part.calibrations, part.width, part.height)
        if any((column != column[0]).any() for column in constant):
            raise SourceError(f"{tables}: {channel} of {scene} changes its calibration or size in the middle")
        known = calibrations[bytes(part.calibrations[0])]
        found[channel] = Sensor(
            channel, known.translation, known.rotation, known.intrinsics, int(part.width[0]), int(part.height[0]),
            Shots(Track(part.micros, part.translation, part.rotation), part.files, part.tokens, part.samples, part.key),
        )  # fmt: skip
    return found


def _nowhere(tables: AnyPath, table: str, row: bytes, other: str, name: bytes) -> SourceError:
    return SourceError(
        f"{tables / table}.json: row {row.decode()} names {name.decode()}, which is not in the {other} table"
    )
