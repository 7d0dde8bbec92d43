"""The `video` source: any folder of video files, read by timestamp at 10 Hz and split at scene cuts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np

from gwm.shards import SourceError
from gwm.shards.clips import Cutting, Part, Run, parts, runs
from gwm.shards.schema import FRAME_RATE, Chunk, Skipped, clean_key
from gwm.shards.storage import AnyPath, find, relative, stamp
from gwm.shards.video import probe

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")


@dataclass(frozen=True)
class VideoPart:
    """Up to five minutes of one file."""

    path: AnyPath
    origin: str  # the file, relative to the source's folder
    clean: str  # the file in keys; no other file has it
    stamp: str
    part: Part
    images: int

    @property
    def name(self) -> str:
        """The file, and from when on."""
        return f"{self.origin}@{self.part[0] / FRAME_RATE:.0f}s" if self.part[0] else self.origin


@dataclass(frozen=True)
class VideoSource:
    """A folder searched through for video files, or one file: one chunk per run of frames, view "front"."""

    name: ClassVar[str] = "video"
    folder: AnyPath
    cutting: Cutting
    val_every: int = 10  # about one file in n is validation, 0: none

    def __post_init__(self) -> None:
        if self.val_every < 0:
            raise SourceError(f"every {self.val_every}th video for validation: use --val-every 0 for none, or more")

    def items(self) -> list[VideoPart]:
        """The parts of all files, sorted. Raises SourceError where there are none."""
        found = []
        paths = video_files(self.folder)
        origins = [path.name if path == self.folder else str(relative(path, self.folder)) for path in paths]
        names = [clean_key(str(PurePosixPath(origin).with_suffix(""))) for origin in origins]
        often = Counter(names)
        for path, origin, name in zip(paths, origins, names, strict=True):
            clean = name if often[name] == 1 else f"{name}-{_digest(origin):08x}"
            found += [VideoPart(path, origin, clean, stamp(path), part, images) for part, images in _parts(path)]
        return found

    def settings(self) -> dict[str, object]:
        """What decides the bytes of the shards, as JSON values."""
        return {**self.cutting.settings(), "val_every": self.val_every}

    def chunks(self, item: VideoPart) -> Iterator[Chunk | Skipped]:
        """The chunks of one file in order, then what is left out of it. Raises SourceError for what is no video."""
        info = probe(item.path)
        extra = {"source_size": [info.width, info.height], "source_fps": info.fps}
        losses: list[Skipped] = []
        for run in runs(item.path, item.origin, item.part, self.cutting, losses):
            yield self._chunk(item, run, extra)
        yield from losses

    def files(self, item: VideoPart) -> list[AnyPath]:
        """The file that a part is of."""
        return [item.path]

    def _chunk(self, item: VideoPart, run: Run, extra: dict[str, object]) -> Chunk:
        ticks = np.array([shot.tick for shot in run.shots])
        return Chunk(
            key=clean_key(self.name, item.clean, f"{ticks[0]:06d}"),
            scene=f"{item.clean}_{run.began:06d}",
            split=split_of(item.origin, self.val_every),
            origin=item.origin,
            frames={"front": [shot.jpeg for shot in run.shots]},
            timestamps=(ticks - run.began) / FRAME_RATE,
            fit=self.cutting.fit,
            extra={**extra, "start_time": run.shots[0].tick / FRAME_RATE},
        )


def split_of(origin: str, val_every: int) -> str:
    """About one file in `val_every` is validation: by its name, so that files added later change nothing."""
    return "val" if val_every and _digest(origin) % val_every == 0 else "train"


def video_files(folder: AnyPath) -> list[AnyPath]:
    """The video files at `folder`, itself one or searched through, sorted. SourceError where there are none."""
    if folder.is_file():
        return [folder]
    if not folder.exists():
        raise SourceError(f"{folder} does not exist; give a video file or a folder of them")
    found = [path for path in find(folder, "*") if path.suffix.lower() in SUFFIXES]
    if not found:
        raise SourceError(f"no video in {folder} nor in its subfolders (looked for {' '.join(SUFFIXES)})")
    return found


def _parts(path: AnyPath) -> list[tuple[Part, int]]:
    """Those of a file; one that cannot be read is left to `chunks`, which says so."""
    try:
        return parts(probe(path).duration)
    except SourceError:
        return parts(0)


def _digest(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
