"""Results to look at: H.264 video that a browser plays, and contact sheets."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from gwm.shards import ShardError
from gwm.shards.files import replacing
from gwm.shards.images import fit
from gwm.shards.schema import FRAME_RATE, Images

QUALITY = {"crf": "18", "preset": "medium"}  # x264: visually lossless
BT709 = 1  # of the colour primaries and the transfer curve; pixels of a rendered or photographed frame are sRGB
TILE = 160  # pixels, about the width of a contact sheet's tile
FRAGMENTS = {"movflags": "empty_moov+default_base_moof", "frag_duration": "1000000", "flush_packets": "1"}  # of 1 s
GAP, MARGIN, LINE = 4, 6, 18  # pixels: between tiles, around labels, a line of text
FONT, FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
PAPER, INK = (24, 24, 24), (225, 225, 225)


class PictureFile(ABC):
    """A file of pictures that gets its name when it is finished; a `with` statement finishes or drops it."""

    @abstractmethod
    def finish(self) -> None:
        """Give the file its name; nothing can be added after it."""

    @abstractmethod
    def drop(self) -> None:
        """Remove what has not got its name yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.drop()


class VideoWriter(PictureFile):
    """Writes one MP4 (H.264, yuv420p, index at the front) frame by frame; use it in a `with` statement.

    The file appears under its name on a clean exit or with `finish`, and not at all after an exception, but for what
    `salvage` keeps. On the way it is a hidden file of fragments of a second, each of which plays without the rest.
    Raises ShardError where it cannot be written (no such folder, no right, disk full), and when no frame was added.
    """

    def __init__(self, path: Path, rate: float = FRAME_RATE, scale: int = 1) -> None:
        """`rate` is frames/s; each pixel becomes `scale` x `scale` pixels. Odd sizes gain a copied row or column."""
        assert scale >= 1, scale
        self.path, self.rate, self.scale = path, Fraction(rate).limit_denominator(1001), scale
        self.frames = 0
        self._fragments = path.with_name(f".{path.stem}.fragments.{os.getpid()}.tmp.mp4")
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        folder = self.path.parent
        if not folder.is_dir():
            raise ShardError(f"cannot write {self.path}: {folder} is not a folder; make it or choose another with -o")
        try:
            self._fragments.touch()  # av opens it at the first frame, too late to learn that the folder is read-only
            self._container = av.open(str(self._fragments), "w", format="mp4", options=FRAGMENTS)
        except OSError as error:
            raise refusal(self.path, error) from error
        return self

    def add(self, frame: Images) -> None:
        """Append one frame, (H, W, 3) RGB uint8 of the same size as the first."""
        assert frame.dtype == np.uint8, frame.dtype
        assert frame.ndim == 3 and frame.shape[2] == 3, frame.shape  # noqa: PT018
        pixels = frame.repeat(self.scale, axis=0).repeat(self.scale, axis=1)
        pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        stream = self._stream = self._stream or self._begin(pixels.shape[1], pixels.shape[0])
        assert pixels.shape[:2] == (stream.height, stream.width), (frame.shape, stream.width, stream.height)
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        picture.pts, picture.time_base = self.frames, 1 / self.rate
        self._mux(picture)
        self.frames += 1

    def drop(self) -> None:
        """Remove what has not got its name yet."""
        self._close()
        with suppress(OSError):
            self._fragments.unlink(missing_ok=True)

    def finish(self) -> None:
        """Write what the encoder still holds and give the file its name; nothing can be added after it.

        Where there is no room for its second form, with the index at the front, it stays the file of fragments.
        """
        if not self._fragments.exists():  # done before
            return
        if self._stream is None:
            raise ShardError(f"no frame for {self.path}: nothing was written")
        self._mux(None)
        assert self._container is not None
        try:
            self._container.close()
        except OSError as error:
            raise refusal(self.path, error) from error
        try:
            with replacing(self.path) as whole:
                _copy(self._fragments, whole)
        except OSError:
            self._fragments.replace(self.path)
        self._fragments.unlink(missing_ok=True)

    def salvage(self) -> bool:
        """Give the whole seconds written so far the file's name, where writing failed; whether there are any."""
        self._close()
        plays = self._fragments.exists() and _cut_to_whole_fragments(self._fragments)
        if plays:
            self._fragments.replace(self.path)
        return plays

    def _close(self) -> None:
        with suppress(OSError):
            if self._container is not None:
                self._container.close()

    def _begin(self, width: int, height: int) -> VideoStream:
        assert self._container is not None
        stream = self._container.add_stream("libx264", rate=self.rate, options=QUALITY)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = 1 / self.rate
        colours = stream.codec_context
        colours.colorspace, colours.color_range = Colorspace.ITU709, ColorRange.MPEG
        colours.color_primaries = colours.color_trc = BT709
        return stream

    def _mux(self, picture: av.VideoFrame | None) -> None:
        """Encode one picture, or what the encoder still holds."""
        assert self._stream is not None
        assert self._container is not None
        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except OSError as error:
            raise refusal(self.path, error) from error


