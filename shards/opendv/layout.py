"""Which videos of the list are there, as downloaded or as extracted frames, and the parts that they are read in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from zlib import crc32

from gwm.shards import SourceError
from gwm.shards.clips import parts
from gwm.shards.opendv.annotations import Pack
from gwm.shards.opendv.sheet import Video
from gwm.shards.schema import FRAME_RATE, Skipped
from gwm.shards.storage import AnyPath
from gwm.shards.video import TOLERANCE, probe

SUFFIXES = (".mp4", ".webm", ".mkv")  # the first that is there is read
EXTRACTED = {"train": "full_images", "val": "val_images"}
Span = tuple[int, int]
SHORTER = 5  # s by which a video may be shorter than listed, as in the official check of downloads


@dataclass(frozen=True)
class OpenDVPart:
    """Up to five minutes of one video."""

    video: Video
    path: AnyPath  # the video file, or the folder of its extracted frames
    extracted: bool
    span: Span  # ticks of 0.1 s since the file's first frame, or numbers of extracted frames
    begin: int  # of the span, in ticks since the discarded beginning
    images: int
    stamp: str
    packs: tuple[Pack, ...]  # of the annotations that meet it

    @property
    def name(self) -> str:
        """The video, and from which frame on."""
        return f"{self.video.place}@{self.begin:06d}"


def downloaded(folder: AnyPath) -> dict[str, AnyPath]:
    """What lies in videos/, by its path below it: files in the folders of the channels. Hidden files are left out."""
    found: dict[str, AnyPath] = {}
    for channel in _listed(folder / "videos"):
        files = _listed(channel) if channel.is_dir() else []
        found |= {f"{channel.name}/{file.name}": file for file in files}
        if not channel.is_dir():
            found[channel.name] = channel
    return found


def unused(files: Iterable[str], videos: Iterable[Video]) -> Iterator[Skipped]:
    """The files in videos/ that are no video of the list, or a second file of one."""
    places = {video.place for video in videos}
    read: set[str] = set()
    for file in sorted(files, key=_preference):
        place, dot, suffix = file.rpartition(".")
        if dot + suffix not in SUFFIXES or place not in places:
            yield Skipped(f"videos/{file}", "video is not in the list")
        elif place in read:
            yield Skipped(f"videos/{file}", "another file of the same video is read")
        read.add(place)


def find_video(folder: AnyPath, files: Mapping[str, AnyPath], video: Video) -> AnyPath | None:
    """The video's file, or the folder of its extracted frames, or None.

    Our choice: the file where both are there, since the frames were made from it.
    """
    for suffix in SUFFIXES:
        if video.place + suffix in files:
            return files[video.place + suffix]
    extracted = folder / EXTRACTED[video.split] / video.place
    return extracted if extracted.is_dir() else None


def split_up(video: Video, path: AnyPath, packs: Sequence[Pack], skipped: list[Skipped]) -> Iterator[OpenDVPart]:
    """The parts of a video that is there; what the list and the file disagree on is appended to `skipped`."""
    yield from (_of_frames if path.is_dir() else _of_file)(video, path, packs, skipped)


def _of_file(video: Video, path: AnyPath, packs: Sequence[Pack], skipped: list[Skipped]) -> Iterator[OpenDVPart]:
    """Output frame i lies at start_discard + i/10 s, the last one before the video's duration - end_discard.

    The official extraction takes the duration in whole seconds, total frames // fps, so it ends up to ten frames
    sooner; and it counts frames where we go by time, so its picture of frame i is up to one source frame away.
    """
    begin = round(video.start_discard * FRAME_RATE)
    duration = _duration(path) or video.length
    end = ceil((duration - video.end_discard - TOLERANCE) * FRAME_RATE)
    if not duration:
        skipped.append(Skipped(video.place, "duration is unknown"))
    elif end <= begin:
        item = f"{video.place}: {duration:.1f} s, discarded {video.start_discard:g} s and {video.end_discard:g} s"
        skipped.append(Skipped(item, "nothing is left between the discarded ends", video.frames))
    else:
        _compare(video, duration - video.start_discard - video.end_discard, "video", skipped)
        size = f"{path.stat().st_size}"
        for (first, last), images in parts(end / FRAME_RATE, begin, end):
            yield _part(video, path, (first, last or end), begin, images, size, packs)


def _duration(path: AnyPath) -> float:
    """In s; 0 where the file does not say, or cannot be read, which its reader reports."""
    try:
        return probe(path).duration
    except SourceError:
        return 0


def _of_frames(video: Video, path: AnyPath, packs: Sequence[Pack], skipped: list[Skipped]) -> Iterator[OpenDVPart]:
    sizes = {int(file.stem): file.stat().st_size for file in path.iterdir() if re.fullmatch(r"\d{9}\.jpg", file.name)}
    if not sizes:
        skipped.append(Skipped(video.place, "folder of extracted frames is empty", video.frames))
        return
    end = max(sizes) + 1
    _compare(video, end / FRAME_RATE, "sequence of extracted frames", skipped)
    for (first, last), images in parts(end / FRAME_RATE, 0, end):
        span = (first, last or end)
        there = [sizes[number] for number in range(*span) if number in sizes]
        yield _part(video, path, span, None, images, f"{len(there)}-{sum(there)}", packs)


def _part(
    video: Video, path: AnyPath, span: Span, zero: int | None, images: int, stamp: str, packs: Sequence[Pack]
) -> OpenDVPart:
    """A part; tick `zero` of the file is frame 0 of the annotations (None: of extracted frames)."""
    begin, end = span[0] - (zero or 0), span[1] - (zero or 0)
    ours = tuple(pack for pack in packs if pack.last >= begin and pack.first < end)
    said = crc32(b"".join(pack.crc32.to_bytes(4, "big") for pack in ours))
    return OpenDVPart(video, path, zero is None, span, begin, images, f"{stamp}-{said:08x}", ours)


def _compare(video: Video, seconds: float, what: str, skipped: list[Skipped]) -> None:
    """Report a video that gives fewer `seconds` than it should by the list."""
    missing = video.frames - round(seconds * FRAME_RATE)
    if missing > SHORTER * FRAME_RATE:
        item = f"{video.place}: {missing / FRAME_RATE:.1f} of {video.frames / FRAME_RATE:.1f} s"
        skipped.append(Skipped(item, f"{what} is shorter than listed", missing))


def _listed(folder: AnyPath) -> list[AnyPath]:
    found: list[AnyPath] = list(folder.iterdir()) if folder.is_dir() else []
    return sorted((path for path in found if not path.name.startswith(".")), key=lambda path: path.name)


def _preference(file: str) -> tuple[str, int]:
    place, dot, suffix = file.rpartition(".")
    return place, SUFFIXES.index(dot + suffix) if dot + suffix in SUFFIXES else len(SUFFIXES)
