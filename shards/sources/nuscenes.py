"""The `nuscenes` source: six cameras at common moments, one chunk a scene; or the clips of an annotation file."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np

from gwm.shards import ShardError, SourceError
from gwm.shards.images import FITS, Size, fit_camera, fit_jpeg, jpeg_size
from gwm.shards.nuscenes.can_bus import MESSAGES, CanBus, message_file, read_can_bus
from gwm.shards.nuscenes.drive import ego_track, motion_at
from gwm.shards.nuscenes.moments import RATES, Moments, as_they_come, at_ten_hertz
from gwm.shards.nuscenes.scene import VIEWS, Scene, Sensor
from gwm.shards.nuscenes.splits import OFFICIAL
from gwm.shards.nuscenes.tables import read_scenes, version_folder
from gwm.shards.nuscenes.vista import FRAMES, Clip, Exported, read_clips, write_clips
from gwm.shards.schema import FRAME_RATE, Camera, Chunk, Damaged, Floats, Motion, Skipped, clean_key
from gwm.shards.schema import VIEWS as ORDER
from gwm.shards.storage import AnyPath, stamp

PARTS = ("train_detect", "train_track", "mini_train", "mini_val")  # of train and val
SPLITS = ("train", "val", "test", *PARTS, "all")
GAP, MISSING = "camera has a gap", "image file is missing"


@dataclass(frozen=True, eq=False)
class SceneItem:
    """One scene with what the tables say of it, so that no worker reads them again."""

    scene: Scene
    clips: tuple[Clip, ...]  # of the annotation file, where one is given
    images: int
    stamp: str

    @property
    def name(self) -> str:
        """That of the scene."""
        return self.scene.name


class _Loss(NamedTuple):
    """An output time of which there is no frame."""

    tick: int
    views: str
    cause: str


@dataclass
class _Run:
    """Consecutive frames, their images as they are stored."""

    rows: list[int] = field(default_factory=list)  # of the moments
    jpegs: list[dict[str, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class NuScenesSource:
    """The scenes of a version of nuScenes. A chunk ends where one of the cameras has no image."""

    name: ClassVar[str] = "nuscenes"
    folder: AnyPath  # that holds v1.0-*, samples, sweeps and can_bus
    version: str | None = None  # v1.0-trainval, v1.0-test, v1.0-mini; None: the one with most scenes
    split: str = "all"  # only these scenes: see SPLITS
    size: Size | None = (512, 288)  # width, height of the stored frames; None: as they are
    fit: str = "crop"  # see gwm.shards.images.fit
    views: tuple[str, ...] = VIEWS
    rate: str = "10"  # "10": every 0.1 s the nearest images; "raw": the 12 Hz chain as if it were 10 Hz, as in Vista
    annotations: AnyPath | None = None  # Vista's annotation file: its clips are the chunks, rate raw, view front
    frames: int = 300  # most frames of a chunk; a scene has about 200
    min_frames: int = 5  # a shorter run between two gaps is left out and reported

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise SourceError(f"no way to fit images is called {self.fit!r}; use one of: {', '.join(FITS)}")
        if self.rate not in RATES:
            raise SourceError(f"no rate is called {self.rate!r}; use one of: {', '.join(RATES)}")
        if self.split not in SPLITS:
            raise SourceError(f"nuScenes has no split {self.split!r}; use one of: {', '.join(SPLITS)}")
        if self.frames < 1:
            raise SourceError(f"{self.frames} frames: a sample holds at least 1; use --frames 1 or more")
        unknown = [view for view in self.views if view not in VIEWS]
        if unknown or not self.views:
            raise SourceError(f"no camera {', '.join(unknown)}; nuScenes has {', '.join(VIEWS)}")

    def settings(self) -> dict[str, object]:
        """What decides the bytes of the shards, as JSON values."""
        return {
            "version": version_folder(self.folder, self.version).name,
            "split": self.split,
            "size": "native" if self.size is None else list(self.size),
            "fit": self.fit,
            "views": [view for view in ORDER if view in self._views],
            "rate": "clips" if self.annotations is not None else self.rate,
            "frames": self.frames,
            "min_frames": self.min_frames,
        }

    @property
    def _views(self) -> tuple[str, ...]:
        wanted = ("front",) if self.annotations is not None else self.views
        return tuple(view for view in VIEWS if view in wanted)

    def items(self) -> list[SceneItem | Skipped]:
        """The scenes, sorted by name. SourceError where there are none, or where the tables are damaged."""
        scenes = self._scenes()
        lost: list[Skipped] = []
        clips: Mapping[str, list[Clip]] = {}
        if self.annotations is not None:
            clips = _by_scene(read_clips(self.annotations), scenes, lost)
        sizes = {path.name: stamp(path) for path in _inside(self.folder / "can_bus")}
        found = [
            self._item(scene, tuple(clips.get(scene.name, ())), sizes)
            for scene in scenes
            if self.annotations is None or scene.name in clips
        ]
        if not found:
            raise SourceError(
                f"no clip of {self.annotations} is in the tables of {self.folder}; give the whole dataset"
            )
        return [*found, *lost]

    def export_clips(self, path: AnyPath) -> Exported:
        """Write Vista's annotation file of the scenes, instead of shards. SourceError as for `items`."""
        return write_clips(path, self.folder, self._scenes())

    def _scenes(self) -> list[Scene]:
        tables = version_folder(self.folder, self.version)
        scenes = [scene for scene in read_scenes(tables) if self._wants(scene)]
        if not scenes:
            wanted = "scene" if self.split == "all" else f"scene of the split {self.split}"
            raise SourceError(f"no {wanted} in {tables}; choose another --version or --split, or download it again")
        return scenes

    def _wants(self, scene: Scene) -> bool:
        if self.split in PARTS:
            return scene.name in OFFICIAL[self.split]
        return self.split in ("all", scene.split)

    def _item(self, scene: Scene, clips: tuple[Clip, ...], sizes: Mapping[str, str]) -> SceneItem:
        digest = hashlib.sha256(scene.description.encode())
        for camera in scene.cameras.values():
            shots = camera.shots
            columns = (shots.files, shots.micros, shots.ego.translation, shots.ego.rotation, shots.key)
            for column in (*columns, camera.extrinsics, camera.intrinsics):
                digest.update(np.ascontiguousarray(column).tobytes())
            digest.update(stamp(self.folder / shots.file(0)).encode())  # the images come in parts, scene by scene
        for message in MESSAGES:
            digest.update(sizes.get(message_file(self.folder, scene.name, message).name, "-").encode())
        for clip in clips:
            digest.update(json.dumps([clip.files, _actions(clip)]).encode())
        span = max((int(c.shots.micros[-1] - c.shots.micros[0]) for c in scene.cameras.values()), default=0)
        images = len(clips) * FRAMES if self.annotations is not None else len(self._views) * (span // 100_000 + 1)
        return SceneItem(scene, clips, images, digest.hexdigest()[:16])

    def chunks(self, item: SceneItem) -> Iterator[Chunk | Skipped]:
        """The chunks of a scene in order, and what is left out of it."""
        scene, losses = item.scene, list[_Loss]()
        can_bus = read_can_bus(self.folder, scene.name)
        for message, state in can_bus.state.items():
            if state == "damaged":
                yield Damaged(message_file(self.folder, scene.name, message).name, "CAN bus message is damaged")
        absent = [view for view in self._views if view not in scene.cameras]
        if absent:
            yield Skipped(f"{scene.name}: {', '.join(absent)}", "camera has no images", _length(scene, item.clips))
        elif self.annotations is not None:
            yield from self._clips(item, can_bus)
        else:
            times = {view: scene.cameras[view].shots.micros for view in self._views}
            moments = at_ten_hertz(times) if self.rate == "10" else as_they_come(times)
            if moments.late:
                yield Skipped(f"{scene.name}: from its first image on", "not every camera has begun", moments.late)
            yield from self._runs(scene, moments, can_bus, losses)
            yield from _report(scene, losses)

    def files(self, item: SceneItem) -> Iterator[AnyPath]:
        """The messages and images of a scene."""
        for message in MESSAGES:
            yield message_file(self.folder, item.name, message)
        for view in self._views:
            if view in item.scene.cameras:
                shots = item.scene.cameras[view].shots
                yield from (self.folder / shots.file(i) for i in range(len(shots.files)))

    def _runs(self, scene: Scene, moments: Moments, can_bus: CanBus, losses: list[_Loss]) -> Iterator[Chunk | Skipped]:
        """The chunks of a scene; output times that are lost are appended to `losses`."""
        run = _Run()
        for row, tick in enumerate(moments.ticks):
            jump = int(tick - moments.ticks[row - 1]) - 1 if row else 0
            if jump:
                yield Skipped(f"{scene.name}: before {tick / FRAME_RATE:.1f} s", "gap between images", jump)
            jpegs = self._images(scene, {view: int(picks[row]) for view, picks in moments.picks.items()})
            if run.rows and (jump or isinstance(jpegs, tuple) or len(run.rows) == self.frames):
                yield self._finish(scene, moments, run, can_bus)
                run = _Run()
            if isinstance(jpegs, tuple):
                losses.append(_Loss(int(tick), *jpegs))
            else:
                run.rows.append(row)
                run.jpegs.append(jpegs)
        if run.rows:
            yield self._finish(scene, moments, run, can_bus)

    def _images(self, scene: Scene, picks: Mapping[str, int]) -> dict[str, bytes] | tuple[str, str]:
        """The images of one moment as they are stored, by view; or which views have none, and why the first has not."""
        jpegs: dict[str, bytes] = {}
        causes: dict[str, str] = {}
        for view, pick in picks.items():
            image = GAP if pick < 0 else self._image(scene.cameras[view], pick)
            if isinstance(image, str):
                causes[view] = image
            else:
                jpegs[view] = image
        return (", ".join(causes), next(iter(causes.values()))) if causes else jpegs

    def _image(self, camera: Sensor, pick: int) -> bytes | str:
        """One image, or why there is none."""
        try:
            with (self.folder / camera.shots.file(pick)).open("rb") as file:
                jpeg = file.read()
            if jpeg_size(jpeg) != (camera.width, camera.height):
                return "image and table differ in size"
            return fit_jpeg(jpeg, self.size, self.fit)
        except FileNotFoundError:
            return MISSING
        except OSError:
            return "image file cannot be read"
        except ShardError:
            return "image is damaged"

    def _finish(self, scene: Scene, moments: Moments, run: _Run, can_bus: CanBus) -> Chunk | Skipped:
        """The chunk of a run, or the report of one that is too short."""
        ticks, micros = moments.ticks[run.rows], moments.micros[run.rows]
        if len(ticks) < min(self.min_frames, self.frames):
            return Skipped(f"{scene.name}: at {ticks[0] / FRAME_RATE:.1f} s", "too few frames between gaps", len(ticks))
        motion, sources = motion_at(ego_track(scene), can_bus, micros)
        taken = {view: scene.cameras[view].shots.micros[picks[run.rows]] for view, picks in moments.picks.items()}
        return self._chunk(
            scene, f"{ticks[0]:03d}", ticks / FRAME_RATE, run.jpegs, motion,
            {"motion": sources, "can_bus": dict(can_bus.state), "frame_micros": micros.tolist(),
             "image_micros": {view: own.tolist() for view, own in taken.items()}},
        )  # fmt: skip

    def _chunk(
        self, scene: Scene, part: str, timestamps: Floats, jpegs: list[dict[str, bytes]], motion: Motion,
        extra: dict[str, object],
    ) -> Chunk:  # fmt: skip
        cameras = [scene.cameras[view] for view in self._views]
        return Chunk(
            key=clean_key(self.name, scene.name, part),
            scene=scene.name,
            split=scene.split,
            origin=scene.name,
            frames={view: [images[view] for images in jpegs] for view in self._views},
            timestamps=timestamps,
            motion=motion,
            cameras=tuple(self._camera(sensor.camera()) for sensor in cameras),
            text=scene.description,
            fit="" if self.size is None else self.fit,
            extra={
                "rate": "raw" if self.annotations is not None else self.rate,
                "source_sizes": {view: [c.width, c.height] for view, c in zip(self._views, cameras, strict=True)},
                "location": scene.location,
                "date": scene.date,
                "split_from": scene.split_from or "in no list, so train",
                **extra,
            },
        )

    def _camera(self, camera: Camera) -> Camera:
        return camera if self.size is None else fit_camera(camera, self.size, self.fit)

    def _clips(self, item: SceneItem, can_bus: CanBus) -> Iterator[Chunk | Skipped]:
        """One chunk for each clip of a scene: speed and steering are those of the file, poses those of the scene."""
        scene, shots = item.scene, item.scene.cameras["front"].shots
        place = {shots.file(i): i for i in range(len(shots.files))}
        track = ego_track(scene)
        held: dict[int, dict[str, bytes] | tuple[str, str]] = {}  # clips overlap
        for clip in item.clips:
            rows = [place[file] for file in clip.files if file in place]
            if len(rows) < len(clip.files):
                yield Skipped(f"{scene.name}: clip {clip.number}", "clip has images of no or another scene", FRAMES)
                continue
            held = {i: held.get(i) or self._images(scene, {"front": i}) for i in rows}
            jpegs = [image for image in (held[i] for i in rows) if isinstance(image, dict)]
            if len(jpegs) < len(rows):
                cause = next(image[1] for image in held.values() if isinstance(image, tuple))
                yield _lost(f"{scene.name}: clip {clip.number}", cause, FRAMES)
                continue
            micros = shots.micros[rows]
            motion, sources = motion_at(track, can_bus, micros)
            motion = Motion(motion.pose, _between(clip.speed), _between(clip.angle))
            yield self._chunk(
                scene, f"{clip.number:05d}", np.arange(FRAMES) / FRAME_RATE, jpegs, motion,
                {"motion": {"pose": sources["pose"], "speed": "annotations", "steering": "annotations"},
                 "can_bus": dict(can_bus.state), "frame_micros": micros.tolist(),
                 "image_micros": {"front": micros.tolist()}, "clip": _actions(clip)},
            )  # fmt: skip


def _by_scene(clips: Iterable[Clip], scenes: Iterable[Scene], lost: list[Skipped]) -> dict[str, list[Clip]]:
    """The clips by the scene of their first image; those of no scene are appended to `lost`."""
    owner = {
        scene.cameras["front"].shots.file(int(i)): scene.name
        for scene in scenes
        if "front" in scene.cameras
        for i in np.flatnonzero(scene.cameras["front"].shots.key)
    }
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.files[0] in owner:
            found[owner[clip.files[0]]].append(clip)
        else:
            lost.append(Skipped(f"clip {clip.number}: {clip.files[0]}", "clip begins with no key frame", FRAMES))
    return found


def _between(values: Floats | None) -> Floats | None:
    """(25,) from the values at the five key frames."""
    if values is None:
        return None
    return np.asarray(np.interp(np.arange(FRAMES), np.linspace(0, FRAMES - 1, len(values)), values))


def _actions(clip: Clip) -> dict[str, object]:
    """A clip's own actions as JSON values, in the order of `schema.Actions`: at 0.5, 1, 1.5 and 2 s."""
    return {
        "number": clip.number,
        "angle": None if clip.angle is None else clip.angle[1:].tolist(),
        "speed": None if clip.speed is None else clip.speed[1:].tolist(),
        "trajectory": clip.trajectory[1:].tolist(),
        "goal": None if clip.goal is None else clip.goal.tolist(),
        "command": clip.command,
    }


def _length(scene: Scene, clips: tuple[Clip, ...]) -> int:
    """About how many frames a scene has at 10 Hz, or in its clips."""
    if clips:
        return len(clips) * FRAMES
    ends = [int(c.shots.micros[k]) for c in scene.cameras.values() for k in (0, -1)] or scene.key_micros.tolist()
    return (max(ends) - min(ends)) // 100_000 + 1 if ends else 0


def _report(scene: Scene, losses: list[_Loss]) -> Iterator[Skipped]:
    """Losses that follow each other as one."""
    first = 0
    for i, loss in enumerate(losses, 1):
        after = losses[i] if i < len(losses) else None
        if after is None or after != loss._replace(tick=loss.tick + 1):
            at = losses[first].tick / FRAME_RATE
            yield _lost(f"{scene.name}: {loss.views} from {at:.1f} s on", loss.cause, i - first)
            first = i


def _lost(item: str, cause: str, frames: int) -> Skipped:
    """Images that come later are no damage: they come scene by scene, and a scene's stamp knows its first ones."""
    return (Skipped if cause in (GAP, MISSING) else Damaged)(item, cause, frames)


def _inside(folder: AnyPath) -> list[AnyPath]:
    return list(folder.iterdir()) if folder.is_dir() else []
