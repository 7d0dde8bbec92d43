"""TFRecord framing: length, its checksum, payload, its checksum; CRC-32C masked as TensorFlow does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from crc32c import crc32c

from gwm.shards import SourceError

LARGEST = 1 << 28  # bytes; a Waymo frame with all its lidar is 5 to 6 MB


def masked_crc(data: bytes) -> int:
    """TensorFlow's mask over CRC-32C, which keeps a checksum of checksums from being weak."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The payloads of an uncompressed TFRecord file, one in memory at a time.

    Raises SourceError, naming the record, for a length that no record has, a checksum that differs and a file that
    ends inside a record; what came before it has been yielded.
    """
    number = 0
    while head := file.read(12):
        where = f"{name}: record {number}"
        if len(head) < 12:
            raise SourceError(f"{where} is cut off: the file ends inside it")
        length, crc = struct.unpack("<QI", head)
        if masked_crc(head[:8]) != crc:
            raise SourceError(f"{where} is damaged: the checksum of its length differs (or this is no TFRecord file)")
        if length > LARGEST:
            raise SourceError(f"{where} claims {length} bytes, more than the {LARGEST} that a record may have")
        data = file.read(length)
        tail = file.read(4)
        if len(data) < length or len(tail) < 4:
            raise SourceError(f"{where} is cut off: the file ends inside it")
        if masked_crc(data) != struct.unpack("<I", tail)[0]:
            raise SourceError(f"{where} is damaged: the checksum of its data differs")
        yield data
        number += 1


def frame_record(payload: bytes) -> bytes:
    """The inverse: a payload as a record."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, struct.pack("<I", masked_crc(length)), payload, struct.pack("<I", masked_crc(payload))))
