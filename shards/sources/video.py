"""The `video` source: any folder of video files, read by timestamp at 10 Hz and split at scene cuts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from gwm.shards import SourceError
from gwm.shards.cuts import FindCuts, mark_cuts, thumbnail
from gwm.shards.images import FITS, Size, encode_jpeg
from gwm.shards.schema import FRAME_RATE, Chunk, Skipped, clean_key
from gwm.shards.video import VideoInfo, probe, read_frames

__all__ = ["VideoInfo", "VideoSource", "probe", "read_frames"]

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")


class Shot(NamedTuple):
    """One output frame on its way into a chunk."""

    tick: int  # time since the file's first frame, in steps of 0.1 s
    jpeg: bytes


@dataclass(frozen=True)
class VideoSource:
    """A folder searched through for video files, or one file: one chunk per `frames` frames, view "front"."""

    name: ClassVar[str] = "video"
    folder: Path
    size: Size = (512, 288)  # width, height of the stored frames
    fit: str = "crop"  # see gwm.shards.images.fit
    frames: int = 100  # most frames of a chunk
    min_scene: int = 5  # frames: a shorter scene, such as a frame of a dissolve, is left out and reported
    val_every: int = 10  # every n-th file is validation, 0: none
    find_cuts: FindCuts = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise SourceError(f"no way to fit images is called {self.fit!r}; use one of: {', '.join(FITS)}")
        if self.frames < 1:
            raise SourceError(f"{self.frames} frames: a sample holds at least 1; use --frames 1 or more")
        if self.val_every < 0:
            raise SourceError(f"every {self.val_every}th video for validation: use --val-every 0 for none, or more")
        assert self.min_scene > 0, self

    def items(self) -> list[Path]:
        """The video files, sorted. Raises SourceError where there are none."""
        return list(self._files)

    def settings(self) -> dict[str, object]:
        """What decides the bytes of the shards, as JSON values."""
        return {
            "folder": str(self.folder),
            "size": list(self.size),
            "fit": self.fit,
            "frames": self.frames,
            "min_scene": self.min_scene,
            "val_every": self.val_every,
            "cuts": self.find_cuts.name,
        }

    def chunks(self, item: Path) -> Iterator[Chunk | Skipped]:
        """The chunks of one file in order, then what is left out of it. Raises SourceError for what is no video."""
        info, origin = probe(item), self._origin(item)
        losses: list[Skipped] = []
        seen = (
            (Shot(round(time * FRAME_RATE), encode_jpeg(image)), thumbnail(image))
            for time, image in read_frames(item, self.size, self.fit, losses)
        )
        least = min(self.min_scene, self.frames)
        scene = number = -1
        began, named = 0, False
        short: list[int] = []
        for fresh, run in _runs(mark_cuts(seen, self.find_cuts), self.frames):
            if fresh:
                began, named = run[0].tick, False
            if fresh and len(run) < least:
                short.append(len(run))
                continue
            scene, named, number = scene + (not named), True, number + 1
            yield self._chunk(item, info, run, began, scene, number)
        if short:
            part = f"{origin}: frames: {sum(short)}, scenes: {len(short)}"
            yield Skipped(part, f"scene shorter than {least} frames")
        yield from (Skipped(f"{origin}: {loss.item}", loss.cause) for loss in losses)

    def _chunk(self, item: Path, info: VideoInfo, run: list[Shot], began: int, scene: int, number: int) -> Chunk:
        index, name = self._files[item]
        ticks = np.array([shot.tick for shot in run])
        return Chunk(
            key=clean_key(self.name, name, f"{number:04d}"),
            scene=f"{name}_{scene:02d}",
            split="val" if self.val_every and index % self.val_every == self.val_every - 1 else "train",
            origin=self._origin(item),
            frames={"front": [shot.jpeg for shot in run]},
            timestamps=(ticks - began) / FRAME_RATE,
            extra={
                "fit": self.fit,
                "source_size": [info.width, info.height],
                "source_fps": info.fps,
                "start_time": run[0].tick / FRAME_RATE,
            },
        )

    def _origin(self, item: Path) -> str:
        return item.name if item == self.folder else item.relative_to(self.folder).as_posix()

    @cached_property
    def _files(self) -> dict[Path, tuple[int, str]]:
        """Every file with its place in the order and its name in keys, which no other file has."""
        paths = video_files(self.folder)
        names = [clean_key(str(Path(self._origin(p)).with_suffix(""))) for p in paths]
        seen = Counter(names)
        files = {}
        for index, (path, name) in enumerate(zip(paths, names, strict=True)):
            digest = hashlib.sha256(self._origin(path).encode()).hexdigest()[:8]
            files[path] = (index, name if seen[name] == 1 else f"{name}-{digest}")
        return files


def video_files(folder: Path) -> list[Path]:
    """The video files at `folder`, itself one or searched through, sorted. SourceError where there are none."""
    if folder.is_file():
        return [folder]
    if not folder.exists():
        raise SourceError(f"{folder} does not exist; give a video file or a folder of them")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise SourceError(f"no video in {folder} nor in its subfolders (looked for {' '.join(SUFFIXES)})")
    return found


def _runs(shots: Iterable[tuple[Shot, bool]], longest: int) -> Iterator[tuple[bool, list[Shot]]]:
    """At most `longest` consecutive frames, none across a cut or a jump in time, and whether they begin a scene."""
    run: list[Shot] = []
    fresh = True
    for shot, cut in shots:
        if run and (len(run) == longest or cut or shot.tick != run[-1].tick + 1):
            yield fresh, run
            fresh, run = cut or shot.tick != run[-1].tick + 1, []
        run.append(shot)
    if run:
        yield fresh, run
