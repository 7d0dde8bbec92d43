"""The `waymo` source: the perception dataset, version 1 (TFRecord) or 2 (Parquet), one chunk a segment."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gwm.shards import ShardError, SourceError
from gwm.shards.images import FITS, Size, fit_camera, fit_jpeg, jpeg_size
from gwm.shards.motion import forward_speed
from gwm.shards.schema import FRAME_RATE, VIEWS, Camera, Chunk, Damaged, Floats, Motion, Skipped, clean_key
from gwm.shards.storage import AnyPath, find, relative, stamp
from gwm.shards.waymo import v1, v2
from gwm.shards.waymo.frame import VIEWS as CAMERAS
from gwm.shards.waymo.frame import Frame

SPLITS = {"training": "train", "validation": "val", "testing": "test", "testing_location": "test"}  # by folder
LOCATIONS = {"location_sf": "San Francisco", "location_phx": "Phoenix", "location_other": ""}
LONGEST_STEP = 0.15  # s between two frames; a longer one is a gap
SEGMENT_FRAMES = 200
DAMAGED, OTHER_SIZE = "image is damaged", "image and calibration differ in size"


@dataclass(frozen=True)
class Segment:
    """One segment: a file of version 1, or the files of version 2."""

    name: str  # the context name
    split: str
    path: AnyPath  # the TFRecord file, or the folder that holds the components
    version: int
    images: int
    stamp: str  # bytes


@dataclass
class _Run:
    """Consecutive frames with the same cameras, their images as they are stored."""

    frames: list[Frame] = field(default_factory=list)
    jpegs: list[dict[str, bytes]] = field(default_factory=list)

    def goes_on(self, frame: Frame, jpegs: dict[str, bytes]) -> bool:
        """Whether `frame` belongs to it."""
        step = (frame.micros - self.frames[-1].micros) / 1e6
        return step <= LONGEST_STEP and self.jpegs[-1].keys() == jpegs.keys()


@dataclass(frozen=True)
class WaymoSource:
    """The segments below a folder. Frames without the image of a camera are chunks of their own, without that view."""

    name: ClassVar[str] = "waymo"
    folder: AnyPath
    size: Size | None = (512, 288)  # width, height of the stored frames; None: as they are
    fit: str = "crop"  # see gwm.shards.images.fit
    views: tuple[str, ...] = tuple(CAMERAS.values())
    frames: int = SEGMENT_FRAMES  # most frames of a chunk
    min_frames: int = 5  # a shorter run between two gaps is left out and reported

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise SourceError(f"no way to fit images is called {self.fit!r}; use one of: {', '.join(FITS)}")
        if self.frames < 1:
            raise SourceError(f"{self.frames} frames: a sample holds at least 1; use --frames 1 or more")
        unknown = [view for view in self.views if view not in CAMERAS.values()]
        if unknown or not self.views:
            raise SourceError(f"no camera {', '.join(unknown)}; Waymo has {', '.join(CAMERAS.values())}")

    def settings(self) -> dict[str, object]:
        """What decides the bytes of the shards, as JSON values."""
        return {
            "size": "native" if self.size is None else list(self.size),
            "fit": self.fit,
            "views": [view for view in VIEWS if view in self.views],
            "frames": self.frames,
            "min_frames": self.min_frames,
        }

    def items(self) -> list[Segment]:
        """The segments, sorted by name. SourceError where there are none."""
        if not self.folder.exists():
            raise SourceError(f"{self.folder} does not exist; {_WHAT_TO_DO}")
        found = []
        for path in find(self.folder, "*.tfrecord"):
            context = re.search(r"\d+(_\d+){4}", path.name)  # whatever a download or a copy put around it
            found.append(self._segment(context[0] if context else path.stem, path, 1, stamp(path)))
        for path in find(self.folder, "camera_image/*.parquet"):
            folder = path.parent.parent
            sizes = "-".join(stamp(folder / component / path.name) for component in v2.COMPONENTS)
            found.append(self._segment(path.stem, folder, 2, sizes))
        if not found:
            raise SourceError(f"no segment in {self.folder} nor in its subfolders; {_WHAT_TO_DO}")
        return sorted(found, key=lambda segment: segment.name)

    def _segment(self, name: str, path: AnyPath, version: int, sizes: str) -> Segment:
        folders = reversed(relative(path, self.folder).parts)
        split = next((SPLITS[part] for part in folders if part in SPLITS), "train")
        return Segment(name, split, path, version, SEGMENT_FRAMES * len(self.views), sizes)

    def chunks(self, item: Segment) -> Iterator[Chunk | Skipped]:
        """The chunks of a segment, and what is left out of it."""
        run, began = _Run(), 0
        lacking: Counter[tuple[str, str]] = Counter()  # images of (view, cause)
        since: dict[tuple[str, str], float] = {}
        for frame in _in_order(item):
            if isinstance(frame, Skipped):
                yield frame
                continue
            began = began or frame.micros
            jpegs, missing = self._images(frame)
            for one in missing:
                since.setdefault(one, (frame.micros - began) / 1e6)
                lacking[one] += 1
            if run.frames and (len(run.frames) == self.frames or not run.goes_on(frame, jpegs)):
                yield from self._finish(item, run, began)
                run = _Run()
            if not jpegs:
                yield Skipped(f"{item.name}: {_at(frame, began)}", "no image of any camera", 1)
                continue
            run.frames.append(frame)
            run.jpegs.append(jpegs)
        if run.frames:
            yield from self._finish(item, run, began)
        for (view, cause), count in lacking.items():
            where = f"{item.name}: {view}, {count} images, the first at {since[view, cause]:.1f} s"
            yield (Damaged if cause in (DAMAGED, OTHER_SIZE) else Skipped)(where, cause)

    def files(self, item: Segment) -> list[AnyPath]:
        """What a segment is read from."""
        if item.version == 1:
            return [item.path]
        return [_component(item, component) for component in v2.COMPONENTS]

    def _images(self, frame: Frame) -> tuple[dict[str, bytes], list[tuple[str, str]]]:
        """The frame's images as they are stored, by view, and which are not there and why."""
        jpegs, missing = {}, []
        calibrated = {calibration.view: (calibration.width, calibration.height) for calibration in frame.calibrations}
        for view in self.views:
            if view not in frame.images:
                missing.append((view, "camera has no image"))
            elif view not in calibrated:
                missing.append((view, "camera has no calibration"))
            else:
                try:
                    jpeg = frame.images[view].jpeg
                    if jpeg_size(jpeg) != calibrated[view]:
                        missing.append((view, OTHER_SIZE))
                        continue
                    jpegs[view] = fit_jpeg(jpeg, self.size, self.fit)
                except ShardError:
                    missing.append((view, DAMAGED))
        return jpegs, missing

    def _finish(self, item: Segment, run: _Run, began: int) -> Iterator[Chunk | Skipped]:
        """The chunk of a run, or the report of one that is too short."""
        first, length = run.frames[0], len(run.frames)
        if length < min(self.min_frames, self.frames):
            where = f"{item.name}: {_at(first, began)}"
            yield Skipped(where, f"fewer than {self.min_frames} frames between gaps", length)
            return
        times = np.array([frame.micros - began for frame in run.frames])
        views = tuple(run.jpegs[0])
        cameras = sorted((c for c in first.calibrations if c.view in views), key=lambda c: VIEWS.index(c.view))
        yield Chunk(
            key=clean_key(self.name, item.name, f"{round(times[0] / 1e6 * FRAME_RATE):03d}"),
            scene=first.segment,
            split=item.split,
            origin=first.segment,
            frames={view: [jpegs[view] for jpegs in run.jpegs] for view in views},
            timestamps=times / 1e6,
            motion=Motion(np.stack([frame.pose for frame in run.frames]), _speed(run.frames)),
            cameras=tuple(self._camera(c.camera()) for c in cameras),
            text=describe(first),
            fit="" if self.size is None else self.fit,
            extra={
                "source_sizes": {c.view: [c.width, c.height] for c in cameras},
                "distortion": {c.view: list(c.intrinsic[4:]) for c in cameras},  # k1 k2 p1 p2 k3, of the whole image
                "first_timestamp_micros": first.micros,
            },
        )

    def _camera(self, camera: Camera) -> Camera:
        return camera if self.size is None else fit_camera(camera, self.size, self.fit)


