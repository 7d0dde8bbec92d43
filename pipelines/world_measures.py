"""What is measured of a generated drive as a drive: whether it moves as it was told, and whether its views agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gwm.core.inverse_dynamics import InverseDynamics, waypoint_distances
from gwm.core.overlap import View, agreement_with_next
from gwm.pipelines.feature_file import Scored
from gwm.pipelines.inverse_dynamics import estimate_motion, true_motion
from gwm.pipelines.protocols import Protocol
from gwm.shards.motion import WAYPOINTS
from gwm.shards.schema import Floats, Images, Window

FRONT = 0  # its place among the views


@dataclass(frozen=True, eq=False)
class Moved:
    """Motions (T-1, 2), m/s and rad/s, of a drive: as a network reads them from frames, and the true one if known."""

    real: Floats
    generated: Floats
    true: Floats | None


def read_motion(model: InverseDynamics, truth: Window, made: Images) -> Moved:
    """How a drive moves in its true frames and in the generated ones (T, K, H, W, 3)."""
    return Moved(
        estimate_motion(model, truth.frames[:, FRONT]),
        estimate_motion(model, made[:, FRONT]),
        true_motion(truth.motion.window(0, len(truth.frames))),
    )


def views_of(truth: Window) -> tuple[View, ...]:
    """The cameras of a window, in the order of its views; none where one of them is not known."""
    if len(truth.cameras) < len(truth.views):
        return ()
    return tuple(View(c.width, c.height, c.intrinsics, c.extrinsics[:3, :3]) for c in truth.cameras)


def with_motion(row: Scored, moved: Moved, protocol: Protocol) -> Scored:
    """The row of a front view with the motion of its segment, from the last given frame on."""
    steps = slice(max(row.segment.first, protocol.condition_frames - 1), row.segment.first + protocol.segment - 1)
    return replace(
        row,
        real_motion=moved.real[steps],
        generated_motion=moved.generated[steps],
        true_motion=None if moved.true is None else moved.true[steps],
    )


def with_agreement(row: Scored, views: tuple[View, ...], real: Images, made: Images, protocol: Protocol) -> Scored:
    """The row of a view with its agreement with the next one, in the predicted frames (T, K, H, W, 3) of its segment.

    Without, where the two do not overlap.
    """
    first, view = row.segment.first, row.segment.view
    ahead = slice(max(first, protocol.condition_frames), first + protocol.segment)
    a, b = (agreement_with_next(frames[ahead], views, view) for frames in (real, made))
    return replace(row, real_agreement=a, generated_agreement=b) if len(a) else row


def world_figures(row: Scored) -> Mapping[str, Floats]:
    """What a row adds to the figures: of each step, of each waypoint up to 2 s, of each predicted frame.

    Every measure of generated frames has that of real ones beside it: what network and method miss by themselves.
    """
    found: dict[str, Floats] = {}
    for frames, motion, agrees in (
        ("", row.generated_motion, row.generated_agreement),
        ("_real", row.real_motion, row.real_agreement),
    ):
        if motion is not None and row.true_motion is not None:
            errors = np.abs(motion - row.true_motion)
            found[f"speed_error{frames}"], found[f"yaw_rate_error{frames}"] = errors.T
            found[f"trajectory_difference{frames}"] = waypoint_distances(motion, row.true_motion)[:WAYPOINTS]
        if agrees is not None:
            found[f"view_agreement{frames}"] = agrees
    return found
