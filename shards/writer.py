"""Writing a dataset: tar shards that plain WebDataset reads, then their index, then `dataset.json`.

The bytes are those of `webdataset.TarWriter(mtime=0)`: the same chunks give the same files on every run.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from gwm import __version__
from gwm.shards import ShardError
from gwm.shards.files import make_folder, replacing, sha256_of, write_json
from gwm.shards.index import DATASET_FILE, INDEX_FILE, INDEX_SCHEMA, Row, ShardFile, count
from gwm.shards.sample import (
    Description,
    describe,
    encode_description,
    faults,
    frame_name,
    json_name,
)
from gwm.shards.schema import FRAME_RATE, SCHEMA_VERSION, VIEWS, Chunk
from gwm.shards.tar import OpenShard

# Small enough that a few hundred scenes give every process a shard of its own, large enough for a file system to like:
# 32 chunks of 100 frames at 512x288 are about 140 MB.
SHARD_SAMPLES = 32
SHARD_BYTES = 512_000_000
INDEX_ROWS_HELD = 1024  # rows of the index kept in memory before they are written
NAMED_SKIPS = 5  # skipped items that an error message names


class DatasetWriter:
    """Writes chunks into the folder `out`; use it in a `with` statement.

    On a clean exit `index.parquet` and then `dataset.json` are written; on an exception every file it wrote is removed.
    A folder that already holds a dataset is refused; shards left there by a killed run of the same source are replaced.
    Opening a shard, adding and leaving raise ShardError for what cannot be written.
    """

    def __init__(
        self,
        out: Path,
        source: str,
        settings: Mapping[str, Any],
        max_shard_bytes: int = SHARD_BYTES,
        max_shard_samples: int = SHARD_SAMPLES,
    ) -> None:
        """`source` is the source's name and that of the shards; `settings` are JSON values. A shard is closed before
        the sample that would take it past `max_shard_bytes` or `max_shard_samples`."""
        assert re.fullmatch(r"[A-Za-z0-9_-]+", source), f"source name {source!r}"
        assert min(max_shard_bytes, max_shard_samples) > 0
        json.dumps(dict(settings), allow_nan=False)  # a value that JSON lacks shows now, not after hours of work
        self.out, self.source, self.settings = out, source, settings
        self._max_bytes, self._max_samples = max_shard_bytes, max_shard_samples
        self._created: list[Path] = []  # folders that were not there before, innermost first
        self._files = ExitStack()  # the index, until the exit
        self._shard: OpenShard | None = None
        self._shards: list[ShardFile] = []
        self._rows: list[Row] = []
        self._keys: set[str] = set()
        self._views: set[str] = set()
        self._size: tuple[int, int] | None = None  # (width, height)
        self._skipped: list[dict[str, str]] = []
        self._failure: ShardError | None = None

    def __enter__(self) -> DatasetWriter:
        """Make the folder and begin. Raises ShardError if it holds a dataset or cannot be written to."""
        with self._writing():
            if (self.out / DATASET_FILE).exists():
                raise ShardError(f"{self.out} already holds a dataset; choose another folder with -o, or delete it")
            self._created = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        try:
            make_folder(self.out)
            with self._writing():
                self._remove_leftovers()
                index = self._files.enter_context(replacing(self.out / INDEX_FILE))
                self._index = self._files.enter_context(
                    pq.ParquetWriter(index, INDEX_SCHEMA, compression="zstd", write_page_checksum=True)
                )
        except BaseException as error:  # `with` does not call __exit__ then
            self._discard(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Complete the dataset, or remove what was written. Raises ShardError when nothing was added."""
        try:
            if error is None:
                if self._failure is not None:
                    raise self._failure
                self._finish()
        except BaseException as failure:
            self._discard(failure)
            raise
        if error is not None:
            self._discard(error)

    def add(self, chunk: Chunk) -> None:
        """Store one sample.

        Raises ShardError, before a byte of it is written, for a chunk that is not consistent (see `sample.faults`), for
        frames that are no JPEGs of the dataset's size, and for a key that was used before: the caller may then skip
        it. A disk that fails raises ShardError here and at every later step.
        """
        if self._failure is not None:
            raise self._failure
        description, size = self._checked(chunk)
        members = _members(chunk, description)
        with self._writing():
            if self._shard is not None and not self._shard.has_room(members, self._max_bytes, self._max_samples):
                self._close_shard()
            if self._shard is None:
                self._shard = OpenShard(self.out / f"{self.source}-{len(self._shards):06d}.tar")
            start = self._shard.bytes
            offsets = {name: self._shard.append(name, data) for name, data in members.items()}
            self._shard.samples += 1
            span = (start, self._shard.bytes - start)
            self._rows.append(_row(chunk.key, self._shard.path.name, span, description, size, members, offsets))
            if len(self._rows) >= INDEX_ROWS_HELD:
                self._flush_rows()
        self._keys.add(chunk.key)
        self._views |= set(description.views)
        self._size = size

    def skip(self, item: str, cause: str) -> None:
        """Record that `item` was left out and why. Causes are counted in `dataset.json`: keep numbers out of them."""
        self._skipped.append({"item": item, "cause": cause})

    def _checked(self, chunk: Chunk) -> tuple[Description, tuple[int, int]]:
        """The chunk's description and frame size (width, height), or ShardError with all that is wrong with it."""
        description = describe(chunk)
        found = faults(chunk.key, description)
        if chunk.key in self._keys:
            found.append("this key was used before")
        lengths = {view: len(chunk.frames[view]) for view in description.views}
        if set(lengths.values()) != {len(description.timestamps)}:
            found.append(f"{len(description.timestamps)} timestamps, but frames {lengths}")
        if found:
            raise ShardError(f"sample {chunk.key!r} of {chunk.origin}: {'; '.join(found)}")
        sizes = {_jpeg_size(chunk, view, i) for view in description.views for i in range(lengths[view])}
        size = self._size or min(sizes)
        of_cameras = {(camera.width, camera.height) for camera in description.cameras}
        if sizes | of_cameras != {size}:
            raise ShardError(
                f"sample {chunk.key!r} of {chunk.origin}: frames of {_sizes(sizes)} and cameras of "
                f"{_sizes(of_cameras)}; all are {_sizes({size})} in this dataset"
            )
        return description, size

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._shards.append(self._shard.close())
        self._shard = None

    def _flush_rows(self) -> None:
        if self._rows:
            self._index.write_table(pa.Table.from_pylist([vars(row) for row in self._rows], schema=INDEX_SCHEMA))
            self._rows.clear()

    def _finish(self) -> None:
        if not self._keys:
            named = "; ".join(f"{skip['item']}: {skip['cause']}" for skip in self._skipped[:NAMED_SKIPS])
            more = f"; and {len(self._skipped) - NAMED_SKIPS} more" if len(self._skipped) > NAMED_SKIPS else ""
            left_out = f"{len(self._skipped)} skipped: {named}{more}" if self._skipped else "nothing was skipped either"
            raise ShardError(f"no samples for {self.out}; {left_out}. Check the source and its settings")
        with self._writing():
            self._close_shard()
            self._flush_rows()
            self._files.close()
            write_json(self.out / DATASET_FILE, self._dataset_fields())

    def _dataset_fields(self) -> dict[str, Any]:
        index = self.out / INDEX_FILE
        assert self._size is not None
        return {
            "schema_version": SCHEMA_VERSION,
            "gwm_version": __version__,
            "source": self.source,
            "settings": dict(self.settings),
            "frame_rate": FRAME_RATE,
            "views": [view for view in VIEWS if view in self._views],
            "size": list(self._size),
            "counts": count(pq.read_table(index, columns=["split", "scene", "frames"])),
            "index": {"name": INDEX_FILE, "bytes": index.stat().st_size, "sha256": sha256_of(index)},
            "shards": [vars(shard) for shard in self._shards],
            "skipped_by_cause": dict(sorted(Counter(skip["cause"] for skip in self._skipped).items())),
            "skipped": self._skipped,
        }

    def _remove_leftovers(self) -> None:
        """Remove what a killed run left behind, which has no `dataset.json`: only names that this writer gives."""
        shard, index = re.escape(self.source) + r"-\d{6}\.tar", re.escape(INDEX_FILE)
        temporary = rf"\.({shard}|{index}|{re.escape(DATASET_FILE)})\.\d+\.tmp\.\w+"  # see `replacing`
        for file in self.out.iterdir():
            if re.fullmatch(f"{shard}|{index}|{temporary}", file.name):
                file.unlink()

    def _discard(self, error: BaseException) -> None:
        """Remove every file that this writer wrote, and the folders that it made."""
        names = [INDEX_FILE, *(shard.name for shard in self._shards)]
        if self._shard is not None:
            names.append(self._shard.path.name)  # renamed already, if the interruption came just then
            with suppress(OSError):  # closing writes what was buffered, and the disk may be full
                self._shard.abandon(error)
        with suppress(OSError):
            self._files.__exit__(type(error), error, error.__traceback__)
        for name in names:
            with suppress(OSError):
                (self.out / name).unlink()
        for folder in self._created:
            with suppress(OSError):  # it stays where somebody else's files lie in it
                folder.rmdir()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = ShardError(f"cannot write into {self.out}: {error.strerror or error}; nothing was kept")
            raise self._failure from error


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
    size: tuple[int, int],
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
        width=size[0],
        height=size[1],
        scene=description.scene,
        split=description.split,
        origin=description.origin,
        has_pose=motion.pose is not None,
        has_speed=motion.speed is not None,
        has_steering=motion.steering is not None,
        has_cameras=len(description.cameras) == len(description.views),
        text=description.text,
        frame_offsets=np.array([offsets[name] for name in names], np.int64),
        frame_sizes=np.array([len(members[name]) for name in names], np.int32),
        frame_crc32=np.array([zlib.crc32(members[name]) for name in names], np.uint32),
    )


def _jpeg_size(chunk: Chunk, view: str, frame: int) -> tuple[int, int]:
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(chunk.frames[view][frame])
    except ValueError as error:
        raise ShardError(f"sample {chunk.key!r} of {chunk.origin}: {view} frame {frame} is no JPEG: {error}") from error
    return int(width), int(height)


def _sizes(sizes: set[tuple[int, int]]) -> str:
    return ", ".join(f"{width}x{height}" for width, height in sorted(sizes)) or "no size"
