"""Agreement of neighbouring views: exact where it must be, and high for views that belong together alone."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from gwm.core.overlap import View, agreement, agreement_with_next, map_directions
from gwm.shards.world import Renderer, Scene, Stage, Variant, make_scene, rig_cameras


def turned(yaw: float, width: int = 96, height: int = 48, focal: float = 80.0) -> View:
    """A level camera that looks `yaw` degrees to the left."""
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    intrinsics = np.array([[focal, 0, width / 2 + 1.5], [0, focal, height / 2 - 2.5], [0, 0, 1]])
    return View(width, height, intrinsics, np.array([[s, 0, c], [-c, 0, s], [0, -1, 0]]))


def sky(view: View, turn: float = 0.0) -> np.ndarray:
    """What a camera sees of a pattern at infinity: (H, W, 3), colours by direction alone."""
    u, v = np.meshgrid(np.arange(view.width) + 0.5, np.arange(view.height) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ (view.rotation @ np.linalg.inv(view.intrinsics)).T
    x, y, z = np.moveaxis(rays / np.linalg.norm(rays, axis=-1, keepdims=True), -1, 0)
    angle = np.arctan2(y, x) + turn
    colours = [np.sin(9 * angle + 8 * z + 2 * i) + np.sin(23 * angle * (i + 1) / 2) for i in range(3)]
    return np.round(127 + 60 * np.stack(colours, -1)).astype(np.uint8)


def test_cameras_at_one_place_agree_whatever_their_lenses():
    a, b = turned(0), turned(38, 128, 80, 110.0)
    places, inside = map_directions(a, b)
    assert 0.1 < inside.mean() < 0.5
    assert not inside[:, -1].any()  # b looks to the left
    real = agreement(sky(a)[None], sky(b)[None], places, inside)
    other = agreement(sky(a)[None], sky(b, turn=0.2)[None], places, inside)
    assert real[0] > 0.99
    assert other[0] < 0.5


def test_the_map_there_and_back_is_none():
    a, b = turned(10), turned(-25, 64, 64, 60.0)
    there, inside = map_directions(a, b)
    pixels = np.stack([np.array([*there[y, x], 1.0]) for y, x in np.argwhere(inside)])
    rays = pixels @ np.linalg.inv(b.intrinsics).T @ (a.rotation.T @ b.rotation).T @ a.intrinsics.T
    assert np.allclose(rays[:, :2] / rays[:, 2:], np.argwhere(inside)[:, ::-1] + 0.5)
    whole, all_inside = map_directions(a, a)
    assert all_inside.all()
    assert np.allclose(whole[3, 5], (5.5, 3.5))


def test_what_lies_behind_is_outside():
    places, inside = map_directions(turned(0), turned(180))
    assert not inside.any()
    assert (places == -1).all()


def test_brightness_and_contrast_do_not_count_and_nothing_to_see_is_no_agreement():
    view = turned(0)
    places, inside = map_directions(view, view)
    a = sky(view)[None]
    assert agreement(a, a // 2 + 60, places, inside)[0] > 0.99
    assert agreement(a, 255 - a, places, inside)[0] < -0.99
    assert abs(agreement(a, np.full_like(a, 90), places, inside)[0]) < 1e-6


def test_only_neighbours_that_overlap_are_scored():
    cameras = [turned(0), turned(-40), turned(-150)]
    frames = np.stack([[sky(camera) for camera in cameras]] * 2)
    assert len(agreement_with_next(frames, cameras, 0)) == 2
    assert len(agreement_with_next(frames, cameras, 1)) == 0
    assert len(agreement_with_next(frames[:, :1], cameras[:1], 0)) == 0


@cache
def stages() -> list[tuple[Scene, Stage]]:
    """Two scenes of 3.1 s, on roads that have a past."""
    scenes = [make_scene(11, i, 31, Variant(surround=True)) for i in range(2)]
    return [(scene, Stage(scene)) for scene in scenes]


@pytest.mark.parametrize(("rig", "size", "least"), [("nuscenes", (96, 54), 0.6), ("waymo", (96, 64), 0.9)])
def test_views_of_the_rendered_world_agree_with_their_own_moment_alone(rig, size, least):
    """Real neighbours, the neighbour 3 s later, and the neighbour in another scene."""
    cameras = rig_cameras(rig, size)[:3]
    views = [View(c.width, c.height, c.intrinsics, c.extrinsics[:3, :3]) for c in cameras]
    frames = []
    for scene, stage in stages():
        renderers = [Renderer(scene, camera, stage) for camera in cameras]
        frames.append([[renderer.frame(i) for renderer in renderers] for i in (0, 30)])
    seen = np.array(frames)  # scene, moment, view
    pairs = {"nuscenes": [(0, 1), (1, 2)], "waymo": [(0, 1), (0, 2)]}[rig]

    def scores(others: np.ndarray) -> np.ndarray:
        found = []
        for a, b in pairs:
            places, inside = map_directions(views[a], views[b])
            assert inside.mean() > 0.05
            found += [agreement(x[:, a], y[:, b], places, inside) for x, y in zip(seen, others, strict=True)]
        return np.concatenate(found)

    real, later, elsewhere = scores(seen), scores(seen[:, ::-1]), scores(seen[::-1])
    assert real.mean() > least
    assert real.mean() > later.mean() + 0.25
    assert real.mean() > elsewhere.mean() + 0.4
    assert (real > elsewhere).mean() > 0.9
