"""A small GIF, written frame by frame: Pillow alone would hold all frames until the end."""

from __future__ import annotations

import struct
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import GifImagePlugin, Image

from gwm.pipelines.video_out import PictureFile, refusal
from gwm.shards.files import replacing
from gwm.shards.images import fit
from gwm.shards.schema import FRAME_RATE, Images

MAX_WIDTH = 512  # pixels
HEADER = b"GIF89a"
LOOP = b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"  # for ever
END = b";"


class _Dropped(Exception):
    """Leaves `replacing` without a file."""


class GifWriter(PictureFile):
    """Writes one endless GIF at 10 frames/s, at most MAX_WIDTH wide, each frame with colours of its own.

    The file appears under its name on a clean exit or with `finish`, and not at all after an exception. Raises
    ShardError where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames = 0
        self._files = ExitStack()
        self._file: BinaryIO

    def __enter__(self) -> GifWriter:
        try:
            with ExitStack() as files:
                temporary = files.enter_context(replacing(self.path))
                self._file = files.enter_context(temporary.open("wb"))
                self._files = files.pop_all()
        except OSError as error:
            raise refusal(self.path, error) from error
        return self

    def add(self, frame: Images) -> None:
        """Append one frame, (H, W, 3) RGB uint8 of the same size as the first."""
        height, width = frame.shape[:2]
        if width > MAX_WIDTH:
            frame = fit(frame, (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width))))
        picture = Image.fromarray(np.ascontiguousarray(frame)).quantize(
            method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
        blocks = GifImagePlugin.getdata(picture, include_color_table=True, duration=round(1000 / FRAME_RATE))
        if self.frames == 0:
            blocks = [HEADER, struct.pack("<HHBBB", *picture.size, 0, 0, 0), LOOP, *blocks]
        try:
            self._file.writelines(blocks)
        except OSError as error:
            raise refusal(self.path, error) from error
        self.frames += 1

    def finish(self) -> None:
        """Give the file its name; nothing can be added after it."""
        try:
            with self._files.pop_all():
                if not self._file.closed:
                    self._file.write(END)
                    self._file.flush()
        except OSError as error:
            raise refusal(self.path, error) from error

    def salvage(self) -> bool:
        """Nothing is kept of a GIF that could not be written to its end."""
        return False

    def drop(self) -> None:
        """Remove what has not got its name yet."""
        with suppress(OSError, _Dropped), self._files.pop_all():
            raise _Dropped
