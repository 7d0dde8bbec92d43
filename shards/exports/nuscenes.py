"""The world as nuScenes: six cameras at an irregular 12 Hz, one after the other; poses, CAN bus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from gwm.shards import SourceError
from gwm.shards.exports.can_bus import messages
from gwm.shards.exports.takes import Advance, Take, cameras_of, duration, scene_of, takes
from gwm.shards.images import encode_jpeg
from gwm.shards.nuscenes.scene import VIEWS
from gwm.shards.nuscenes.splits import MINI_TRAIN, MINI_VAL, TRAIN, VAL, scene_names, split_of
from gwm.shards.nuscenes.write import Recording, Taken, shot_times, write_nuscenes
from gwm.shards.schema import Camera
from gwm.shards.sources.world import WorldSource
from gwm.shards.storage import AnyPath
from gwm.shards.world import Renderer, Scene, Stage

MINI = 10  # scenes of v1.0-mini
LOCATION = "boston-seaport"  # of the official places the one where people drive on the right, as in the world
# Our choice: the lidar turns clockwise 20 times a second, and a camera takes its picture when the beam passes it.
DELAYS = {view: 8_333 * i for i, view in enumerate(VIEWS)}  # µs
SILENT = "161-168 170-176"  # scenes without a CAN bus, of which the official software does not read one
RANGES = {"train": MINI_TRAIN + TRAIN, "val": MINI_VAL + VAL}


def export_nuscenes(world: WorldSource, folder: AnyPath, advance: Advance) -> None:
    """Write `world` (rig "nuscenes") into `folder`: up to ten scenes as v1.0-mini, more as v1.0-trainval.

    A scene ends with its last key frame. Raises SourceError for more scenes than there are official names.
    """
    chosen = takes(world)
    named = zip(chosen, names_of(chosen), strict=True)
    recordings = (_recording(world, take, name, advance) for take, name in named)
    write_nuscenes(folder, recordings, version_of(chosen))


def count_pictures(world: WorldSource) -> int:
    """How many `export_nuscenes` draws. SourceError as there."""
    return len(names_of(takes(world))) * sum(len(_shots(world, view)) for view in VIEWS)


def version_of(chosen: Sequence[Take]) -> str:
    """The version of a dataset of these scenes."""
    return "v1.0-mini" if len(chosen) <= MINI else "v1.0-trainval"


def names_of(chosen: Sequence[Take]) -> list[str]:
    """The official name of each scene, one of its split: those of v1.0-mini first. SourceError where they run out."""
    left = {split: _names(version_of(chosen), split) for split in RANGES}
    found = [name for take in chosen if (name := next(left[take.split], None)) is not None]
    if len(found) < len(chosen):
        raise SourceError(f"{len(chosen)} scenes: the official names of nuScenes are enough for {len(found)}")
    return found


def _names(version: str, split: str) -> Iterator[str]:
    names, silent = dict.fromkeys(scene_names(RANGES[split])), scene_names(SILENT)
    return (name for name in names if split_of(version, name) == split and name not in silent)


def _shots(world: WorldSource, view: str) -> list[tuple[int, bool]]:
    """When a camera takes pictures, in µs of the scene's own time, and whether they are key frames.

    All cameras take equally many, so the last one's delay is taken off the scene.
    """
    return shot_times(0, duration(world) - max(DELAYS.values()) + 1, DELAYS[view])


def _recording(world: WorldSource, take: Take, name: str, advance: Advance) -> Recording:
    scene, cameras = scene_of(world, take), cameras_of("nuscenes", world.size)
    date = datetime.fromtimestamp(take.start / 1e6, UTC).strftime("%Y-%m-%d")
    return Recording(
        name, scene.text, LOCATION, date, cameras, lambda micros: scene.pose_at((micros - take.start) / 1e6),
        _pictures(world, scene, take.start, cameras, advance), messages(scene, take.start),
    )  # fmt: skip


def _pictures(
    world: WorldSource, scene: Scene, start: int, cameras: Sequence[Camera], advance: Advance
) -> Iterator[Taken]:
    """One camera after the other."""
    stage = Stage(scene)
    for camera in cameras:
        renderer = Renderer(scene, camera, stage)
        for micros, key in _shots(world, camera.view):
            yield Taken(camera.view, start + micros, key, encode_jpeg(renderer.at(micros / 1e6)))
            advance()
