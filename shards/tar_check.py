"""One tar of a dataset against its index, byte by byte, whatever its members hold."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from gwm.shards import ShardError
from gwm.shards.files import sha256_of
from gwm.shards.index import INDEX_FILE, Member, ShardFile
from gwm.shards.storage import AnyPath
from gwm.shards.tar import padded, tar_header


@dataclass(frozen=True)
class VerifyReport:
    """The outcome of a check of a dataset."""

    samples: int
    frames: int  # time steps
    bytes: int  # of the shards
    problems: list[str]  # "shard: member: what is wrong", shard by shard

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


class Sample(Protocol):
    """What a row of an index says of its sample's place in the tar."""

    @property
    def key(self) -> str: ...

    @property
    def offset(self) -> int: ...

    @property
    def size(self) -> int: ...

    def members(self) -> list[Member]:
        """In the order they lie in the tar."""


S = TypeVar("S", bound=Sample)
S_co = TypeVar("S_co", bound=Sample, covariant=True)
CheckData = Callable[[S, Member, bytes], Iterator[str]]  # what is wrong with a member's data; may raise ShardError


class Indexed(Protocol[S_co]):
    """A dataset's shards and index."""

    @property
    def path(self) -> AnyPath: ...

    @property
    def shards(self) -> tuple[ShardFile, ...]: ...

    @property
    def index(self) -> Mapping[str, Any]: ...

    @property
    def table(self) -> pa.Table: ...

    def row(self, i: int) -> S_co: ...

    def __len__(self) -> int: ...


def check_dataset(held: Indexed[S], problems: list[str], check_data: CheckData[S]) -> VerifyReport:
    """All tars of a dataset against its index, beside the `problems` found in the index itself."""
    trusted = sha256_of(held.path / INDEX_FILE) == held.index["sha256"]
    if not trusted:
        problems.append(f"{INDEX_FILE}: SHA-256 differs from dataset.json; members are not compared with it")
    rows: dict[str, list[int]] = {shard.name: [] for shard in held.shards}
    if trusted:
        for i, name in enumerate(held.table.column("shard").to_pylist()):
            rows.setdefault(name, []).append(i)
    for shard in held.shards:
        problems += _check_shard(held.path, shard, rows[shard.name], held.row, check_data)
    frames = int(held.table.column("frames").to_numpy().sum())
    return VerifyReport(len(held), frames, sum(shard.bytes for shard in held.shards), problems)


def _check_shard(
    folder: AnyPath, shard: ShardFile, rows: Sequence[int], row: Callable[[int], S], check_data: CheckData[S]
) -> list[str]:
    """One tar: its hash, then its samples; a hash that differs with no sample to blame is a problem of its own.

    `rows` are its rows of the index, in order, and `row` gives one of them.
    """
    path = folder / shard.name
    if not path.is_file():
        return [f"{shard.name}: missing"]
    try:
        found = [f"{shard.name}: {problem}" for problem in _sample_problems(path, (row(i) for i in rows), check_data)]
        size, sha256 = path.stat().st_size, sha256_of(path)
    except OSError as error:
        return [f"{shard.name}: cannot be read: {error.strerror or error}"]
    if size != shard.bytes:
        found.insert(0, f"{shard.name}: {size} bytes instead of {shard.bytes}")
    elif sha256 != shard.sha256:
        where = "" if found else "; the damage lies outside what the index describes"
        found.insert(0, f"{shard.name}: SHA-256 differs from dataset.json{where}")
    return found


def _sample_problems(path: AnyPath, samples: Iterator[S], check_data: CheckData[S]) -> Iterator[str]:
    end = 0
    with path.open("rb") as f:
        for sample in samples:
            if sample.offset != end:
                yield f"sample {sample.key} begins at byte {sample.offset}, not {end}"
            f.seek(sample.offset)
            data = f.read(sample.size)
            end = sample.offset + sample.size
            if len(data) < sample.size:
                lost = sample.size - len(data)
                yield f"sample {sample.key}: {lost} of its {sample.size} bytes lie past the end of the file"
            else:
                yield from _check_sample(sample, data, check_data)


def _check_sample(sample: S, data: bytes, check_data: CheckData[S]) -> Iterator[str]:
    """`data` is the sample's part of its tar. Each member's header and data are read as a tar of their own, so that a
    damaged header does not hide the members after it."""
    end = 0
    for member in sample.members():
        begin, at = end, member.offset - sample.offset
        end = at + padded(member.size)
        problems = [
            *_check_header(data[begin:end], member, at - begin),
            *_check_data(sample, member, data[at : at + member.size], check_data),
        ]
        if any(data[at + member.size : end]):
            problems.append("bytes after its end are not zero")
        if problems:
            yield f"{member.name}: {'; '.join(problems)}"
    if end != sample.size:
        yield f"sample {sample.key}: its members take {end} bytes, not {sample.size}"


def _check_header(data: bytes, member: Member, offset: int) -> Iterator[str]:
    """The one member in `data` as tarfile sees it, and its header as it was written; its data lie at `offset`."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            seen = tar.next()
    except (tarfile.TarError, ValueError) as error:
        yield f"tar header damaged ({error})"
        return
    if seen is None or (seen.name, seen.size, seen.offset_data) != (member.name, member.size, offset):
        yield f"tar header damaged (it names {'nothing' if seen is None else f'{seen.name} of {seen.size} bytes'})"
    elif data[:offset] != tar_header(member.name, member.size):
        yield "tar header damaged (not as it was written)"


def _check_data(sample: S, member: Member, data: bytes, check_data: CheckData[S]) -> Iterator[str]:
    if zlib.crc32(data) != member.crc32:
        yield "CRC-32 differs from the index"
    try:
        yield from check_data(sample, member, data)
    except ShardError as error:
        yield str(error)
