"""The index of a dataset: `index.parquet` (one row per sample) and `dataset.json` (what it is, and every shard's hash).

`dataset.json` is written last: a folder without it is no dataset. Any Parquet reader can read the index; offsets and
sizes are bytes in the sample's tar, so a JPEG is one seek and one read away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gwm.shards import ShardError
from gwm.shards.sample import SPLITS, frame_name, json_name
from gwm.shards.schema import FRAME_RATE, SCHEMA_VERSION
from gwm.shards.storage import AnyPath

DATASET_FILE = "dataset.json"
INDEX_FILE = "index.parquet"
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # of the sample's first tar header
        ("size", pa.int64()),  # headers, data and padding of all its members
        ("json_offset", pa.int64()),
        ("json_size", pa.int64()),
        ("json_crc32", pa.uint32()),
        ("frames", pa.int32()),
        ("views", pa.list_(pa.string())),
        ("widths", pa.list_(pa.int32())),  # of the frames of each view, in pixels
        ("heights", pa.list_(pa.int32())),
        ("scene", pa.string()),
        ("split", pa.string()),
        ("origin", pa.string()),
        ("has_pose", pa.bool_()),
        ("has_speed", pa.bool_()),
        ("has_steering", pa.bool_()),
        ("has_cameras", pa.bool_()),
        ("text", pa.string()),
        ("captions", pa.int32()),  # how many: they are in the JSON
        ("fit", pa.string()),  # "crop" or "letterbox", see gwm.shards.images.fit; "" for frames as they were
        ("frame_offsets", pa.list_(pa.int64())),  # view-major: all frames of views[0], then of views[1], ...
        ("frame_sizes", pa.list_(pa.int32())),
        ("frame_crc32", pa.list_(pa.uint32())),
    ]
)


@dataclass(frozen=True)
class Member:
    """One file inside a tar."""

    name: str
    offset: int  # of its data
    size: int
    crc32: int


@dataclass(frozen=True)
class Row:
    """One sample in the index; the columns of INDEX_SCHEMA."""

    key: str
    shard: str
    offset: int
    size: int
    json_offset: int
    json_size: int
    json_crc32: int
    frames: int
    views: tuple[str, ...]
    widths: tuple[int, ...]
    heights: tuple[int, ...]
    scene: str
    split: str
    origin: str
    has_pose: bool
    has_speed: bool
    has_steering: bool
    has_cameras: bool
    text: str
    captions: int
    fit: str
    frame_offsets: npt.NDArray[np.int64]  # (K * T,)
    frame_sizes: npt.NDArray[np.int32]  # (K * T,)
    frame_crc32: npt.NDArray[np.uint32]  # (K * T,)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of the frames of each view."""
        return tuple(zip(self.widths, self.heights, strict=True))

    def members(self) -> list[Member]:
        """The JSON and every JPEG, in the order they lie in the tar."""
        found = [Member(json_name(self.key), self.json_offset, self.json_size, self.json_crc32)]
        names = [frame_name(self.key, view, i, self.frames) for view in self.views for i in range(self.frames)]
        columns = zip(names, self.frame_offsets, self.frame_sizes, self.frame_crc32, strict=True)
        found += [Member(name, int(offset), int(size), int(crc)) for name, offset, size, crc in columns]
        return sorted(found, key=lambda member: member.offset)


@dataclass(frozen=True)
class ShardFile:
    """One tar of a dataset."""

    name: str
    bytes: int
    sha256: str
    samples: int


@dataclass(frozen=True)
class Dataset:
    """An opened dataset: `dataset.json` as fields, `index.parquet` as a table. Holds no open file; can be pickled."""

    path: AnyPath
    source: str
    settings: Mapping[str, Any]
    gwm_version: str
    views: tuple[str, ...]  # of all samples together
    sizes: Mapping[str, tuple[int, int]]  # view -> (width, height) of its frames
    counts: Mapping[str, Any]  # see `count`
    shards: tuple[ShardFile, ...]
    index: Mapping[str, Any]  # name, bytes, sha256 of the index
    skipped: tuple[Mapping[str, Any], ...]  # item, cause, frames
    table: pa.Table

    def __len__(self) -> int:
        """Number of samples."""
        return int(self.table.num_rows)

    def row(self, i: int) -> Row:
        """Row `i` of the index, 0 <= i < len(self)."""
        assert 0 <= i < len(self), f"row {i} of {len(self)}"
        values = {name: self.table.column(name)[i] for name in INDEX_SCHEMA.names}
        lists = {name: values.pop(name).values.to_numpy() for name in ("frame_offsets", "frame_sizes", "frame_crc32")}
        short: dict[str, Any] = {name: tuple(values.pop(name).as_py()) for name in ("views", "widths", "heights")}
        return Row(**{name: value.as_py() for name, value in values.items()}, **short, **lists)


