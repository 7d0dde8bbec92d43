"""The rendered world as a source: one chunk per scene, from a seed, seen by the cameras of a rig."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gwm.shards import SourceError
from gwm.shards.images import JPEG_QUALITY, encode_jpeg
from gwm.shards.schema import FRAME_RATE, Chunk, clean_key
from gwm.shards.world import RIGS, Renderer, Stage, Variant, make_scene, rig_cameras


@dataclass(frozen=True)
class Scene:
    """One scene of the world."""

    index: int
    images: int
    stamp = ""  # the world does not change

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"scene {self.index}"


SMALLEST, LARGEST = 16, 4096  # pixels, of a side


@dataclass(frozen=True)
class WorldSource:
    """Scenes 0 .. scenes - 1 of the world `seed`, seen at 10 Hz by the front camera or all cameras of another rig.

    Raises SourceError for numbers, rigs and weather that no world has.
    """

    scenes: int
    seed: int = 0
    frames: int = 100  # per scene
    size: tuple[int, int] = (512, 288)  # width, height in pixels
    val_every: int = 10  # every n-th scene is "val", the others are "train"
    rig: str = "front"  # one of RIGS
    weather: str | None = None  # see `Variant` for these three
    time: str | None = None
    junctions: bool = False
    name = "world"

    def __post_init__(self) -> None:
        if self.scenes < 1:
            raise SourceError(f"{self.scenes} scenes: the world has at least 1")
        if self.seed < 0:
            raise SourceError(f"seed {self.seed}: must be 0 or larger")
        if self.frames < 2:
            raise SourceError(f"{self.frames} frames: a scene of the world needs at least 2")
        if self.val_every < 1:
            raise SourceError(f"every {self.val_every}th scene for validation: must be 1 or larger")
        if len(self.size) != 2 or not all(SMALLEST <= side <= LARGEST for side in self.size):
            raise SourceError(f"size {self.size}: width and height must lie between {SMALLEST} and {LARGEST} pixels")
        if self.rig not in RIGS:
            raise SourceError(f"rig {self.rig!r}: must be one of {', '.join(RIGS)}")
        assert self.variant  # refused here, before the first scene

    @property
    def variant(self) -> Variant:
        """The kind of its scenes. SourceError for a weather or time that does not exist."""
        return Variant(self.weather, self.time, self.junctions, surround=self.rig != "front")

    def items(self) -> list[Scene]:
        """The scenes."""
        images = self.frames * len(rig_cameras(self.rig))
        return [Scene(i, images) for i in range(self.scenes)]

    def split(self, index: int) -> str:
        """The split of a scene: a matter of its index alone, so that no town is ever in both."""
        return "val" if index % self.val_every == self.val_every - 1 else "train"

    def chunks(self, item: Scene) -> Iterator[Chunk]:
        """The one chunk of a scene: a view for each camera, JPEG of quality 95, ego motion, cameras and caption."""
        scene = make_scene(self.seed, item.index, self.frames, self.variant)
        cameras, stage = rig_cameras(self.rig, self.size), Stage(scene)
        images = {camera.view: _pictures(Renderer(scene, camera, stage)) for camera in cameras}
        yield Chunk(
            key=clean_key("world", f"{self.seed}", f"{item.index:06d}"),
            scene=f"world-{self.seed}-{item.index:06d}",
            split=self.split(item.index),
            origin=f"world seed {self.seed} scene {item.index}",
            frames=images,
            timestamps=np.arange(self.frames) / FRAME_RATE,
            motion=scene.ego,
            cameras=cameras,
            text=scene.text,
        )

    def files(self, _: Scene) -> tuple[()]:
        """A town is in no file."""
        return ()

    def settings(self) -> dict[str, object]:
        """What the scenes were made from, as JSON values. Their number is none of it: more can be added."""
        plain = {
            "seed": self.seed,
            "frames": self.frames,
            "size": list(self.size),
            "val_every": self.val_every,
            "jpeg_quality": JPEG_QUALITY,
        }
        chosen = {"rig": self.rig, "weather": self.weather, "time": self.time, "junctions": self.junctions}
        # Worlds made before these could be chosen can still be added to.
        return plain | {name: value for name, value in chosen.items() if value not in ("front", None, False)}


def _pictures(renderer: Renderer) -> list[bytes]:
    """All frames of a scene as JPEG."""
    return [encode_jpeg(renderer.frame(i)) for i in range(renderer.scene.frames)]
