"""A video, or a part of it, as runs of frames of one scene: what the sources of single videos have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from gwm.shards import SourceError
from gwm.shards.cuts import FindCuts, mark_cuts
from gwm.shards.images import FITS, Size, encode_jpeg
from gwm.shards.schema import FRAME_RATE, Images, Skipped
from gwm.shards.storage import AnyPath
from gwm.shards.video import read_frames

PART = 3000  # frames: five minutes are read on their own, about one shard
Part = tuple[int, int | None]  # begin, end in ticks of 0.1 s since the file's first frame


class Shot(NamedTuple):
    """One output frame on its way into a chunk."""

    tick: int  # time since the file's first frame, in steps of 0.1 s
    jpeg: bytes


@dataclass(frozen=True)
class Run:
    """Consecutive frames of one scene."""

    began: int  # tick of the scene's first frame
    shots: list[Shot]


@dataclass(frozen=True)
class Cutting:
    """How videos become runs of frames."""

    find_cuts: FindCuts | None  # None: there are no cuts
    size: Size = (512, 288)  # width, height of the stored frames
    fit: str = "crop"  # see gwm.shards.images.fit
    frames: int = 100  # most frames of a run
    min_scene: int = 5  # frames: a shorter scene, such as a frame of a dissolve, is left out and reported

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise SourceError(f"no way to fit images is called {self.fit!r}; use one of: {', '.join(FITS)}")
        if self.frames < 1:
            raise SourceError(f"{self.frames} frames: a sample holds at least 1; use --frames 1 or more")
        assert self.min_scene > 0, self

    def settings(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "size": list(self.size),
            "fit": self.fit,
            "frames": self.frames,
            "min_scene": self.min_scene,
            "cuts": "none" if self.find_cuts is None else self.find_cuts.name,
        }


def parts(duration: float, begin: int = 0, end: int | None = None) -> list[tuple[Part, int]]:
    """A video of `duration` s (0: unknown) as parts, with about how many frames each has.

    The last one goes on to `end`, or as far as there are frames.
    """
    stop = round(duration * FRAME_RATE) or begin + PART
    length = max(0, min(stop, stop if end is None else end) - begin)
    count = max(1, round(length / PART))
    starts = [begin + i * PART for i in range(count)]
    lengths = [PART] * (count - 1) + [length - PART * (count - 1)]
    return list(zip(zip(starts, [*starts[1:], end], strict=True), lengths, strict=True))


def runs(path: AnyPath, origin: str, part: Part, cutting: Cutting, losses: list[Skipped]) -> Iterator[Run]:
    """The runs of a part of a video in order; what is left out is appended to `losses`.

    Raises SourceError for what is no video.
    """
    damage: list[Skipped] = []
    seen = (
        (Shot(round(time * FRAME_RATE), encode_jpeg(image)), image)
        for time, image in read_frames(path, cutting.size, cutting.fit, damage, *part)
    )
    yield from cut_up(seen, origin, cutting, losses)
    losses += [replace(loss, item=f"{origin}: {loss.item}") for loss in damage]


def cut_up(seen: Iterable[tuple[Shot, Images]], origin: str, cutting: Cutting, losses: list[Skipped]) -> Iterator[Run]:
    """The runs of frames given with their images; scenes too short are appended to `losses`."""
    least = min(cutting.min_scene, cutting.frames)
    short: list[int] = []
    began = 0
    for fresh, run in _runs(mark_cuts(seen, cutting.find_cuts), cutting.frames):
        if fresh:
            began = run[0].tick
        if fresh and len(run) < least:
            short.append(len(run))
        else:
            yield Run(began, run)
    if short:
        item = f"{origin}: frames: {sum(short)}, scenes: {len(short)}"
        losses.append(Skipped(item, f"scene shorter than {least} frames", sum(short)))


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
