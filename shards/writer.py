"""Writing a dataset: every shard with its record, then from the records `index.parquet` and last `dataset.json`.

The bytes of a shard are those of `webdataset.TarWriter(mtime=0)`: the same chunks give the same files on every run. A
record, `jobs/NNNNNN.parquet`, holds the shard's rows of the index, its hash, what was left out of it, and the times of
damaged files; a shard without one is not finished.
"""

from __future__ import annotations

import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.json import ParseOptions, ReadOptions, read_json

from gwm.shards import ShardError
from gwm.shards.files import replacing
from gwm.shards.images import Size, jpeg_size
from gwm.shards.index import INDEX_SCHEMA, Row, ShardFile
from gwm.shards.plan import Job
from gwm.shards.sample import Description, describe, encode_description, faults, frame_name, json_name
from gwm.shards.schema import Chunk, Skipped
from gwm.shards.storage import AnyPath
from gwm.shards.tar import OpenShard

META = b"gwm"  # the key of a record's Parquet metadata


@dataclass(frozen=True)
class Record:
    """A finished job: its shard and what was left out. The rows stay in the file."""

    job: Job
    shard: ShardFile
    skipped: tuple[Skipped, ...]
    damaged: Mapping[str, str]  # item of which something was damaged -> `storage.state` of its files then


def record_file(out: AnyPath, job: Job) -> AnyPath:
    """Where the record of a job lies."""
    return out / "jobs" / f"{job.number:06d}.parquet"


def read_record(out: AnyPath, job: Job) -> Record | None:
    """The record of `job`, or None where it is not finished, is damaged, or was made from other bytes."""
    try:
        with record_file(out, job).open("rb") as file:
            fields = json.loads(pq.read_schema(file).metadata[META])
        shard = ShardFile(**fields["shard"])
        if fields["stamps"] != dict(job.stamps) or (out / shard.name).stat().st_size != shard.bytes:
            return None
        skipped = tuple(Skipped(**skipped) for skipped in fields["skipped"])
        return Record(job, shard, skipped, dict(fields.get("damaged", {})))  # those of latents have none
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def read_rows(out: AnyPath, job: Job) -> pa.Table:
    """The rows of a finished job, as in the index. Raises ShardError where they cannot be read."""
    file = record_file(out, job)
    try:
        with file.open("rb") as f:
            return pq.read_table(f, page_checksum_verification=True).replace_schema_metadata(None)
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{file} is damaged ({error}); delete it and run the same command again") from error


class SampleError(ShardError):
    """A chunk that is not consistent; the shard can go on without it."""


