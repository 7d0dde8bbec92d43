"""Results to look at: H.264 video that a browser plays, and contact sheets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from gwm.shards import ShardError
from gwm.shards.files import replacing
from gwm.shards.images import fit
from gwm.shards.schema import FRAME_RATE, Images

QUALITY = {"crf": "18", "preset": "medium"}  # x264: visually lossless
BT709 = 1  # of the colour primaries and the transfer curve; pixels of a rendered or photographed frame are sRGB
TILE = 160  # pixels, about the width of a contact sheet's tile
GAP, MARGIN, LINE = 4, 6, 18  # pixels: between tiles, around labels, a line of text
FONT, FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
PAPER, INK = (24, 24, 24), (225, 225, 225)


class VideoWriter:
    """Writes one MP4 (H.264, yuv420p, index at the front) frame by frame; use it in a `with` statement.

    The file appears under its name on a clean exit, and not at all after an exception. Raises ShardError where it
    cannot be written (no such folder, no right, disk full), and when no frame was added.
    """

    def __init__(self, path: Path, rate: float = FRAME_RATE, scale: int = 1) -> None:
        """`rate` is frames/s; each pixel becomes `scale` x `scale` pixels. Odd sizes gain a copied row or column."""
        assert scale >= 1, scale
        self.path, self.rate, self.scale = path, Fraction(rate).limit_denominator(1001), scale
        self.frames = 0
        self._stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        folder = self.path.parent
        if not folder.is_dir():
            raise ShardError(f"cannot write {self.path}: {folder} is not a folder; make it or choose another with -o")
        try:
            with ExitStack() as files:
                temporary = files.enter_context(replacing(self.path))
                temporary.touch()  # av opens it at the first frame, too late to learn that the folder is read-only
                options = {"movflags": "+faststart"}
                self._container = av.open(str(temporary), "w", format="mp4", options=options)
                self._files = files.pop_all()
        except OSError as error:
            raise _refusal(self.path, error) from error
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(OSError):
                self._container.close()
            self._files.__exit__(kind, error, trace)
            return
        try:
            with self._files:  # drops the file if finishing it fails
                self._finish()
        except OSError as failure:
            raise _refusal(self.path, failure) from failure

    def _begin(self, width: int, height: int) -> VideoStream:
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
        try:
            for packet in self._stream.encode(picture):
                self._container.mux(packet)
        except OSError as error:
            raise _refusal(self.path, error) from error

    def _finish(self) -> None:
        if self._stream is None:
            self._container.close()
            raise ShardError(f"no frame for {self.path}: nothing was written")
        self._mux(None)
        self._container.close()


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
        raise _refusal(path, error) from error


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


def _refusal(path: Path, error: OSError) -> ShardError:
    return ShardError(
        f"cannot write {path}: {error.strerror or error}; free some space or choose another folder with -o"
    )
