"""Which solid hides which: the drawing order of things that stand on the ground.

Every solid has a rectangular footprint. If a line separates two footprints, the one on the viewer's side cannot be
hidden by the other; this decides every pair that does not overlap, where sorting by distance alone fails for long walls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gwm.shards.schema import Floats
from gwm.shards.world.polygons import Ints

Bools = npt.NDArray[np.bool_]
NEAREST = 140  # solids ordered pair by pair; those farther away by distance alone


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
        return self.centre[:, None] + np.stack([x, y], axis=-1)


def _margins(a: Footprints, b: Footprints) -> tuple[Floats, Floats]:
    """Centres (n, m, 2) of b in the frames of a, and half extents (n, m, 2) of b along the axes of a."""
    delta = b.centre[None] - a.centre[:, None]
    c, s = np.cos(a.yaw)[:, None], np.sin(a.yaw)[:, None]
    centre = np.stack([delta[..., 0] * c + delta[..., 1] * s, delta[..., 1] * c - delta[..., 0] * s], axis=-1)
    turn = b.yaw[None] - a.yaw[:, None]
    c, s = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    hx, hy = b.half[None, :, 0], b.half[None, :, 1]
    return centre, np.stack([hx * c + hy * s, hx * s + hy * c], axis=-1)


def overlapping(a: Footprints, b: Footprints, margin: float = 0.0) -> Bools:
    """(n, m): whether footprint i of a and j of b come closer than `margin` metres along every separating axis."""
    there, reach = _margins(a, b)
    back, reach_back = _margins(b, a)
    apart = (np.abs(there) - reach - a.half[:, None] >= margin).any(axis=-1)
    apart_back = (np.abs(back) - reach_back - b.half[:, None] >= margin).any(axis=-1)
    out: Bools = ~(apart | apart_back.T)
    return out


def _may_hide(prints: Footprints, eye: Floats) -> Bools:
    """(n, n): whether solid i may hide a part of solid j from `eye` (2,), as far as separating lines tell."""
    centre, reach = _margins(prints, prints)
    delta = eye - prints.centre
    c, s = np.cos(prints.yaw), np.sin(prints.yaw)
    seen = np.stack([delta[:, 0] * c + delta[:, 1] * s, delta[:, 1] * c - delta[:, 0] * s], axis=-1)
    half = prints.half[:, None]
    in_front = np.zeros(reach.shape[:2], bool)  # a line has i and the eye on one side, j on the other
    behind = np.zeros(reach.shape[:2], bool)  # a line has j and the eye on one side, i on the other
    for sign in (-1.0, 1.0):
        beyond = sign * centre - reach >= half - 0.02
        eye_beyond = (sign * seen > prints.half)[:, None]
        in_front |= (beyond & ~eye_beyond).any(axis=-1)
        behind |= (beyond & eye_beyond).any(axis=-1)
    first = in_front | behind.T
    out: Bools = first & ~first.T
    return out


def painters_order(prints: Footprints, eye: Floats) -> list[int]:
    """Indices of all footprints, what may be hidden before what hides it, seen from `eye` (2,)."""
    distance = np.hypot(*(prints.centre - eye).T)
    far_to_near = np.argsort(-distance, kind="stable")
    far, near = far_to_near[: max(0, len(distance) - NEAREST)], far_to_near[max(0, len(distance) - NEAREST) :]
    hides = _may_hide(prints.take(near), eye)
    done = np.zeros(len(near), bool)
    order: list[int] = []
    for start in range(len(near)):
        stack = [start]
        while stack:
            i = stack[-1]
            waiting = np.flatnonzero(hides[i] & ~done)
            # A ring of solids that hide each other has no order: whoever is on the stack already does not wait.
            waiting = waiting[~np.isin(waiting, stack)] if len(waiting) else waiting
            if len(waiting):
                stack.append(int(waiting[0]))
                continue
            stack.pop()
            if not done[i]:
                done[i] = True
                order.append(i)
    return [int(i) for i in far] + [int(near[i]) for i in order]
