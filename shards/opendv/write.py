"""A dataset in OpenDV-YouTube's layout from drives whose pictures are known: list, videos, annotations, frames."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import ceil

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from gwm.shards import SourceError
from gwm.shards.files import json_list, make_folder, replacing
from gwm.shards.images import encode_jpeg
from gwm.shards.opendv.frames import frame_file
from gwm.shards.opendv.layout import EXTRACTED
from gwm.shards.opendv.sheet import HEADER, ID, PLACES, Video
from gwm.shards.schema import FRAME_RATE, Caption, Images
from gwm.shards.storage import AnyPath
from gwm.shards.writer import writing

START_DISCARD, END_DISCARD = 3, 2  # s of title card before and after a drive; in the real list at least 90 and 30
CARD = 128  # grey level of the card: where it shows, an offset is wrong
CLOCK = Fraction(1, 90_000)  # s, of the timestamps
CODECS = (  # in turn: suffix, encoder, its options
    (".mp4", "libx264", {"crf": "18", "preset": "veryfast"}),
    (".webm", "libvpx-vp9", {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
)
LANGUAGE = {"train": "10hz_YouTube_train_split0.json", "val": "10hz_YouTube_val.json"}
YOUTUBERS = ("J Utah", "Slow Roads Ltd. (Video Tours)", "中国街景 Street View", "omw")


@dataclass(frozen=True)
class Drive:
    """One video to be written, without its discarded ends."""

    id: str  # 11 characters
    youtuber: str
    split: str  # "train" or "val"
    frames: Iterable[Images]  # (H, W, 3) RGB, even sides, all of one size; at least one
    fps: float | Fraction = FRAME_RATE  # of them, at least 10
    captions: Sequence[Caption] = ()  # in frames at 10 Hz; with a command in OpenDV's numbering
    mini: bool = False


def name_drive(index: int) -> tuple[str, str]:
    """An id like YouTube's and a channel for the drive number `index` (below 100 000); the second begins with "-"."""
    return f"{'-' if index % 30 == 1 else 'W'}orld_{index:05d}", YOUTUBERS[index % len(YOUTUBERS)]


def write_opendv(folder: AnyPath, drives: Iterable[Drive], frames: bool = False) -> None:
    """Write `drives` as a dataset into `folder`: H.264 in MP4 and VP9 in WebM in turn, the list and the annotations.

    With `frames` the official extraction at 10 Hz too. Drives are taken one by one, and their pictures as well. Raises
    SourceError for a drive that is no video, ShardError where `folder` cannot be written to.
    """
    rows: list[list[object]] = []
    make_folder(folder)
    with writing(folder), ExitStack() as files:
        for part in ("meta", "annotations"):
            (folder / part).mkdir(exist_ok=True)
        say = {split: files.enter_context(json_list(folder / "annotations" / LANGUAGE[split])) for split in LANGUAGE}
        for number, drive in enumerate(drives):
            _check(drive)
            length = _write_video(folder, drive, number, frames)
            rows.append(_row(number, drive, length))
            for caption in drive.captions:
                say[drive.split](_annotation(drive, caption))
        table = files.enter_context(replacing(folder / PLACES[0])).open("w", encoding="utf-8", newline="")
        csv.writer(files.enter_context(table)).writerows([HEADER, *rows])


def _check(drive: Drive) -> None:
    if not ID.fullmatch(drive.id) or drive.split not in LANGUAGE or drive.fps < FRAME_RATE:
        raise SourceError(
            f"drive {drive.id!r} of split {drive.split!r} at {float(drive.fps):g} frames/s: an id has 11 letters, "
            f"digits, - or _, a split is one of {', '.join(LANGUAGE)}, and there are at least {FRAME_RATE:g} frames/s"
        )


def _write_video(folder: AnyPath, drive: Drive, number: int, extract: bool) -> float:
    """The file, and with `extract` its frames at 10 Hz. Gives its length in s."""
    path = folder / "videos" / f"{_place(drive)}{CODECS[number % len(CODECS)][0]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(drive.fps).limit_denominator(1001)
    pictures = iter(drive.frames)
    if extract:
        pictures = _extracting(pictures, rate, folder / EXTRACTED[drive.split] / _place(drive))
    now = Fraction(0)
    with replacing(path) as temporary, av.open(str(temporary), "w") as file:
        stream: VideoStream | None = None
        for now, picture in _timed(drive, pictures, rate):
            if stream is None:
                stream = _add_stream(file, number, rate, picture)
            assert picture.shape[:2] == (stream.height, stream.width), (drive.id, picture.shape)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(now / CLOCK), CLOCK
            file.mux(stream.encode(frame))
        if stream is not None:
            file.mux(stream.encode())
    return float(now + 1 / rate)


def _add_stream(file: OutputContainer, number: int, rate: Fraction, picture: Images) -> VideoStream:
    _, codec, options = CODECS[number % len(CODECS)]
    stream = file.add_stream(codec, rate=rate, options=options)
    assert isinstance(stream, VideoStream), codec
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt, stream.codec_context.time_base = "yuv420p", CLOCK
    return stream


def _timed(drive: Drive, pictures: Iterator[Images], rate: Fraction) -> Iterator[tuple[Fraction, Images]]:
    """Each picture with its time in s: a title card, the drive from START_DISCARD on, the card again."""
    first = next(pictures, None)
    if first is None or first.shape[0] % 2 or first.shape[1] % 2:
        shape = "no frames" if first is None else f"frames of {first.shape[1]}x{first.shape[0]} pixels"
        raise SourceError(f"drive {drive.id} has {shape}; a video needs at least one, with even sides")
    card = np.full_like(first, CARD)
    yield from ((i / rate, card) for i in range(ceil(START_DISCARD * rate)))
    length = 0
    for length, picture in enumerate(chain([first], pictures), 1):
        yield START_DISCARD + (length - 1) / rate, picture
    yield from ((START_DISCARD + (length + i) / rate, card) for i in range(ceil(END_DISCARD * rate)))


def _extracting(pictures: Iterable[Images], rate: Fraction, folder: AnyPath) -> Iterator[Images]:
    """Pass `pictures` on; those that the official extraction takes, number round(i fps / 10) for i, are stored."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for index, picture in enumerate(pictures):
        if index == round(number * rate / Fraction(FRAME_RATE)):
            (folder / frame_file(number)).write_bytes(encode_jpeg(picture))
            number += 1
        yield picture


def _place(drive: Drive) -> str:
    return Video(drive.id, drive.youtuber, drive.split, drive.mini, 0, START_DISCARD, END_DISCARD).place


def _row(number: int, drive: Drive, length: float) -> list[object]:
    """That of the list, in the order of HEADER."""
    minutes, seconds = divmod(round(length), 60)
    return [
        number + 1, drive.id, f"Drive {number}", drive.youtuber, f"https://example.org/{drive.id}",
        f"{minutes}:{seconds:02d}", drive.split.capitalize(), "Mini" if drive.mini else "Full", "Nowhere", "N/A",
        START_DISCARD, END_DISCARD,
    ]  # fmt: skip


def _annotation(drive: Drive, caption: Caption) -> dict[str, object]:
    assert caption.command is not None, caption
    return {
        "cmd": caption.command, "blip": caption.text, "folder": f"{EXTRACTED[drive.split]}/{_place(drive)}",
        "first_frame": frame_file(caption.start), "last_frame": frame_file(caption.end - 1),
    }  # fmt: skip
