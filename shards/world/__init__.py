"""A procedural driving world: roads, towns and traffic from a seed, seen through pinhole cameras.

`make_scene` builds a scene, `Renderer` (or `render`, for a single picture) draws it, `rig_cameras` are the cameras.
"""

from gwm.shards.world.camera import front_camera
from gwm.shards.world.render import Renderer, render
from gwm.shards.world.rigs import RIGS, rig_cameras
from gwm.shards.world.scene import Scene, make_scene
from gwm.shards.world.stage import Stage
from gwm.shards.world.variant import Variant

__all__ = ["RIGS", "Renderer", "Scene", "Stage", "Variant", "front_camera", "make_scene", "render", "rig_cameras"]
