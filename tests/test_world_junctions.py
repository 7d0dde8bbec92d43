"""Junctions of the world: what they keep free, who drives there, and that they change nobody's drive."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from gwm.shards.world import Scene, Variant, make_scene
from gwm.shards.world.junctions import HALF
from gwm.shards.world.order import overlapping

FRAMES = 100
SCENES = range(16)


@cache
def pair(index: int) -> tuple[Scene, Scene]:
    """The plain scene and the one with junctions."""
    return make_scene(5, index, FRAMES), make_scene(5, index, FRAMES, Variant(junctions=True))


def test_there_are_all_kinds() -> None:
    found = [junction for i in SCENES for junction in pair(i)[1].junctions]
    assert any(j.crossing for j in found)
    assert any(j.left != j.right for j in found)
    assert any(not j.left and not j.right and len(j.arms) == 2 for j in found), "the road turns at no crossing"


@pytest.mark.parametrize("index", SCENES)
def test_the_drive_is_the_same_with_junctions(index: int) -> None:
    plain, scene = pair(index)
    cars = plain.traffic.pose.shape[1]
    assert np.array_equal(plain.ego.pose, scene.ego.pose)  # type: ignore[arg-type]
    assert np.array_equal(plain.traffic.pose, scene.traffic.pose[:, :cars])
    assert plain.text == scene.text


@pytest.mark.parametrize("index", SCENES)
def test_side_roads_are_free_and_lead_away(index: int) -> None:
    scene = pair(index)[1]
    for arm in (arm for junction in scene.junctions for arm in junction.arms):
        assert not overlapping(arm.prints(), scene.scenery.prints).any()
        for d in (-HALF, HALF):
            points = arm.point(np.arange(arm.near, arm.far), d)
            assert scene.road.distance(points).min() >= scene.layout.border - 0.5


def test_nobody_is_in_the_way_of_the_cars_that_cross() -> None:
    """Cars of the side roads give way to all others, and some of them do cross."""
    crossed = 0
    for index in SCENES:
        plain, scene = pair(index)
        first = plain.traffic.pose.shape[1]
        for frame in range(0, FRAMES, 2):
            prints = scene.instant(frame / 10).prints()
            there = scene.traffic.s[frame] > 2
            near = overlapping(prints, prints) & there[:, None] & there
            np.fill_diagonal(near, False)
            assert not near[first:].any(), (index, frame)
        for car in range(first, scene.traffic.pose.shape[1]):
            d = [scene.road.locate(*scene.traffic.pose[f, car, :2], near=scene.traffic.s[0, car])[1] for f in (0, -1)]
            crossed += d[0] * d[1] < 0
    assert crossed > 0


def test_cars_of_side_roads_move_smoothly() -> None:
    for index in SCENES:
        plain, scene = pair(index)
        own = scene.traffic.pose[:, plain.traffic.pose.shape[1] :]
        way = np.hypot(*np.diff(own[..., :2], axis=0).transpose(2, 0, 1))
        assert way.max(initial=0.0) < 0.85  # m in 0.1 s
        assert np.abs(np.diff(way, axis=0)).max(initial=0.0) < 0.06  # at most 6 m/s², when one comes to rest


def test_without_traffic_side_roads_are_empty() -> None:
    empty = [s for i in range(40) if (s := make_scene(7, i, 4, Variant(junctions=True))).text.endswith("no traffic")]
    assert any(scene.junctions for scene in empty)
    assert all(scene.traffic.pose.shape[1] == 0 for scene in empty)
