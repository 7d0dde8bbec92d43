"""What a rollout leaves to look at: videos, a contact sheet, and on request a GIF and single frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import cv2
import numpy as np

from gwm.pipelines.gif_out import GifWriter
from gwm.pipelines.overlay import draw_actions
from gwm.pipelines.progress import console
from gwm.pipelines.start import Start
from gwm.pipelines.video_out import VideoWriter, contact_sheet, refusal
from gwm.shards import ShardError, SourceError
from gwm.shards.files import replacing
from gwm.shards.schema import FRAME_RATE, Images, Motion

CONTACT_COLUMNS = 10
MIN_WIDTH = 512  # pixels: smaller pictures are enlarged in videos, by whole factors
FRONT_ROW = ("side_left", "front_left", "front", "front_right", "side_right")  # as one looks forward
FONT = cv2.FONT_HERSHEY_SIMPLEX
VIDEO, SHEET, GIF, BOTH, FRAMES = "rollout.mp4", "contact.png", "rollout.gif", "side-by-side.mp4", "frames"


@dataclass(frozen=True)
class Outputs:
    """What is wanted beside the videos and the contact sheet."""

    gif: bool = False
    save_frames: bool = False  # as PNG, at the model's size
    overlay: bool = False  # the actions, drawn on videos, GIF and sheet


class Writer(Protocol):
    """A file of pictures."""

    path: Path
    frames: int

    def __enter__(self) -> Writer: ...
    def add(self, frame: Images) -> None: ...
    def finish(self) -> None: ...
    def salvage(self) -> bool: ...
    def drop(self) -> None: ...


class Gallery:
    """Takes the frames of a rollout one by one and writes all of its pictures; use it in a `with` statement.

    However the statement ends, what was added plays: files are finished, and where the disk is full, cut to what is
    whole. Raises ShardError where a file cannot be written. Holds a few frames, never all.
    """

    def __init__(self, folder: Path, start: Start, motion: Motion, frames: int, outputs: Outputs) -> None:
        """motion: what `outputs.overlay` shows, at least `frames` long; frames: how many there will be."""
        self.folder, self.start, self.motion, self.outputs = folder, start, motion, outputs
        self.columns = even_frames(frames)
        self.done = 0
        self._real: Iterator[Images | None] | None = start.truth() if start.truth else None
        self._shown: dict[int, Images] = {}
        self._shown_real: dict[int, Images] = {}
        self._video = VideoWriter(folder / VIDEO)
        several = start.views if len(start.views) > 1 else ()
        self._views = [VideoWriter(folder / f"view-{view}.mp4") for view in several]
        self._both = VideoWriter(folder / BOTH) if self._real is not None else None
        self._gif = GifWriter(folder / GIF) if outputs.gif else None
        given = (self._video, *self._views, self._both, self._gif)
        self._writers: list[Writer] = [writer for writer in given if writer is not None]

    def __enter__(self) -> Gallery:
        try:
            for writer in self._writers:
                writer.__enter__()
            if self.outputs.save_frames:
                for folder in self._frame_folders():
                    folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._drop()
            raise refusal(self.folder, error) from error
        except BaseException:
            self._drop()
            raise
        return self

    def add(self, images: Images) -> None:
        """The next frame, (K, H, W, 3) RGB uint8."""
        together = tiled(images, self.start.views)
        picture = self._drawn(enlarged(together))
        self._video.add(picture)
        for writer, image in zip(self._views, images, strict=False):
            writer.add(self._drawn(enlarged(image)))
        if self._gif is not None:
            self._gif.add(picture)
        if self.outputs.save_frames:
            self._save(images)
        if self.done in self.columns:
            self._shown[self.done] = picture if self.outputs.overlay else together
        if self._both is not None:
            self._compare(self._both, picture, np.zeros_like(together))
        self.done += 1

    def _compare(self, both: VideoWriter, picture: Images, blank: Images) -> None:
        """The real frame above the generated one, as long as the source goes on; black where it misses one."""
        try:
            images = next(self._real) if self._real is not None else None
        except StopIteration:
            self._real = None
        except (SourceError, ShardError) as error:
            console.print(f"no real frame {self.done} to compare with: {error}", markup=False, highlight=False)
            self._real = None
        if self._real is None:
            return
        real = blank if images is None else tiled(images, self.start.views)
        if self.done in self.columns:
            self._shown_real[self.done] = real
        both.add(np.concatenate([labelled(enlarged(real), "real"), labelled(picture, "generated")]))

    def _drawn(self, picture: Images) -> Images:
        if not self.outputs.overlay:
            return picture
        assert self.motion.speed is not None
        assert self.motion.steering is not None
        return draw_actions(picture, float(self.motion.speed[self.done]), float(self.motion.steering[self.done]))

    def _frame_folders(self) -> list[Path]:
        base = self.folder / FRAMES
        return [base / view for view in self.start.views] if len(self.start.views) > 1 else [base]

    def _save(self, images: Images) -> None:
        for folder, image in zip(self._frame_folders(), images, strict=True):
            path = folder / f"{self.done:06d}.png"
            png = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
            try:
                with replacing(path) as temporary:
                    temporary.write_bytes(png.tobytes())
            except OSError as error:
                raise refusal(path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failures = []
        for writer in self._writers:
            try:
                if writer.frames:
                    writer.finish()
            except ShardError as failure:
                writer.salvage()
                failures.append(failure)
        self._drop()
        try:
            self._write_sheet()
        except ShardError as failure:
            failures.append(failure)
        if failures and error is None:
            raise failures[0]

    def _drop(self) -> None:
        for writer in self._writers:
            writer.drop()

    def _write_sheet(self) -> None:
        """Generated frames, below the real ones where the source has them."""
        columns = sorted(self._shown)
        if not columns:
            return
        rows = [("generated", [self._shown[i] for i in columns])]
        if self._shown_real:
            blank = np.zeros_like(next(iter(self._shown_real.values())))
            rows.insert(0, ("real", [self._shown_real.get(i, blank) for i in columns]))
        contact_sheet(self.folder / SHEET, rows, [f"{i / FRAME_RATE:.1f} s" for i in columns])

    def files(self) -> tuple[str, ...]:
        """The names of what there is in the folder now."""
        names = [writer.path.name for writer in self._writers] + [
            SHEET,
            *([FRAMES] if self.outputs.save_frames else []),
        ]
        return tuple(name for name in names if (self.folder / name).exists())


def even_frames(frames: int, columns: int = CONTACT_COLUMNS) -> list[int]:
    """Indices of the contact sheet's columns: the first frame, the last, and evenly between."""
    return sorted(set(np.linspace(0, frames - 1, min(columns, frames)).round().astype(int).tolist()))


