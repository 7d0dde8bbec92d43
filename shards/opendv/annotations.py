"""OpenDV's language annotations: a command and a caption for four seconds of a video, at about every frame at 10 Hz.

A file holds millions of them (1.5 GB), so it is streamed, and only the rows of wanted videos are kept, packed.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, groupby, islice, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

import ijson

from gwm.shards import SourceError
from gwm.shards.schema import Caption, Skipped
from gwm.shards.storage import AnyPath

COMMANDS = (
    "go straight", "pass intersection", "turn left", "turn right", "change to left lane", "change to right lane",
    "left lane branch", "right lane branch", "pass crosswalk", "pass railroad", "merge", "U-turn", "stop", "deviate",
)  # fmt: skip
PATTERN = "10hz_YouTube_*.json"
ROWS = 3000  # packed together


class Annotation(NamedTuple):
    """One row, without its video."""

    first: int  # frame at 10 Hz since the discarded beginning
    last: int  # included
    command: int  # see COMMANDS; not Vista's numbering
    text: str


@dataclass(frozen=True)
class Pack:
    """Consecutive rows of one video, compressed: a long video has a hundred thousand."""

    first: int  # the earliest frame
    last: int  # the latest, included
    crc32: int  # of what is packed
    data: bytes


def annotation_files(folders: Iterable[AnyPath]) -> list[AnyPath]:
    """Those in the first folder that has any, sorted."""
    for folder in folders:
        found: list[AnyPath] = list(folder.glob(PATTERN)) if folder.is_dir() else []
        if found:
            return sorted(found, key=str)
    return []


def read_annotations(
    files: Iterable[AnyPath], wanted: Collection[str]
) -> tuple[Mapping[str, list[Pack]], list[Skipped]]:
    """The rows of the `wanted` video ids, packed, by id; and what of the files is damaged: all before it is used.

    Rows of one video that do not follow each other in a file cost memory. Raises SourceError where a file cannot be
    opened.
    """
    packs: dict[str, list[Pack]] = defaultdict(list)
    skipped: list[Skipped] = []
    for file in files:
        for video, group in groupby(_rows(file, skipped), itemgetter(0)):
            rows = (row for _, row in group)
            while video in wanted and (some := list(islice(rows, ROWS))):
                packs[video].append(pack(some))
    return packs, skipped


def pack(rows: list[Annotation]) -> Pack:
    """Rows of one video, compressed."""
    firsts, lasts, commands, texts = zip(*rows, strict=True)
    # Differences repeat, so that little is left of them.
    columns = [[b - a for a, b in pairwise((0, *firsts))], [row.last - row.first for row in rows], commands, texts]
    data = json.dumps(columns).encode()
    return Pack(min(firsts), max(lasts), zlib.crc32(data), zlib.compress(data))


def unpack(packs: Iterable[Pack]) -> list[Annotation]:
    """The rows of several packs in the order of their frames."""
    rows: list[Annotation] = []
    for packed in packs:
        steps, lengths, commands, texts = json.loads(zlib.decompress(packed.data))
        firsts = list(accumulate(steps))
        lasts = [first + length for first, length in zip(firsts, lengths, strict=True)]
        rows += map(Annotation._make, zip(firsts, lasts, commands, texts, strict=True))
    return sorted(rows)


def captions_of(rows: Iterable[Annotation], first: int, length: int) -> tuple[Caption, ...]:
    """The rows that meet the frames first .. first + length - 1 of the video, in frames of that chunk."""
    found = []
    for row in rows:
        start, end = max(0, row.first - first), min(length, row.last + 1 - first)
        if start < end:
            found.append(Caption(start, end, row.text, row.command))
    return tuple(found)


def _rows(file: AnyPath, skipped: list[Skipped]) -> Iterator[tuple[str, Annotation]]:
    """Every row of a file with its video's id, until the end or the damage."""
    strange, odd, number = 0, 0, 0  # rows not understood, the first of them, the last row
    try:
        with file.open("rb") as stream:
            if not stream.read(64).lstrip().startswith(b"["):
                skipped.append(Skipped(file.name, "annotation file is no JSON list"))
                return
            stream.seek(0)
            try:
                for number, fields in enumerate(ijson.items(stream, "item"), 1):
                    row = _row(fields)
                    if row is None:
                        strange, odd = strange + 1, odd or number
                    else:
                        yield row
            except (ijson.JSONError, ValueError):
                skipped.append(Skipped(f"{file.name}: after row {number}", "annotation file is damaged"))
    except OSError as error:
        raise SourceError(f"the annotations {file} cannot be read: {error.strerror or error}") from error
    if strange:
        item = f"{file.name}: rows: {strange}, the first is row {odd}"
        skipped.append(Skipped(item, "annotation is not understood"))


def _row(fields: Any) -> tuple[str, Annotation] | None:
    """A row with its video's id; None for what is no annotation."""
    try:
        video = fields["folder"].rstrip("/").rpartition("/")[2]
        first, last = _number(fields["first_frame"]), _number(fields["last_frame"])
        command, text = fields["cmd"], fields["blip"]
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    if type(command) is not int or not isinstance(text, str) or last < first:
        return None
    return video, Annotation(first, last, command, text)


def _number(name: str) -> int:
    """Of 000000039.jpg."""
    stem, suffix = name[:9], name[9:]
    if suffix != ".jpg" or not stem.isdecimal():
        raise ValueError(name)
    return int(stem)