def open_dataset(path: AnyPath) -> Dataset:
    """Open the dataset in folder `path`.

    Raises ShardError where there is no dataset, it is of another schema version, its index is damaged, or a shard is
    missing or has another size. The contents of the shards are not read: that is `verify`.
    """
    dataset = read_index(path)
    for shard in dataset.shards:
        file = path / shard.name
        if not file.is_file():
            raise ShardError(f"{path}: shard {shard.name} is missing; copy it again or make the dataset anew")
        if file.stat().st_size != shard.bytes:
            raise ShardError(
                f"{path}: shard {shard.name} has {file.stat().st_size} bytes instead of {shard.bytes}; "
                "copy it again or make the dataset anew"
            )
    return dataset


def read_index(path: AnyPath) -> Dataset:
    """Read `dataset.json` and `index.parquet` without looking for the shards. Raises ShardError."""
    fields = read_dataset_file(path)
    try:
        with (path / INDEX_FILE).open("rb") as file:
            table = pq.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{path}: {INDEX_FILE} cannot be read ({error}); copy it again") from error
    if not table.schema.equals(INDEX_SCHEMA):
        raise ShardError(f"{path}: {INDEX_FILE} has other columns than gwm's; make the dataset anew")
    try:
        return Dataset(
            path=path,
            source=fields["source"],
            settings=fields["settings"],
            gwm_version=fields["gwm_version"],
            views=tuple(fields["views"]),
            sizes={view: (int(size[0]), int(size[1])) for view, size in fields["sizes"].items()},
            counts=fields["counts"],
            shards=tuple(ShardFile(**shard) for shard in fields["shards"]),
            index=dict(fields["index"]),
            skipped=tuple(fields["skipped"]),
            table=table.combine_chunks(),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ShardError(
            f"{path}: {DATASET_FILE} is damaged ({type(error).__name__}: {error}); copy it again"
        ) from error


def read_dataset_file(path: AnyPath) -> dict[str, Any]:
    """The fields of `dataset.json` in folder `path`. Raises ShardError for no dataset or another schema version."""
    if not path.exists():
        raise ShardError(f"no dataset at {path}: the path does not exist; make one with gwm preprocess … -o {path}")
    file = path / DATASET_FILE
    if not file.is_file():
        raise ShardError(f"{path} is no dataset: it has no {DATASET_FILE}; make one with gwm preprocess … -o {path}")
    try:
        fields = json.loads(file.read_bytes())
        version = fields["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{file} cannot be read ({type(error).__name__}: {error}); copy it again") from error
    if isinstance(version, str) and version.startswith("latents"):
        raise ShardError(f"{path} holds latents; give the folder of their images, {path.parent}")
    if version != SCHEMA_VERSION:
        raise ShardError(
            f"{path} has schema version {version}, this gwm reads {SCHEMA_VERSION}; "
            "make the dataset anew or use the gwm that made it"
        )
    return dict(fields)


def count(table: pa.Table) -> dict[str, Any]:
    """Counts of an index: samples, frames (time steps), seconds and scenes, in all and of each split."""
    split = np.asarray(table.column("split").to_pylist())
    scene = np.asarray(table.column("scene").to_pylist())
    frames = table.column("frames").to_numpy()

    def counted(at: npt.NDArray[np.bool_]) -> dict[str, Any]:
        total = int(frames[at].sum())
        return {
            "samples": int(at.sum()),
            "frames": total,
            "seconds": total / FRAME_RATE,
            "scenes": len(np.unique(scene[at])),
        }

    splits = {name: counted(split == name) for name in SPLITS if (split == name).any()}
    return {**counted(np.ones(len(frames), bool)), "splits": splits}