def tiled(images: Images, views: Sequence[str]) -> Images:
    """One picture of K views (K, H, W, 3): those to the front in one row, the others below, from left to right."""
    if len(views) == 1:
        return np.asarray(images[0], np.uint8)
    by_name = dict(zip(views, images, strict=True))
    front = [view for view in FRONT_ROW if view in by_name]
    behind = [view for view in (*(f"back{side}" for side in ("_left", "", "_right")), *views) if view in by_name]
    others = [view for view in dict.fromkeys(behind) if view not in front]
    rows = [row for row in (front, others) if row]
    width = max(len(row) for row in rows)
    black = np.zeros_like(images[0])
    return np.concatenate(
        [np.concatenate([by_name[view] for view in row] + [black] * (width - len(row)), axis=1) for row in rows]
    )


def enlarged(picture: Images) -> Images:
    """(H, W, 3) at the least whole multiple of its size that is MIN_WIDTH wide."""
    times = max(1, -(-MIN_WIDTH // picture.shape[1]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def labelled(picture: Images, label: str) -> Images:
    """A copy of (H, W, 3) with a word in its upper left corner."""
    out = picture.copy()
    for colour, thickness in (((0, 0, 0), 3), ((235, 235, 235), 1)):
        cv2.putText(out, label, (8, 20), FONT, 0.5, colour, thickness, cv2.LINE_AA)
    return out
