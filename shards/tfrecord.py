"""TFRecord framing: length, its checksum, payload, its checksum; CRC-32C masked as TensorFlow does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from crc32c import crc32c

from gwm.shards.schema import Damaged

LARGEST = 1 << 28  # bytes; a Waymo frame with all its lidar is 5 to 6 MB
CUT_OFF = "the file ends inside a record"
NO_LENGTH = "the checksum of a record's length differs, or it is too large (or this is no TFRecord file)"
DIFFERS = "the checksum of a record's data differs"


def masked_crc(data: bytes) -> int:
    """TensorFlow's mask over CRC-32C, which keeps a checksum of checksums from being weak."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(file: BinaryIO, name: str) -> Iterator[bytes | Damaged]:
    """The payloads of an uncompressed TFRecord file, one in memory at a time; one frame is taken to be in each.

    Where the checksum of a payload differs, a `Damaged` stands for it, and one for a record that the file ends in.
    Where a length cannot be believed, a last `Damaged` stands for all the rest: about as many frames as its bytes are
    records of the mean size before it. OSError where the file cannot be read.
    """
    number = at = 0  # records and bytes before this one
    while head := file.read(12):
        where = f"{name}: record {number}"
        if len(head) < 12:
            yield Damaged(where, CUT_OFF, 1)
            return
        length, crc = struct.unpack("<QI", head)
        if masked_crc(head[:8]) != crc or length > LARGEST:
            rest = file.seek(0, 2) - at
            frames = round(rest * number / at) if number else 0
            yield Damaged(f"{where} and what follows{f', about {frames} frames' * bool(frames)}", NO_LENGTH, frames)
            return
        data = file.read(length)
        tail = file.read(4)
        if len(data) < length or len(tail) < 4:
            yield Damaged(where, CUT_OFF, 1)
            return
        yield data if masked_crc(data) == struct.unpack("<I", tail)[0] else Damaged(where, DIFFERS, 1)
        number += 1
        at += 16 + length


def frame_record(payload: bytes) -> bytes:
    """The inverse: a payload as a record."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, struct.pack("<I", masked_crc(length)), payload, struct.pack("<I", masked_crc(payload))))
