"""Protocol buffers' wire format: fields in and out, with no knowledge of what they mean.

Enough for datasets of a few known messages, without their generated code and its pinned versions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from gwm.shards import SourceError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; groups (3, 4) are not used by anything we read
MORE = 0x80  # the bit of a varint's byte that says that another follows
_WIDTH = {FIXED64: 8, FIXED32: 4}

Field = int | memoryview


def fields(data: memoryview) -> Iterator[tuple[int, int, Field]]:
    """(number, wire type, value) of every field: an int for a varint, else the bytes, not copied.

    Raises SourceError for what is no message.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = (data[at], at + 1) if data[at] < MORE else _varint(data, at)  # a call costs as much as all the rest
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, at = _varint(data, at)
        elif kind in _WIDTH:
            length = _WIDTH[kind]
        else:
            raise SourceError(f"a message of {end} bytes has a field of wire type {kind} at byte {at}")
        if number == 0 or length > end - at:
            raise SourceError(f"a message of {end} bytes has a field {number} of {length} bytes at byte {at}")
        yield number, kind, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An unsigned number of at most 64 bits and the place after it."""
    value = shift = 0
    for byte in data[at : at + 10]:
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < MORE:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise SourceError(f"a message of {len(data)} bytes has a number without an end before byte {at}")


def signed(value: int) -> int:
    """An int32 or int64 field, which is stored in two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value


def doubles(kind: int, value: Field) -> tuple[float, ...]:
    """One element of a repeated double field, or several where they are packed. SourceError for another type."""
    if isinstance(value, int) or kind == FIXED32 or len(value) % 8:
        raise SourceError(f"a field of wire type {kind} where doubles were expected")
    return struct.unpack(f"<{len(value) // 8}d", value)


def all_doubles(data: memoryview, wanted: int) -> tuple[float, ...]:
    """Every element of a message's repeated double field `wanted`. SourceError for another type.

    A message that holds nothing else, unpacked, as Waymo's transforms do, is read in one go: tags of one byte each.
    """
    count, rest = divmod(len(data), 9)
    if not rest and bytes(data[::9]) == _put(wanted << 3 | FIXED64) * count:
        return struct.unpack("<" + "xd" * count, data)
    return tuple(x for number, kind, value in fields(data) if number == wanted for x in doubles(kind, value))


def single(kind: int, value: Field) -> float:
    """A float or double field. SourceError for another type."""
    if isinstance(value, int) or kind not in _WIDTH:
        raise SourceError(f"a field of wire type {kind} where a number was expected")
    return float(struct.unpack("<f" if kind == FIXED32 else "<d", value)[0])


def message(kind: int, value: Field) -> memoryview:
    """A message, string or bytes field. SourceError for another type."""
    if isinstance(value, int) or kind != BYTES:
        raise SourceError(f"a field of wire type {kind} where bytes were expected")
    return value


def whole(kind: int, value: Field) -> int:
    """An integer or enum field. SourceError for another type."""
    if not isinstance(value, int):
        raise SourceError(f"a field of wire type {kind} where a whole number was expected")
    return signed(value)


def put_varint(number: int, value: int) -> bytes:
    """An integer or enum field."""
    return _put(number << 3 | VARINT) + _put(value & 0xFFFFFFFFFFFFFFFF)


def put_bytes(number: int, data: bytes) -> bytes:
    """A message, string or bytes field."""
    return _put(number << 3 | BYTES) + _put(len(data)) + data


def put_doubles(number: int, values: Iterable[float]) -> bytes:
    """A double field, or a repeated one that is not packed, as proto2's are."""
    tag = _put(number << 3 | FIXED64)
    return b"".join(tag + struct.pack("<d", value) for value in values)


def put_floats(number: int, values: Sequence[float]) -> bytes:
    """A float field, or a repeated one that is not packed."""
    tag = _put(number << 3 | FIXED32)
    return b"".join(tag + struct.pack("<f", value) for value in values)


def _put(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
