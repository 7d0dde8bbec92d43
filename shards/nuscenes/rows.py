"""The two large tables, `sample_data` and `ego_pose` (2.6 million rows each), as columns of the rows that count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gwm.shards import SourceError
from gwm.shards.nuscenes.scene import CHANNELS, LIDAR, Micros, Strings
from gwm.shards.nuscenes.table import inner_file, read_list, token, whole
from gwm.shards.schema import Floats
from gwm.shards.storage import AnyPath

BATCH = 50_000  # rows that are Python objects at a time
ORDER = (*CHANNELS, LIDAR)


@dataclass(frozen=True)
class Calibration:
    """A row of calibrated_sensor."""

    channel: str
    translation: Floats  # (3,) m, sensor -> ego
    rotation: Floats  # (4,) w, x, y, z
    intrinsics: Floats  # (3, 3) pixels, (0, 0) for the lidar


@dataclass(frozen=True, eq=False)
class Rows:
    """N images, and key frames of the lidar, in the order of scenes, channels and time; with their poses."""

    scene: npt.NDArray[np.int32]  # (N,)
    channel: npt.NDArray[np.int8]  # (N,) number in ORDER
    micros: Micros
    key: npt.NDArray[np.bool_]
    width: npt.NDArray[np.int32]
    height: npt.NDArray[np.int32]
    tokens: Strings
    samples: Strings
    calibrations: Strings
    files: Strings
    ego: Strings  # tokens of ego_pose
    translation: Floats  # (N, 3) of the ego pose
    rotation: Floats  # (N, 4)

    def take(self, which: Any) -> Rows:
        """Some of the rows, copied."""
        return Rows(**{name: column[which].copy() for name, column in vars(self).items()})

    def of_scene(self, number: int) -> Iterator[tuple[str, Rows]]:
        """The rows of each channel of a scene."""
        first, last = np.searchsorted(self.scene, [number, number + 1])
        channels = self.channel[first:last]
        for code in np.unique(channels):
            begin, end = np.searchsorted(channels, [code, code + 1])
            yield ORDER[code], self.take(slice(first + begin, first + end))


class _Row(NamedTuple):
    """A row of sample_data, in the order of the columns of `Rows`."""

    scene: int
    channel: int
    micros: int
    key: bool
    width: int
    height: int
    token: bytes
    sample: bytes
    calibration: bytes
    file: bytes
    ego: bytes


def read_rows(tables: AnyPath, scene_of: Mapping[bytes, int], calibrations: Mapping[bytes, Calibration]) -> Rows:
    """The rows of the sensors in `calibrations`; `scene_of` is each sample's scene.

    Raises SourceError for a damaged table, and for a token that occurs twice or leads nowhere.
    """
    path = tables / "sample_data.json"

    def make(row: Any) -> _Row | None:
        known = calibrations.get(token(row, "calibrated_sensor_token"))
        key = row["is_key_frame"]
        if known is None or (known.channel == LIDAR and not key):
            return None
        if type(key) is not bool:
            raise TypeError(f"is_key_frame is {key!r}")
        sample = token(row, "sample_token")
        if sample not in scene_of:
            raise ValueError(f"sample_token {sample.decode()} is not in the sample table")
        return _Row(
            scene_of[sample], ORDER.index(known.channel), whole(row, "timestamp"), key, whole(row, "width"),
            whole(row, "height"), token(row), sample, token(row, "calibrated_sensor_token"), inner_file(row),
            token(row, "ego_pose_token"),
        )  # fmt: skip

    wanted = (row for row in read_list(path, make) if row is not None)
    batches = list(_batches(wanted))
    if not batches:
        raise SourceError(f"{path} has no row of a camera")
    columns: list[Any] = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    count = len(columns[0])
    columns += [np.zeros((count, 0))] * 2  # poses follow
    rows = Rows(*columns)
    rows = rows.take(np.lexsort((rows.micros, rows.channel, rows.scene)))
    twice = _repeated(rows.tokens)
    if twice:
        raise SourceError(f"{path}: the token {twice} occurs more than once; download the tables again")
    return _with_poses(tables, rows)


def _batches(rows: Iterator[_Row]) -> Iterator[list[npt.NDArray[Any]]]:
    kinds = (np.int32, np.int8, np.int64, np.bool_, np.int32, np.int32, *[np.bytes_] * 5)
    while some := list(islice(rows, BATCH)):
        yield [np.array(column, kind) for column, kind in zip(zip(*some, strict=True), kinds, strict=True)]


def _with_poses(tables: AnyPath, rows: Rows) -> Rows:
    """The rows with their ego poses, looked up in a batch at a time."""
    path = tables / "ego_pose.json"
    wanted, position = np.unique(rows.ego, return_inverse=True)
    poses, seen = np.zeros((len(wanted), 7)), np.zeros(len(wanted), np.int64)

    def make(row: Any) -> tuple[bytes, list[float]]:
        translation, rotation = row["translation"], row["rotation"]
        if (len(translation), len(rotation)) != (3, 4):
            raise ValueError(
                f"translation and rotation have {len(translation)} and {len(rotation)} numbers, not 3 and 4"
            )
        return token(row), [*map(float, translation), *map(float, rotation)]

    found = read_list(path, make)
    while some := list(islice(found, BATCH)):
        tokens = np.array([name for name, _ in some], np.bytes_)
        at = np.minimum(np.searchsorted(wanted, tokens), len(wanted) - 1)
        match = wanted[at] == tokens
        poses[at[match]] = np.array([numbers for _, numbers in some])[match]
        np.add.at(seen, at[match], 1)
    length = np.linalg.norm(poses[:, 3:], axis=1)
    odd = ~np.isfinite(poses).all(axis=1) | (np.abs(length - 1) > 0.1)
    for wrong, words in (
        (seen > 1, "occurs more than once"),
        (seen == 0, "is named in sample_data but missing"),
        (odd, "has a pose that is no finite translation and unit quaternion"),
    ):
        if wrong.any():
            name = bytes(wanted[np.argmax(wrong)]).decode()
            raise SourceError(f"{path}: the token {name} {words}; download the tables again")
    return replace(rows, translation=poses[position, :3], rotation=(poses[:, 3:] / length[:, None])[position])


def _repeated(tokens: Strings) -> str:
    """A token that occurs more than once; "" where none does."""
    ordered = np.sort(tokens)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    return bytes(again[0]).decode() if len(again) else ""