_WHAT_TO_DO = (
    "put Waymo's perception files there as downloaded (version 1: segment-*.tfrecord, version 2: "
    "training/camera_image/*.parquet and the other components), or make a stand-in: "
    "gwm world OUT --as waymo --scenes 2"
)


def describe(frame: Frame) -> str:
    """The segment's stats as text."""
    place = LOCATIONS.get(frame.location, frame.location.removeprefix("location_"))
    return ", ".join(part for part in (frame.time_of_day.lower(), frame.weather.lower(), place) if part)


def _frames(item: Segment) -> Iterator[Frame | Damaged]:
    if item.version == 1:
        try:
            with item.path.open("rb") as file:
                yield from v1.read_frames(file, item.name)
        except OSError as error:
            yield Damaged(item.name, f"cannot be read: {error.strerror or error}")
    else:
        yield from v2.read_frames(lambda component: _component(item, component).open("rb"), item.name)


def _in_order(item: Segment) -> Iterator[Frame | Skipped]:
    """The frames of a segment as time advances, and what is damaged, absent, or there twice."""
    last: Frame | None = None
    began = lost = holes = 0  # time of the first frame; frames damaged since the last one; frames of all gaps
    times: set[int] = set()
    empty = True
    for frame in _frames(item):
        empty = False
        if isinstance(frame, Damaged):
            lost += frame.frames
            yield frame
            continue
        began = began or frame.micros
        if last is not None and frame.micros <= last.micros:
            late = frame.micros not in times and holes > 0  # so it was counted as absent
            holes -= late
            yield Skipped(f"{item.name}: {_at(frame, began)}", "time does not advance", 1 - late)
            continue
        step = 0 if last is None else (frame.micros - last.micros) / 1e6
        absent = round(step * FRAME_RATE) - 1 - lost
        if last is not None and step > LONGEST_STEP and absent > 0:
            absent = absent if absent < SEGMENT_FRAMES else 0  # such a time is wrong
            holes += absent
            yield Skipped(f"{item.name}: {_at(last, began)}: {step:.1f} s", "gap between frames", absent)
        yield frame
        last, lost = frame, 0
        times.add(frame.micros)
    if empty:
        yield Damaged(item.name, "there is no frame in it")


def _component(item: Segment, component: str) -> AnyPath:
    """The file of one of the components of version 2."""
    return item.path / component / f"{item.name}.parquet"


def _speed(frames: Sequence[Frame]) -> Floats | None:
    """(T,) m/s forward: the first camera's velocity in the vehicle's axes; from the poses where one has none."""
    speeds = []
    for frame in frames:
        image = next(image for image in frame.images.values())
        if image.velocity is None:
            poses, times = np.stack([f.pose for f in frames]), np.array([f.micros for f in frames]) / 1e6
            return forward_speed(poses, times)
        speeds.append(image.pose[:3, 0] @ np.array(image.velocity[:3]))
    return np.array(speeds)


def _at(frame: Frame, began: int) -> str:
    return f"at {(frame.micros - began) / 1e6:.1f} s"