class ShardWriter:
    """Writes one shard into the folder `out`; use it in a `with` statement.

    On a clean exit the shard and then its record are there; on an exception neither is. Adding and leaving raise
    ShardError for what cannot be written.
    """

    def __init__(self, out: AnyPath, job: Job, source: str) -> None:
        """`source` is the first part of the shard's name."""
        assert re.fullmatch(r"[A-Za-z0-9_-]+", source), f"source name {source!r}"
        self.out, self.job = out, job
        self._path = out / job.shard(source)
        self._rows: list[Row] = []
        self._skipped: list[Skipped] = []
        self.damaged: dict[str, str] = {}  # see `Record`
        self._keys: set[str] = set()
        self._sizes: dict[str, Size] = {}

    def __enter__(self) -> ShardWriter:
        with writing(self.out):
            self._shard = OpenShard(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(OSError):  # closing writes what was buffered, and the disk may be full
                self._shard.abandon(error)
            return
        with writing(self.out):
            shard = self._shard.close()
            fields = {
                "stamps": dict(self.job.stamps), "shard": vars(shard),
                "skipped": [vars(skipped) for skipped in self._skipped], "damaged": self.damaged,
            }  # fmt: skip
            meta = {META: json.dumps(fields, ensure_ascii=False).encode()}
            table = _table(self._rows).replace_schema_metadata(meta)
            with replacing(record_file(self.out, self.job)) as temporary:
                pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def add(self, chunk: Chunk) -> None:
        """Store one sample.

        Raises SampleError, before a byte of it is written, for a chunk that is not consistent (see `sample.faults`),
        for frames of a view that are no JPEGs of one size, and for a key that was used before.
        """
        try:
            description, sizes = self._checked(chunk)
            members = _members(chunk, description)
        except ShardError as error:
            raise SampleError(str(error)) from error
        with writing(self.out):
            start = self._shard.bytes
            offsets = {name: self._shard.append(name, data) for name, data in members.items()}
        self._shard.samples += 1
        span = (start, self._shard.bytes - start)
        self._rows.append(_row(chunk.key, self._path.name, span, description, sizes, members, offsets))
        self._keys.add(chunk.key)
        self._sizes |= sizes

    def skip(self, skipped: Skipped) -> None:
        """Record what was left out and why. Causes are counted in `dataset.json`: keep numbers out of them."""
        self._skipped.append(skipped)

    def _checked(self, chunk: Chunk) -> tuple[Description, dict[str, Size]]:
        """The chunk's description and frame size of each view, or ShardError with all that is wrong."""
        description = describe(chunk)
        found = faults(chunk.key, description)
        if chunk.key in self._keys:
            found.append("this key was used before")
        lengths = {view: len(chunk.frames[view]) for view in description.views}
        if set(lengths.values()) != {len(description.timestamps)}:
            found.append(f"{len(description.timestamps)} timestamps, but frames {lengths}")
        if found:
            raise ShardError(f"sample {chunk.key!r} of {chunk.origin}: {'; '.join(found)}")
        cameras = {camera.view: {(camera.width, camera.height)} for camera in description.cameras}
        sizes = {}
        for view in description.views:
            seen = {_jpeg_size(chunk, view, i) for i in range(lengths[view])}
            sizes[view] = self._sizes.get(view, min(seen))
            if seen | cameras.get(view, set()) != {sizes[view]}:
                raise ShardError(
                    f"sample {chunk.key!r} of {chunk.origin}: {view} frames of {_listed(seen)} and camera of "
                    f"{_listed(cameras.get(view, set()))}; the dataset has {_listed({sizes[view]})}"
                )
        return description, sizes


def write_job(
    out: AnyPath, source: str, job: Job, parts: Iterable[Chunk | Skipped], damaged: Mapping[str, str]
) -> Record:
    """Write one shard and its record. A chunk that the writer refuses is left out and reported.

    `damaged` is what `Record` says; it may come to be known while the `parts` are read.
    """
    with ShardWriter(out, job, source) as writer:
        for part in parts:
            if isinstance(part, Skipped):
                writer.skip(part)
            else:
                try:
                    writer.add(part)
                except SampleError as error:
                    writer.skip(Skipped(str(error), "sample is not consistent", part.length))
        writer.damaged |= damaged
    record = read_record(out, job)
    if record is None:
        raise ShardError(f"what was written into {out} is not there; does something else write into it?")
    return record


def _table(rows: Sequence[Row]) -> pa.Table:
    """The rows by way of JSON: from Python's objects, PyArrow imports pandas (55 MB and 0.3 s in each worker)."""
    if not rows:
        return INDEX_SCHEMA.empty_table()
    lines = "\n".join(json.dumps(vars(row), default=np.ndarray.tolist) for row in rows).encode()
    block = ReadOptions(use_threads=False, block_size=len(lines) + 1)  # a row does not go over the end of one
    return read_json(io.BytesIO(lines), block, ParseOptions(explicit_schema=INDEX_SCHEMA))


@contextmanager
def writing(out: AnyPath) -> Iterator[None]:
    """Turn what the system says of a failed write into one ShardError."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"cannot write into {out}: {error.strerror or error}; finished shards are kept, run the same command again"
        ) from error


def _members(chunk: Chunk, description: Description) -> dict[str, bytes]:
    """Name -> bytes of all members of a sample, sorted by name as TarWriter does."""
    members = {json_name(chunk.key): encode_description(description)}
    for view in description.views:
        for i, jpeg in enumerate(chunk.frames[view]):
            members[frame_name(chunk.key, view, i, chunk.length)] = jpeg
    return dict(sorted(members.items()))


def _row(
    key: str,
    shard: str,
    span: tuple[int, int],
    description: Description,
    sizes: Mapping[str, Size],
    members: Mapping[str, bytes],
    offsets: Mapping[str, int],
) -> Row:
    frames, motion, at_json = len(description.timestamps), description.motion, json_name(key)
    names = [frame_name(key, view, i, frames) for view in description.views for i in range(frames)]
    return Row(
        key=key,
        shard=shard,
        offset=span[0],
        size=span[1],
        json_offset=offsets[at_json],
        json_size=len(members[at_json]),
        json_crc32=zlib.crc32(members[at_json]),
        frames=frames,
        views=description.views,
        widths=tuple(sizes[view][0] for view in description.views),
        heights=tuple(sizes[view][1] for view in description.views),
        scene=description.scene,
        split=description.split,
        origin=description.origin,
        has_pose=motion.pose is not None,
        has_speed=motion.speed is not None,
        has_steering=motion.steering is not None,
        has_cameras=len(description.cameras) == len(description.views),
        text=description.text,
        captions=len(description.captions),
        fit=description.fit,
        frame_offsets=np.array([offsets[name] for name in names], np.int64),
        frame_sizes=np.array([len(members[name]) for name in names], np.int32),
        frame_crc32=np.array([zlib.crc32(members[name]) for name in names], np.uint32),
    )


def _jpeg_size(chunk: Chunk, view: str, frame: int) -> Size:
    try:
        return jpeg_size(chunk.frames[view][frame])
    except ShardError as error:
        raise ShardError(f"sample {chunk.key!r} of {chunk.origin}: {view} frame {frame} is no JPEG: {error}") from error


def _listed(sizes: set[Size]) -> str:
    return ", ".join(f"{width}x{height}" for width, height in sorted(sizes)) or "no size"


def named(skipped: Sequence[Skipped], most: int = 5) -> str:
    """What was left out, in one line."""
    more = f"; and {len(skipped) - most} more" if len(skipped) > most else ""
    return "; ".join(f"{skip.item}: {skip.cause}" for skip in skipped[:most]) + more
