"""Tar shards, byte by byte: those of `webdataset.TarWriter(mtime=0)`, with the offset of every member known."""

from __future__ import annotations

import hashlib
import tarfile
from contextlib import ExitStack

from gwm.shards.files import replacing
from gwm.shards.index import ShardFile
from gwm.shards.storage import AnyPath


def tar_header(name: str, size: int) -> bytes:
    """The header of a member as webdataset.TarWriter(mtime=0) writes it: the same for the same name and size."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = size, 0o444, "bigdata", "bigdata"
    return info.tobuf(tarfile.PAX_FORMAT)


def padded(size: int) -> int:
    """Bytes that `size` bytes of data take in a tar: whole blocks of 512."""
    return size + -size % tarfile.BLOCKSIZE


class OpenShard:
    """A tar being written under a temporary name."""

    def __init__(self, path: AnyPath) -> None:
        self.path, self.bytes, self.samples = path, 0, 0
        self._files = ExitStack()
        self._file = self._files.enter_context(self._files.enter_context(replacing(path)).open("wb"))
        self._hash = hashlib.sha256()

    def append(self, name: str, data: bytes) -> int:
        """Append one member; the offset of its data."""
        self._write(tar_header(name, len(data)))
        offset = self.bytes
        self._write(data)
        self._write(bytes(padded(len(data)) - len(data)))
        return offset

    def close(self) -> ShardFile:
        """End the tar (two empty blocks, filled up to a record), sync and rename it."""
        end = 2 * tarfile.BLOCKSIZE
        self._write(bytes(end + -(self.bytes + end) % tarfile.RECORDSIZE))
        self._files.close()
        return ShardFile(self.path.name, self.bytes, self._hash.hexdigest(), self.samples)

    def abandon(self, error: BaseException) -> None:
        """Close and remove the temporary file."""
        self._files.__exit__(type(error), error, error.__traceback__)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)
