"""Video files, read by timestamp at 10 Hz: constant or variable rate, turned upright, with every loss said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from gwm.shards import SourceError
from gwm.shards.images import Size, fit, placement
from gwm.shards.schema import FRAME_RATE, Damaged, Images, Skipped
from gwm.shards.storage import AnyPath, is_local

STEP = 1 / Fraction(FRAME_RATE)  # s between output frames
TOLERANCE = Fraction(1, 2000)  # s that a frame may come late: containers round timestamps to 1 ms
FULL_CHROMA = Interpolation.FULL_CHR_H_INT  # otherwise swscale makes an RGB that is darker by 2 levels
MAX_HOLD = 1  # s that a frame is shown at most; a longer one hides a loss and would teach a model to stand still
MAX_MISSING = 0.15  # s by which a stream may end before the duration it states, which is rounded
MAX_QUIET = 0.5  # s by which it may end before that of its file, which includes the end of the sound


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about its first video stream."""

    width: int  # pixels as shown: rotated, and pixels made square
    height: int
    duration: float  # s; 0 where the file does not say
    fps: float  # frames/s on average; 0 where the file does not say
    codec: str


@dataclass
class Damage:
    """What was lost while decoding one file, or a part of it."""

    packets: int = 0
    frames: int = 0  # dropped: they depend on a damaged packet, or their time does not advance
    unseen: int = 0  # steps of 0.1 s without a picture
    missing: float = 0.0  # s at the end, where it is more than usual
    stated: float = 0.0  # s, the duration the file gives

    def losses(self) -> list[Skipped]:
        """In words; empty for a sound file."""
        found: list[Skipped] = []
        if self.packets or self.frames:
            found.append(Damaged(f"packets: {self.packets}, frames: {self.frames}", "damaged packets or times"))
        if self.unseen:
            found.append(Damaged(f"{self.unseen / FRAME_RATE:.1f} s", "time without a picture", self.unseen))
        if self.missing:
            part = f"the last {self.missing:.1f} of {self.stated:.1f} s"
            found.append(Damaged(part, "file ends early", round(self.missing * FRAME_RATE)))
        return found


def probe(path: AnyPath) -> VideoInfo:
    """What the video file says about itself; decodes its first frame. Raises SourceError as `read_frames` does."""
    with _opened(path) as (container, stream):
        frame = next(filter(None, _decoded(container, stream, Damage())), None)
        if frame is None:
            raise SourceError(f"{path}: no frame can be decoded, the file is damaged")
        height, width = _upright(frame, stream).shape[:2]
        fps = float(stream.average_rate or 0)
        return VideoInfo(width, height, _stated_duration(container, stream), fps, stream.codec_context.name)


def read_frames(
    path: AnyPath,
    size: Size | None = None,
    how: str = "crop",
    losses: list[Skipped] | None = None,
    begin: int = 0,
    end: int | None = None,
) -> Iterator[tuple[float, Images]]:
    """Frames of the video file `path` at 10 Hz: (time in s since its first frame, (H, W, 3) RGB uint8).

    Frame i is the one on screen at i/10 s: the latest whose timestamp, counted from the first frame's, is at most
    i/10 s + 0.5 ms. So a file of constant or variable rate gives one frame for each tenth of a second begun. Times
    are exact multiples of 0.1 s, and jump where a frame would be shown for longer than 1 s. The frames after
    a damaged packet, up to the next keyframe, are dropped: a decoder draws them upon what is missing.

    Only the frames begin <= i < end are given; what lies before is sought over, so that parts of a file cost what
    they are long, and together are the whole. `size` is (width, height), None for the video's own; `how` as in
    `gwm.shards.images.fit`. Rotation and pixel shape are applied. An image on screen for longer than 0.1 s comes again
    as the same array: do not write into it. Memory does not grow with the file.

    What is lost to damage is appended to `losses` at the end (item: which part); with None it raises SourceError
    instead, after all frames that decode. Raises SourceError for a path that is no file, not a video, or without
    pictures.
    """
    damage, scaler = Damage(), VideoReformatter()
    with _opened(path) as (container, stream):
        shown: av.VideoFrame | None = None
        part = (begin * STEP, None if end is None else end * STEP)
        timed = _timed(_decoded(container, stream, damage), stream, damage, part)
        for tick, frame in _on_the_grid(timed, damage, begin, end):
            if frame is not shown:
                image = _upright(frame, stream) if size is None else _fitted(frame, stream, size, how, scaler)
                shown = frame
            yield float(tick * STEP), image
        if shown is None and not begin:
            raise SourceError(f"{path}: no frame can be decoded, the file is damaged")
    if losses is not None:
        losses += damage.losses()
    elif damage.losses():
        raise SourceError(f"{path}: " + "; ".join(f"{loss.cause} ({loss.item})" for loss in damage.losses()))


@contextmanager
def _opened(path: AnyPath) -> Iterator[tuple[InputContainer, VideoStream]]:
    if not path.is_file():
        raise SourceError(f"there is no video file {path}")
    if path.suffix == ".tar":  # FFmpeg would show the JPEGs in it, of all cameras and scenes, as one video
        raise SourceError(f"{path} is an archive, no video; of shards give the folder, {path.parent}")
    with ExitStack() as files:
        try:
            file: Any = str(path) if is_local(path) else files.enter_context(path.open("rb"))
            container = files.enter_context(av.open(file, metadata_errors="replace"))
        except (av.FFmpegError, OSError) as error:
            raise SourceError(f"{path}: cannot be read as a video ({error.strerror or error})") from error
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise SourceError(f"{path}: no video stream")
        yield container, stream


