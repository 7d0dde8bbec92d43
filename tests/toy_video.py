"""Videos whose pictures carry a number, and a cut detector for them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

CLOCK = Fraction(1, 90000)
WIDTH, HEIGHT = 128, 64


def coded(number: int, dark: bool = False) -> np.ndarray:
    """A picture of eight stripes: the bits of `number`."""
    bits = np.array([number >> i & 1 for i in range(8)], bool)
    row = np.where(bits, 120 if dark else 220, 30).astype(np.uint8).repeat(WIDTH // 8)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(image: np.ndarray) -> int:
    """The number that `coded` drew; a stripe that is neither light nor dark is an error."""
    stripes = image.mean(axis=(0, 2)).reshape(8, -1).mean(axis=1)
    assert ((stripes < 60) | (stripes > 100)).all(), stripes
    return sum(int(level > 80) << i for i, level in enumerate(stripes))


def write(path, times, pictures=None, codec="libx264", pixels="yuv420p", gop=12, turn=0, shape=None, front=True):
    """A video file with the pictures (default: numbered) at the given times in s."""
    with av.open(str(path), "w", options={"movflags": "+faststart"} if front else {}) as file:
        stream = file.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.gop_size = gop
        if codec != "mpeg4":
            stream.codec_context.time_base = CLOCK
        if codec == "libx264":
            stream.options = {"crf": "12", "preset": "veryfast"}
        if turn:
            stream.set_display_rotation(turn)
        if shape:
            stream.codec_context.sample_aspect_ratio = shape
        clock = stream.codec_context.time_base or Fraction(1, 30)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(coded(i % 256) if pictures is None else pictures[i], format="rgb24")
            frame.pts, frame.time_base = round(time / clock), clock
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def regular(rate: float | Fraction, frames: int, start: float = 0) -> list[Fraction]:
    return [Fraction(start) + i / Fraction(rate) for i in range(frames)]


@dataclass(frozen=True)
class Jumps:
    """A toy detector: at a cut every pixel changes."""

    step: int = 50  # in grey levels
    name: str = "jumps"

    def __call__(self, thumbnails):
        pixels = thumbnails.reshape(len(thumbnails), -1).astype(int)
        return np.r_[False, np.abs(np.diff(pixels, axis=0)).min(axis=1) > self.step]


def plain(level: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)
