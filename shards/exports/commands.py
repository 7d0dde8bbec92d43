"""What the ego does in a stretch of its drive, as a command in OpenDV's numbering; not Vista's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.opendv.annotations import COMMANDS
from gwm.shards.schema import FRAME_RATE, Caption, Floats
from gwm.shards.world import Scene

WINDOW = 40  # frames: OpenDV says what is done in four seconds
TURNING = np.radians(4.0)  # rad/s; in four seconds 16 degrees
STANDING = 0.1  # m/s

STRAIGHT, JUNCTION, LEFT, RIGHT, LANE_LEFT, LANE_RIGHT, STOP = (
    COMMANDS.index(name)
    for name in (
        "go straight", "pass intersection", "turn left", "turn right", "change to left lane", "change to right lane",
        "stop",
    )
)  # fmt: skip


def annotate(scene: Scene) -> list[Caption]:
    """One caption for each frame that begins a whole window, as in OpenDV; a shorter scene is one window."""
    driven, length = _follow(scene), min(WINDOW, scene.frames)
    return [
        Caption(first, first + length, scene.text, driven.command(first, first + length - 1))
        for first in range(scene.frames - length + 1)
    ]


@dataclass(frozen=True)
class Driven:
    """T frames of the ego, relative to the road where that matters."""

    speed: Floats  # (T,) m/s
    yaw: Floats  # (T,) rad, without jumps
    s: Floats  # (T,) m, arc length
    d: Floats  # (T,) m left of the road's middle
    lane: float  # m, width
    junctions: Floats  # (J,) m, arc length

    def command(self, first: int, last: int) -> int:
        """What is done from one frame to another. Of several the first that is true:

        stop: the car stands in the last frame. turn left, turn right: the mean yaw rate is over 4 degrees/s, in a bend
        of the road as well as at a junction. change to left, right lane: it ends more than half a lane beside where it
        began. pass intersection: a junction lies in between. go straight: none of these.
        """
        turned = (self.yaw[last] - self.yaw[first]) * FRAME_RATE / (last - first)
        moved = (self.d[last] - self.d[first]) / self.lane
        if self.speed[last] < STANDING:
            return STOP
        if abs(turned) > TURNING:
            return LEFT if turned > 0 else RIGHT
        if abs(moved) > 0.5:
            return LANE_LEFT if moved > 0 else LANE_RIGHT
        passed = ((self.s[first] < self.junctions) & (self.junctions < self.s[last])).any()
        return JUNCTION if passed else STRAIGHT


def _follow(scene: Scene) -> Driven:
    assert scene.ego.pose is not None
    assert scene.ego.speed is not None
    road, pose = scene.road, scene.ego.pose
    at, d = road.locate(pose[0, 0, 3], pose[0, 1, 3], near=road.length / 2, reach=road.length)
    places = [(at, d)]
    for x, y in pose[1:, :2, 3]:
        at, d = road.locate(x, y, near=at)
        places.append((at, d))
    s, d_all = np.array(places).T
    junctions = np.array([junction.s for junction in scene.junctions], np.float64)
    yaw = np.unwrap(np.arctan2(pose[:, 1, 0], pose[:, 0, 0]))
    return Driven(scene.ego.speed, yaw, s, d_all, scene.layout.place.lane_width, junctions)