def _decoded(container: InputContainer, stream: VideoStream, damage: Damage) -> Iterator[av.VideoFrame | None]:
    """Frames in the order they are shown, without those that build upon a damaged packet: None stands for these."""
    broken = False
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames = [] if packet is None else packet.decode()
        except av.FFmpegError:
            damage.packets += 1
            broken = True
            yield None
            continue
        if packet is None:
            return
        for frame in frames:
            assert isinstance(frame, av.VideoFrame)
            broken = broken and not frame.key_frame
            if broken:
                damage.frames += 1
            else:
                yield frame


def _timed(
    frames: Iterator[av.VideoFrame | None],
    stream: VideoStream,
    damage: Damage,
    part: tuple[Fraction, Fraction | None],
) -> Iterator[tuple[Fraction, av.VideoFrame | None]]:
    """Each frame with its exact time in s since the first; None where the last one before a loss, or of all, ends.

    For a `part` (begin, end) that is not the first it goes on, once the first frame's time is known, at the last
    keyframe before `begin`.
    """
    begin = part[0]
    start: Fraction | None = None
    now = end = Fraction(0)
    usual = 1 / Fraction(stream.average_rate or FRAME_RATE)
    container = stream.container
    assert isinstance(container, InputContainer)
    for frame in frames:
        if frame is None:
            yield end, None
            continue
        base = frame.time_base or stream.time_base or Fraction(1)
        # A raw stream has no timestamps: count on.
        time = (start or 0) + end if frame.pts is None else frame.pts * base
        if start is None:
            start = time
            if begin and frame.pts is not None and stream.time_base:
                container.seek(int((start + begin) / stream.time_base), stream=stream)
                now = -begin  # a decoder may first give frames that lie before the keyframe
                continue
        if time - start < now:
            damage.frames += 1
            continue
        now = time - start
        end = now + (frame.duration * base if frame.duration else usual)
        yield now, frame
    yield end, None
    damage.stated = _stated_duration(container, stream)
    limit = damage.stated if part[1] is None else min(damage.stated, float(part[1]))
    missing = limit - float(max(end, begin))
    damage.missing = missing if missing > (MAX_MISSING if stream.duration else MAX_QUIET) else 0.0


def _on_the_grid(
    frames: Iterable[tuple[Fraction, av.VideoFrame | None]], damage: Damage, begin: int, end: int | None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Ticks of 0.1 s and the frame on screen at each, from frames with their times as `_timed` gives them."""
    held: av.VideoFrame | None = None
    since, tick, before = Fraction(0), 0, begin > 0
    for time, frame in frames:
        until = min(time, since + MAX_HOLD)
        while held is not None and tick * STEP + TOLERANCE < until:
            if before and tick >= begin:  # what was lost so far belongs to another part
                damage.packets, damage.frames, before = 0, 0, False
            if tick == end:
                return
            if tick >= begin:
                yield tick, held
            tick += 1
        following = max(tick, ceil((time - TOLERANCE) / STEP))
        damage.unseen += len(range(max(tick, begin), following if end is None else min(following, end)))
        if end is not None and following >= end:
            return
        held, since, tick = frame, time, following


def _stated_duration(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    whole = container.duration or 0
    if whole and "matroska" in container.format.name:  # its duration runs from time 0, not from the first frame
        whole -= container.start_time or 0
    return whole / av.time_base


def _fitted(frame: av.VideoFrame, stream: VideoStream, size: Size, how: str, scaler: VideoReformatter) -> Images:
    """(H, W, 3) RGB at `size`, see `gwm.shards.images.fit`: upright frames that shrink as a whole do so by `scaler`.

    It averages areas before it makes RGB of them, which takes half the time.
    """
    source = (frame.width, frame.height)
    upright = not frame.rotation and (stream.sample_aspect_ratio or 1) == 1
    shrinks = size[0] < source[0] and size[1] < source[1]
    if upright and shrinks and placement(source, size, how) == ((0, 0, *source), (0, 0, *size)):
        small = scaler.reformat(frame, *size, format="rgb24", interpolation=Interpolation.AREA | FULL_CHROMA)
        return np.asarray(small.to_ndarray(), np.uint8)
    return fit(_upright(frame, stream), size, how)


def _upright(frame: av.VideoFrame, stream: VideoStream) -> Images:
    """(H, W, 3) RGB as a player shows it: square pixels, turned as the display matrix says."""
    deep = frame.format.components[0].bits > 8  # of 8 bits, at full size, another converter makes it, without that flaw
    flags = Interpolation.BILINEAR | FULL_CHROMA if deep else None
    image = np.asarray(frame.reformat(format="rgb24", interpolation=flags).to_ndarray(), np.uint8)
    shape = stream.sample_aspect_ratio
    if shape and shape != 1:
        image = np.asarray(cv2.resize(image, (round(image.shape[1] * shape), image.shape[0])), np.uint8)
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))  # both counterclockwise
