"""The world as OpenDV-YouTube: one video of the front camera for each scene, with annotations that are true of it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from gwm.shards import SourceError
from gwm.shards.exports.commands import annotate
from gwm.shards.exports.takes import Advance, Take, cameras_of, duration, scene_of, takes
from gwm.shards.opendv.write import Drive, name_drive, write_opendv
from gwm.shards.schema import Images
from gwm.shards.sources.world import WorldSource
from gwm.shards.storage import AnyPath
from gwm.shards.world import Renderer, Scene

# Frames/s of one video after the other, so that both codecs (in turn H.264 and VP9) have both.
RATES = (Fraction(30), Fraction(30_000, 1_001), Fraction(30_000, 1_001), Fraction(30))


def export_opendv(world: WorldSource, folder: AnyPath, advance: Advance) -> None:
    """Write `world` (rig "front") into `folder`; half of it is in the Mini set. SourceError for odd sizes."""
    write_opendv(folder, (_drive(world, take, advance) for take in _takes(world)))


def count_pictures(world: WorldSource) -> int:
    """How many `export_opendv` draws. SourceError as there."""
    return sum(_length(world, rate_of(take)) for take in _takes(world))


def rate_of(take: Take) -> Fraction:
    """Frames/s of a scene's video."""
    return RATES[take.number % len(RATES)]


def _takes(world: WorldSource) -> list[Take]:
    if world.size[0] % 2 or world.size[1] % 2:
        raise SourceError(f"size {world.size[0]}x{world.size[1]}: a video needs even sides")
    return takes(world)


def _length(world: WorldSource, rate: Fraction) -> int:
    return int(duration(world) * rate / 1_000_000) + 1


def _drive(world: WorldSource, take: Take, advance: Advance) -> Drive:
    scene, rate = scene_of(world, take), rate_of(take)
    pictures = _pictures(world, scene, rate, advance)
    name, youtuber = name_drive(take.number)
    return Drive(name, youtuber, take.split, pictures, rate, annotate(scene), mini=take.number % 4 < 2)


def _pictures(world: WorldSource, scene: Scene, rate: Fraction, advance: Advance) -> Iterator[Images]:
    (camera,) = cameras_of("front", world.size)
    renderer = Renderer(scene, camera)
    for i in range(_length(world, rate)):
        yield renderer.at(float(i / rate))
        advance()
