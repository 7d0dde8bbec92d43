"""Which solid hides which: the drawing order of things that stand on the ground.

Every solid has a rectangular footprint. If a line separates two footprints, the one on the viewer's side cannot be
hidden by the other. This decides every pair that does not overlap; sorting by distance fails for long walls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import Floats
from gwm.shards.world.polygons import Bools, Ints

NEAREST = 120  # solids ordered pair by pair; those farther away by distance alone


@dataclass(frozen=True)
class Footprints:
    """Rectangles on the ground, n of them."""

    centre: Floats  # (n, 2) m
    yaw: Floats  # (n,) rad
    half: Floats  # (n, 2) m, half the length along the yaw and half the width

    def take(self, which: Bools | Ints) -> Footprints:
        """The footprints that `which` (a mask or indices) selects."""
        return Footprints(self.centre[which], self.yaw[which], self.half[which])

    def corners(self) -> Floats:
        """(n, 4, 2) corners."""
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        local = self.half[:, None] * signs
        c, s = np.cos(self.yaw)[:, None], np.sin(self.yaw)[:, None]
        x = local[..., 0] * c - local[..., 1] * s
        y = local[..., 0] * s + local[..., 1] * c
        out: Floats = self.centre[:, None] + np.stack([x, y], axis=-1)
        return out


def _seen_from(a: Footprints, points: Floats) -> tuple[Floats, Floats]:
    """Coordinates x, y, each (n, m), of `points` (m, 2) in the frames of the footprints a."""
    dx, dy = points[None, :, 0] - a.centre[:, :1], points[None, :, 1] - a.centre[:, 1:]
    c, s = np.cos(a.yaw)[:, None], np.sin(a.yaw)[:, None]
    return dx * c + dy * s, dy * c - dx * s


def _reach(a: Footprints, b: Footprints) -> tuple[Floats, Floats]:
    """Half extents, each (n, m), of the footprints b along the x and y axes of a."""
    turn = b.yaw[None] - a.yaw[:, None]
    c, s = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    return b.half[:, 0] * c + b.half[:, 1] * s, b.half[:, 0] * s + b.half[:, 1] * c


def overlapping(a: Footprints, b: Footprints, margin: float = 0.0) -> Bools:
    """(n, m): whether footprint i of a and j of b come closer than `margin` metres along every separating axis."""

    def apart(a: Footprints, b: Footprints) -> Bools:
        (x, y), (rx, ry) = _seen_from(a, b.centre), _reach(a, b)
        far: Bools = np.abs(x) - rx - a.half[:, :1] >= margin
        return far | (np.abs(y) - ry - a.half[:, 1:] >= margin)

    out: Bools = ~(apart(a, b) | apart(b, a).T)
    return out


def _may_hide(prints: Footprints, eye: Floats) -> Bools:
    """(n, n): whether solid i may hide a part of solid j from `eye` (2,), as far as separating lines tell."""
    there, reach = _seen_from(prints, prints.centre), _reach(prints, prints)
    eye_there = _seen_from(prints, eye[None])
    in_front = np.zeros(reach[0].shape, bool)  # a side of i has i and the eye within, j beyond
    behind = np.zeros(reach[0].shape, bool)  # a side of i has i within, j and the eye beyond
    for axis in (0, 1):
        half, e = prints.half[:, axis : axis + 1], eye_there[axis]
        beyond = np.abs(there[axis]) - reach[axis] >= half - 0.02
        eye_beyond = np.where(there[axis] > 0, e > half, e < -half)
        in_front |= beyond & ~eye_beyond
        behind |= beyond & eye_beyond
    first = in_front | behind.T
    out: Bools = first & ~first.T
    return out


def painters_order(prints: Footprints, eye: Floats) -> list[int]:
    """Indices of all footprints, what may be hidden before what hides it, seen from `eye` (2,)."""
    distance = np.hypot(*(prints.centre - eye).T)
    far_to_near = np.argsort(-distance, kind="stable")
    far, near = far_to_near[: max(0, len(distance) - NEAREST)], far_to_near[max(0, len(distance) - NEAREST) :]
    waits = _may_hide(prints.take(near), eye)  # (i, j): i waits for j
    done = np.zeros(len(near), bool)
    order: list[int] = []
    for start in range(len(near)):
        stack = [] if done[start] else [start]
        # Solids that hide each other in a ring have no order: whoever already waits is not waited for.
        done[start] = True
        while stack:
            waiting = waits[stack[-1]] & ~done
            first = int(waiting.argmax())
            if waiting[first]:
                stack.append(first)
                done[first] = True
            else:
                order.append(stack.pop())
    return [int(i) for i in far] + [int(near[i]) for i in order]
