"""The `opendv` source: OpenDV-YouTube (OpenDV-2K), from its videos as downloaded or from its extracted frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gwm.shards import ShardError, SourceError
from gwm.shards.clips import Cutting, Run, runs
from gwm.shards.files import sha256_of
from gwm.shards.images import jpeg_size
from gwm.shards.opendv.annotations import PATTERN, Annotation, annotation_files, captions_of, read_annotations, unpack
from gwm.shards.opendv.frames import frame_file, frame_runs
from gwm.shards.opendv.layout import OpenDVPart, downloaded, find_video, split_up, unused
from gwm.shards.opendv.sheet import PLACES, Video, find_list, read_list
from gwm.shards.schema import FRAME_RATE, Chunk, Skipped, clean_key
from gwm.shards.storage import AnyPath
from gwm.shards.video import probe

SPLITS = ("train", "val", "all")
SUBSETS = ("mini", "full")  # Mini is part of Full

_WHAT_TO_DO = (
    f"put the official sheet there, exported as CSV to {PLACES[0]}, and the videos, as yt-dlp downloads them, to "
    "videos/YOUTUBER/ID.mp4 (.webm, .mkv; spaces in the YouTuber's name as _), or make a stand-in: "
    "gwm world OUT --as opendv --scenes 2"
)


@dataclass(frozen=True)
class OpenDVSource:
    """The listed videos below a folder: one chunk per run of frames of one scene, view "front", with captions.

    Raises SourceError for an unknown split or subset.
    """

    name: ClassVar[str] = "opendv"
    folder: AnyPath
    cutting: Cutting
    split: str = "all"
    subset: str = "full"
    sheet: AnyPath | None = None  # the list of videos; None: in its usual places
    annotations: AnyPath | None = None  # their folder; None: annotations/ or beside the list, where there are any

    def __post_init__(self) -> None:
        for what, value, known in (("split", self.split, SPLITS), ("subset", self.subset, SUBSETS)):
            if value not in known:
                raise SourceError(f"OpenDV has no {what} {value!r}; use one of: {', '.join(known)}")

    def settings(self) -> dict[str, object]:
        """What decides the bytes of the shards, as JSON values. Versions of the list differ: its hash is among them."""
        chosen = {"list_sha256": sha256_of(self._list()), "split": self.split, "subset": self.subset}
        return {**self.cutting.settings(), **chosen}

    def items(self) -> list[OpenDVPart | Skipped]:
        """What is left out from the start, then the parts of all videos in the list's order.

        Raises SourceError where there is no list, none of its videos, or no annotations where they should be.
        """
        try:
            return self._items()
        except OSError as error:
            raise SourceError(f"{self.folder} cannot be read: {error}") from error

    def _items(self) -> list[OpenDVPart | Skipped]:
        listed, skipped = read_list(self._list())
        chosen = [video for video in listed if self._wants(video)]
        files = downloaded(self.folder)
        paths = {video.id: find_video(self.folder, files, video) for video in chosen}
        skipped += [Skipped(v.place, "video is not there", v.frames) for v in chosen if paths[v.id] is None]
        skipped += unused(files, listed)
        there = [(video, path) for video in chosen if (path := paths[video.id]) is not None]
        if not there:
            raise SourceError(f"none of the {len(chosen)} chosen videos of the list is in {self.folder}; {_WHAT_TO_DO}")
        packs, damage = read_annotations(self._annotations(), {video.id for video, _ in there})
        skipped += damage
        found = [part for video, path in there for part in split_up(video, path, packs.get(video.id, ()), skipped)]
        return [*skipped, *found]

    def chunks(self, item: OpenDVPart) -> Iterator[Chunk | Skipped]:
        """The chunks of one part in order, then what is left out of it. Raises SourceError for what is no video."""
        losses: list[Skipped] = []
        said = unpack(item.packs)
        if item.extracted:
            for run in frame_runs(item.path, item.video.place, item.span, self.cutting, losses):
                yield self._chunk(item, run, said, {"source_size": _size(item.path, run)})
        else:
            info = probe(item.path)
            extra = {"source_size": [info.width, info.height], "source_fps": info.fps}
            for run in runs(item.path, item.video.place, item.span, self.cutting, losses):
                yield self._chunk(item, run, said, extra)
        yield from losses

    def files(self, item: OpenDVPart) -> list[AnyPath]:
        """The file that a part is of, or its extracted frames."""
        return [item.path / frame_file(number) for number in range(*item.span)] if item.extracted else [item.path]

    def _chunk(self, item: OpenDVPart, run: Run, said: list[Annotation], extra: dict[str, object]) -> Chunk:
        video, zero = item.video, item.span[0] - item.begin
        ticks = np.array([shot.tick for shot in run.shots])
        first = int(ticks[0]) - zero
        known = {"area": video.area, "state": video.state}
        return Chunk(
            key=clean_key(self.name, video.id, f"{first:06d}"),
            scene=f"{video.id}_{run.began - zero:06d}",
            split=video.split,
            origin=video.place,
            frames={"front": [shot.jpeg for shot in run.shots]},
            timestamps=(ticks - run.began) / FRAME_RATE,
            captions=captions_of(said, first, len(ticks)),
            fit=self.cutting.fit,
            extra={
                **extra,
                "start_time": video.start_discard + first / FRAME_RATE,  # s since the video's first frame
                **{name: value for name, value in known.items() if value},
            },
        )

    def _wants(self, video: Video) -> bool:
        return self.split in ("all", video.split) and (self.subset == "full" or video.mini)

    def _list(self) -> AnyPath:
        if not self.folder.is_dir():
            raise SourceError(f"there is no folder {self.folder}; {_WHAT_TO_DO}")
        path = self.sheet or find_list(self.folder)
        if path is None:
            raise SourceError(f"no list of videos in {self.folder} (looked for {', '.join(PLACES)}); {_WHAT_TO_DO}")
        return path

    def _annotations(self) -> list[AnyPath]:
        if self.annotations is None:
            return annotation_files((self.folder / "annotations", self._list().parent))
        found = annotation_files((self.annotations,))
        if not found:
            raise SourceError(f"no annotations {PATTERN} in {self.annotations}; give the folder they are in, or none")
        return found


def _size(folder: AnyPath, run: Run) -> list[int]:
    """Width and height of a run's first extracted frame."""
    try:
        return [*jpeg_size((folder / frame_file(run.shots[0].tick)).read_bytes())]
    except (OSError, ShardError) as error:
        raise SourceError(f"{folder} changed while it was read: {error}") from error
