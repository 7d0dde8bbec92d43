"""Which scenes of the world go into a dataset of an official format, when they were driven, and what cameras see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from gwm.shards import SourceError
from gwm.shards.images import Size, fit_camera
from gwm.shards.schema import FRAME_RATE, Camera
from gwm.shards.sources.world import WorldSource
from gwm.shards.world import Scene, make_scene, rig_cameras

START = 1_532_402_927_647_951  # µs since 1970, of the first scene
HOUR = 3_600_000_000  # µs between two scenes
FIVE, VAL = 5, 1  # of every five scenes the second is "val": of two one is train and one is val
LEAST = 7  # frames: readers leave shorter runs out, and nuScenes needs a second key frame

Advance = Callable[[], None]  # called after every picture


@dataclass(frozen=True)
class Take:
    """One scene of the dataset."""

    number: int  # in the dataset, from 0
    index: int  # of the scene in the world
    split: str  # "train" or "val"

    @property
    def start(self) -> int:
        """µs since 1970 of the scene's time 0."""
        return START + self.number * HOUR


def takes(world: WorldSource) -> list[Take]:
    """The scenes of a dataset with as many scenes as `world` has; those of a smaller one are among them.

    What is "val" here is "val" in the world's shards of that seed: no town is train in one format and val in another.
    So they are not the scenes 0 .. scenes - 1. Raises SourceError for scenes too short for the readers.
    """
    if world.frames < LEAST:
        raise SourceError(f"{world.frames} frames: a scene in an official format needs at least {LEAST}")
    assert world.val_every > 1, world
    of_split = {split: _indices(world, split) for split in ("train", "val")}
    splits = ["val" if number % FIVE == VAL else "train" for number in range(world.scenes)]
    return [Take(number, next(of_split[split]), split) for number, split in enumerate(splits)]


def _indices(world: WorldSource, split: str) -> Iterator[int]:
    return (index for index in count() if world.split(index) == split)


def scene_of(world: WorldSource, take: Take) -> Scene:
    """The scene itself."""
    return make_scene(world.seed, take.index, world.frames, world.variant)


def duration(world: WorldSource) -> int:
    """µs from a scene's first frame to its last: there is nothing before and after."""
    return round((world.frames - 1) * 1e6 / FRAME_RATE)


def cameras_of(rig: str, size: Size) -> tuple[Camera, ...]:
    """The cameras of a rig, the front one for pictures of `size` (width, height), the others in proportion."""
    front, *others = rig_cameras(rig)
    width, height = size[0] / front.width, size[1] / front.height
    scaled = [fit_camera(c, (round(c.width * width), round(c.height * height))) for c in others]
    return (*(rig_cameras(rig, size) if rig == "front" else (fit_camera(front, size),)), *scaled)
