"""What all pictures of a scene share, whatever camera takes them: its polygons in its light, and its shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import Floats
from gwm.shards.world.looks import Look
from gwm.shards.world.polygons import GLOW, Ints, Polygons
from gwm.shards.world.scene import Scene
from gwm.shards.world.shadows import box_shadows, round_shadows

WET = 0.72  # of the dry ground's brightness


@dataclass(frozen=True)
class Batch:
    """Polygons and the colours that the scene's light gives them."""

    polygons: Polygons
    lit: Floats  # (P, 3)

    def take(self, which: Ints) -> Batch:
        """The polygons with the indices `which`."""
        return Batch(self.polygons.take(which), self.lit[which])

    def join(self, other: Batch) -> Batch:
        """These polygons and those of `other`."""
        return Batch(self.polygons.join(other.polygons), np.concatenate([self.lit, other.lit]))


def in_light(look: Look, polygons: Polygons) -> Batch:
    """Colours in the scene's light; what glows keeps its own."""
    lit = look.lit(polygons.colour, polygons.normals())
    return Batch(polygons, np.where((polygons.light == GLOW)[:, None], polygons.colour, lit))


class Stage:
    """The part of a scene that stands still, ready to be drawn by any number of cameras."""

    def __init__(self, scene: Scene) -> None:
        look, scenery = scene.look, scene.scenery
        self.scene = scene
        self.still = [in_light(look, scenery.faces), in_light(look, scenery.blobs)]
        self.paint = look.lit(scene.ground.colour, np.tile([0.0, 0.0, 1.0], (len(scene.ground.colour), 1)))
        if look.wet:
            self.paint *= WET
        self.shadows = np.zeros((0, 10, 3))
        if look.sun.any():
            boxes = scenery.shadow > 0
            casts = box_shadows(scenery.prints.take(boxes), scenery.shadow[boxes], look)
            round_ = [round_shadows(p, look) for p in (scenery.faces, scenery.blobs)]
            self.shadows = np.concatenate([casts, *round_])
        self.paint_extent, self.shadow_extent = _extent(scene.ground.points), _extent(self.shadows)


def _extent(points: Floats) -> tuple[Floats, Floats]:
    """Centres (P, 3) and radii (P,) of polygons (P, N, 3)."""
    centre = points.mean(axis=1)
    return centre, np.sqrt(((points - centre[:, None]) ** 2).sum(axis=-1)).max(axis=1, initial=0.0)
