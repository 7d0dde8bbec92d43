"""The rendered world as a source: one chunk per scene, from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gwm.shards import SourceError
from gwm.shards.images import JPEG_QUALITY, encode_jpeg
from gwm.shards.schema import FRAME_RATE, Chunk, clean_key
from gwm.shards.world import Renderer, front_camera, make_scene


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
    """Scenes 0 .. scenes - 1 of the world `seed`, seen by the front camera at 10 Hz.

    Raises SourceError for numbers that no world has.
    """

    scenes: int
    seed: int = 0
    frames: int = 100  # per scene
    size: tuple[int, int] = (512, 288)  # width, height in pixels
    val_every: int = 10  # every n-th scene is "val", the others are "train"
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

    def items(self) -> list[Scene]:
        """The scenes."""
        return [Scene(i, self.frames) for i in range(self.scenes)]

    def split(self, index: int) -> str:
        """The split of a scene: a matter of its index alone, so that no town is ever in both."""
        return "val" if index % self.val_every == self.val_every - 1 else "train"

    def chunks(self, item: Scene) -> Iterator[Chunk]:
        """The one chunk of a scene: view "front", JPEG of quality 95, ego motion, camera and caption."""
        scene = make_scene(self.seed, item.index, self.frames)
        camera = front_camera(*self.size)
        renderer = Renderer(scene, camera)
        images = [encode_jpeg(renderer.frame(i)) for i in range(self.frames)]
        yield Chunk(
            key=clean_key("world", f"{self.seed}", f"{item.index:06d}"),
            scene=f"world-{self.seed}-{item.index:06d}",
            split=self.split(item.index),
            origin=f"world seed {self.seed} scene {item.index}",
            frames={"front": images},
            timestamps=np.arange(self.frames) / FRAME_RATE,
            motion=scene.ego,
            cameras=(camera,),
            text=scene.text,
        )

    def settings(self) -> dict[str, object]:
        """What the scenes were made from, as JSON values. Their number is none of it: more can be added."""
        return {
            "seed": self.seed,
            "frames": self.frames,
            "size": list(self.size),
            "val_every": self.val_every,
            "jpeg_quality": JPEG_QUALITY,
        }
