"""A procedural driving world: roads, towns and traffic from a seed, seen through pinhole cameras.

`make_scene` builds a scene, `Renderer` (or `render`, for a single picture) draws it.
"""

from gwm.shards.world.camera import front_camera
from gwm.shards.world.render import Renderer, render
from gwm.shards.world.scene import Scene, make_scene

__all__ = ["Renderer", "Scene", "front_camera", "make_scene", "render"]