def _copy(fragments: Path, whole: Path) -> None:
    """The same pictures in an ordinary MP4 with its index at the front."""
    with (
        av.open(str(fragments)) as given,
        av.open(str(whole), "w", format="mp4", options={"movflags": "+faststart"}) as made,
    ):
        source = given.streams.video[0]
        stream, start = made.add_stream_from_template(source), source.start_time or 0
        for packet in given.demux(source):
            if packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts = packet.pts - start, packet.dts - start  # fragments begin at decoding time 0
                packet.stream = stream
                made.mux(packet)


def _cut_to_whole_fragments(path: Path) -> bool:
    """Cut an MP4 of fragments after the last whole one; whether one is left. ISO 14496-12: boxes of size and type."""
    end, kinds, size = 0, [], path.stat().st_size
    with path.open("r+b") as file:
        at = 0
        while len(head := file.read(8)) == 8:
            at += int.from_bytes(head[:4], "big")
            kinds.append(head[4:])
            if at > size:
                break
            if kinds[-1] == b"mdat":
                end = at
            file.seek(at)
        file.truncate(end)
    return end > 0


def write_video(path: Path, frames: Iterable[Images], rate: float = FRAME_RATE, scale: int = 1) -> int:
    """Write frames (H, W, 3) RGB uint8, all of one size, as an MP4; returns how many. They may come from a generator.

    See `VideoWriter` for the format, `rate`, `scale` and what is raised.
    """
    with VideoWriter(path, rate, scale) as video:
        for frame in frames:
            video.add(frame)
    return video.frames


def contact_sheet(path: Path, rows: Sequence[tuple[str, Sequence[Images]]], labels: Sequence[str]) -> None:
    """Write a PNG of rows of frames: each row has a label at its left, each column one of `labels` above it.

    Frames are (H, W, 3) RGB uint8, one for each label; the first row's shape decides the tile, about 160 pixels wide,
    and other shapes are shown whole within it. A row shorter than `labels` ends early. Raises ShardError where the
    file cannot be written.
    """
    assert rows, "a contact sheet of nothing"
    assert all(0 < len(frames) <= len(labels) for _, frames in rows), [len(frames) for _, frames in rows]
    width, height = _tile(rows[0][1][0])
    left = 2 * MARGIN + max(_text_width(label) for label, _ in rows)
    top = LINE + MARGIN
    sheet = np.empty((top + len(rows) * (height + GAP), left + len(labels) * (width + GAP), 3), np.uint8)
    sheet[:] = PAPER
    for column, label in enumerate(labels):
        _write(sheet, label, left + column * (width + GAP), LINE)
    for row, (label, frames) in enumerate(rows):
        y = top + row * (height + GAP)
        _write(sheet, label, MARGIN, y + height // 2 + MARGIN)
        for column, frame in enumerate(frames):
            x = left + column * (width + GAP)
            sheet[y : y + height, x : x + width] = _scaled(frame, (width, height))
    png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1]
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(png.tobytes())
    except OSError as error:
        raise refusal(path, error) from error


def _tile(frame: Images) -> tuple[int, int]:
    """Width and height of a frame's tile: whole multiples of a small frame, so that its pixels stay sharp."""
    height, width = frame.shape[:2]
    if width <= TILE:
        times = max(1, round(TILE / width))
        return width * times, height * times
    return TILE, max(1, round(height * TILE / width))


def _scaled(frame: Images, size: tuple[int, int]) -> Images:
    times = size[0] // frame.shape[1]
    if (frame.shape[1] * times, frame.shape[0] * times) == size:
        return frame.repeat(times, axis=0).repeat(times, axis=1)
    return fit(frame, size, "letterbox")


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, FONT, FONT_SIZE, 1)[0][0])


def _write(sheet: Images, text: str, x: int, y: int) -> None:
    cv2.putText(sheet, text, (x, y), FONT, FONT_SIZE, INK, 1, cv2.LINE_AA)


def refusal(path: Path, error: OSError) -> ShardError:
    """What a user reads of a file that could not be written."""
    return ShardError(
        f"cannot write {path}: {error.strerror or error}; free some space or choose another folder with -o"
    )
