"""The world's renderer: what is drawn is where the camera says it is, and what is nearer covers what is farther."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import pytest

from gwm.shards import SourceError
from gwm.shards.motion import integrate, planar_pose
from gwm.shards.schema import Camera, Floats, Images, Motion
from gwm.shards.world import Renderer, Scene, Stage, Variant, front_camera, make_scene, render, rig_cameras
from gwm.shards.world.camera import NEAR, clip_near, project, to_camera
from gwm.shards.world.looks import TIMES, WEATHERS
from gwm.shards.world.order import Footprints, overlapping, painters_order
from gwm.shards.world.polygons import GLOW, Solid, assemble


@lru_cache(maxsize=8)
def scene(index: int, frames: int = 12) -> Scene:
    """A scene, made once."""
    return make_scene(7, index, frames)


def with_landmark(base: Scene, at: tuple[float, float, float], size: float = 0.6) -> Scene:
    """The scene with nothing standing in it but one purple disc whose middle is at the world point `at`."""
    disc = Solid()
    disc.blob((0.0, 0.0, at[2]), (size / 2, size / 2), (255, 0, 255), light=GLOW)
    faces, blobs = assemble([disc], np.array([[at[0], at[1], 0.0]]))
    prints = Footprints(np.array([at[:2]]), np.zeros(1), np.full((1, 2), size / 2))
    nothing = replace(base.scenery, faces=faces, blobs=blobs, prints=prints, shadow=np.zeros(1), lamps=np.zeros((0, 3)))
    none = replace(base.traffic, pose=base.traffic.pose[:, :0], braking=base.traffic.braking[:, :0],
                   size=base.traffic.size[:0], s=base.traffic.s[:, :0])  # fmt: skip
    return replace(base, scenery=nothing, traffic=none, cars=base.cars.take(np.zeros(0, np.int64)))


def purple_middle(image: Images) -> Floats | None:
    """The centroid in pixels of what is purple, weighted by how purple it is."""
    weight = np.clip(image[..., 0].astype(float) + image[..., 2] - 2.0 * image[..., 1] - 120, 0, None)
    if weight.sum() == 0:
        return None
    v, u = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(u * weight).sum(), (v * weight).sum()]) / weight.sum()


def test_front_camera() -> None:
    for width, height in ((512, 288), (128, 64), (97, 61)):
        camera = front_camera(width, height)
        far = np.array([1e7, 0.0, 0.0])
        u, v = project(to_camera(far, camera.extrinsics), camera.intrinsics)
        assert u == pytest.approx(width / 2)
        assert v == pytest.approx(0.45 * height, abs=1e-3)
        left = np.linalg.inv(camera.intrinsics) @ np.array([0.0, height / 2, 1.0])
        assert np.degrees(2 * np.arctan(-left[0])) == pytest.approx(68.0)
        turn = camera.extrinsics[:3, :3]
        assert np.allclose(turn @ turn.T, np.eye(3))
        assert np.linalg.det(turn) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("index", "known"),
    [(0, "e1f036cea0f74198"), (1, "09c4e8d835c4742e"), (2, "5824652eb6a2424e"), (4, "aef9d3747a836031"),
     (9, "45482a143972d254")],
)  # fmt: skip
def test_the_front_camera_sees_what_it_always_saw(index: int, known: str) -> None:
    """Models were trained on these pictures: sunny, night, overcast and dusk stay the same to the byte."""
    renderer = Renderer(make_scene(0, index, 12), front_camera(128, 64))
    pictures = renderer.frame(0).tobytes() + renderer.frame(11).tobytes()
    assert hashlib.sha256(pictures).hexdigest()[:16] == known


@pytest.mark.parametrize("size", [(128, 64), (320, 180)])
def test_a_landmark_is_drawn_where_it_projects(size: tuple[int, int]) -> None:
    base, camera = scene(0), front_camera(*size)
    assert base.ego.pose is not None
    for ahead, left, up in ((28.0, 2.0, 0.5), (35.0, -6.0, 3.0), (60.0, 0.0, 1.5)):
        at = base.ego.pose[0] @ np.array([ahead, left, up, 1.0])
        drawn = with_landmark(base, (at[0], at[1], at[2]), size=0.02 * ahead)
        renderer = Renderer(drawn, camera)
        for t in (0, 5, 11):
            middle = purple_middle(renderer.frame(t))
            point = to_camera(at[:3], base.ego.pose[t] @ camera.extrinsics)
            assert middle is not None
            assert np.abs(middle - project(point, camera.intrinsics)).max() < 0.25, (ahead, t)


def test_a_picture_between_the_frames() -> None:
    """The landmark is where the pose of that time sees it; at a frame's time it is the frame."""
    base, camera = scene(1), front_camera(256, 144)
    ahead = base.pose_at(0.5) @ np.array([30.0, 2.0, 2.0, 1.0])
    renderer = Renderer(with_landmark(base, (ahead[0], ahead[1], ahead[2])), camera)
    assert np.array_equal(renderer.at(0.5), renderer.frame(5))
    for time in (0.512, 0.55, 0.583):
        middle = purple_middle(renderer.at(time))
        point = to_camera(ahead[:3], base.pose_at(time) @ camera.extrinsics)
        assert middle is not None
        assert np.abs(middle - project(point, camera.intrinsics)).max() < 0.25


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_turning_left_moves_the_scenery_right(sign: float) -> None:
    base = scene(0)
    speed, steering = np.full(12, 6.0), np.full(12, sign * 2.0)
    base = replace(base, ego=Motion(integrate(speed, steering), speed, steering))
    renderer = Renderer(with_landmark(base, (120.0, 0.0, 6.0), size=8.0), front_camera(128, 64))
    columns = [middle[0] for t in range(12) if (middle := purple_middle(renderer.frame(t))) is not None]
    assert len(columns) == 12
    assert (np.diff(columns) * sign > 0.5).all()


# Rigs

OVERLAPS = {
    "nuscenes": (("front", "front_left", 27.5), ("front_left", "back_left", 82.5), ("back_left", "back", 139.0),
                 ("front", "front_right", -27.5), ("front_right", "back_right", -82.5), ("back_right", "back", -139.0)),
    "waymo": (("front", "front_left", 22.5), ("front_left", "side_left", 67.5),
              ("front", "front_right", -22.5), ("front_right", "side_right", -67.5)),
}  # fmt: skip


@pytest.mark.parametrize("rig", OVERLAPS)
def test_a_landmark_between_two_cameras_is_in_both_where_their_calibrations_say(rig: str) -> None:
    base = scene(0)
    # In wide pictures, as a 16:9 one of Waymo's side cameras has lost what it shared with the next.
    cameras = {camera.view: camera for camera in rig_cameras(rig, (320, 148))}
    pose = base.pose_at(0.43)
    for one, other, degrees in OVERLAPS[rig]:
        yaw = np.radians(degrees)
        at = pose @ np.array([30 * np.cos(yaw) + 1.5, 30 * np.sin(yaw), 1.6, 1.0])
        drawn = with_landmark(base, (at[0], at[1], at[2]))
        stage = Stage(drawn)
        for camera in (cameras[one], cameras[other]):
            middle = purple_middle(Renderer(drawn, camera, stage).at(0.43))
            assert middle is not None, (camera.view, degrees)
            expected = project(to_camera(at[:3], pose @ camera.extrinsics), camera.intrinsics)
            assert np.abs(middle - expected).max() < 0.25, (camera.view, degrees)
        away = next(c for view, c in cameras.items() if view not in (one, other))
        assert purple_middle(Renderer(drawn, away, stage).at(0.43)) is None


@pytest.mark.parametrize(
    ("rig", "views", "sizes"),
    [("front", ["front"], {(1280, 720)}),
     ("nuscenes", ["front", "front_right", "back_right", "back", "back_left", "front_left"], {(1600, 900)}),
     ("waymo", ["front", "front_left", "front_right", "side_left", "side_right"], {(1920, 1280), (1920, 886)})],
)  # fmt: skip
def test_rigs_have_the_data_sets_cameras(rig: str, views: list[str], sizes: set[tuple[int, int]]) -> None:
    own, small = rig_cameras(rig), rig_cameras(rig, (512, 288))
    assert [c.view for c in own] == [c.view for c in small] == views
    assert {(c.width, c.height) for c in own} == sizes
    assert {(c.width, c.height) for c in small} == {(512, 288)}
    for camera in own:
        turn = camera.extrinsics[:3, :3]
        assert np.allclose(turn @ turn.T, np.eye(3))
        assert np.linalg.det(turn) == pytest.approx(1.0)
        assert turn[2, 1] < -0.9  # the picture's down is down
        side = {"left": 1, "right": -1}.get(camera.view.split("_")[-1], 0)
        assert np.sign(np.round(turn[1, 2], 9)) == side
        assert (turn[0, 2] < 0) == camera.view.startswith("back")


def test_a_rig_of_any_size_sees_the_same_rays() -> None:
    """The middle of the larger picture, made smaller, is the smaller picture."""
    base, small, large = scene(2), rig_cameras("waymo", (192, 128))[0], rig_cameras("waymo", (384, 256))[0]
    reduced = cv2.resize(render(base, 3, large), (192, 128), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(render(base, 3, small).astype(float) - reduced).mean() < 3.0


def test_no_rig_is_made_up() -> None:
    with pytest.raises(SourceError, match=r"'lyft'.*front, nuscenes, waymo"):
        rig_cameras("lyft")


# Weather


def test_weather_changes_the_picture_but_not_the_drive() -> None:
    plain = scene(0)
    pictures = {}
    for weather in WEATHERS:
        for time in TIMES:
            base = make_scene(7, 0, 12, Variant(weather, time))
            assert np.array_equal(base.ego.pose, plain.ego.pose)  # type: ignore[arg-type]
            assert np.array_equal(base.traffic.pose, plain.traffic.pose)
            assert (base.look.weather, base.look.time) == (weather, time)
            assert time in base.text
            pictures[weather, time] = render(base, 5, front_camera(128, 64)).astype(float)
    for weather in WEATHERS:
        assert pictures[weather, "day"].mean() > pictures[weather, "dusk"].mean() > pictures[weather, "night"].mean()
    for time in TIMES:
        detail = {weather: np.abs(np.diff(pictures[weather, time][22:34], axis=1)).mean() for weather in WEATHERS}
        assert detail["fog"] < 0.8 * detail["clear"], (time, detail)


def test_rain_falls_on_the_same_picture_wherever_it_is_drawn() -> None:
    base, camera = make_scene(7, 0, 12, Variant("rain", "day")), front_camera(128, 64)
    renderer = Renderer(base, camera)
    first, later = renderer.at(0.31), renderer.at(0.32)
    assert np.array_equal(renderer.at(0.31), first)
    assert np.array_equal(Renderer(base, camera).at(0.31), first)
    streaks = np.abs(first.astype(float) - later).max(axis=2) > 12
    assert 0.005 < streaks.mean() < 0.3


def test_the_headlights_shine_ahead_only() -> None:
    """Seen from behind, the road once was lit as far as one could look back."""
    night = make_scene(7, 0, 12, Variant("clear", "night", surround=True))
    night = replace(night, scenery=replace(night.scenery, lamps=np.zeros((0, 3))))
    ahead, _, _, back, *_ = rig_cameras("nuscenes", (160, 90))
    lit, dark = (render(night, 5, camera)[75:, 60:100].mean() for camera in (ahead, back))
    assert lit > 1.8 * dark


def test_the_hills_turn_with_the_camera() -> None:
    """Far hills are directions: a turn of one pixel moves them by one pixel, driving straight not at all."""
    base = scene(0)
    camera = front_camera(256, 128)
    focal = camera.intrinsics[0, 0]
    yaw = np.array([0.0, np.arctan(8 / focal)])
    pose = planar_pose(np.zeros(2), np.zeros(2), yaw)
    base = replace(with_landmark(base, (-500.0, 0.0, 0.0)), clouds=np.zeros((0, 4)))
    renderer = Renderer(replace(base, ego=Motion(pose)), camera)
    before, after = (renderer.frame(t)[30:57, 100:156].astype(float) for t in (0, 1))
    shifted = renderer.frame(0)[30:57, 92:148].astype(float)
    assert np.abs(after - shifted).mean() < 0.5 * max(np.abs(after - before).mean(), 0.2)


def test_a_renderer_has_no_memory() -> None:
    renderer = Renderer(scene(1), front_camera(128, 64))
    renderer.frame(9)
    assert np.array_equal(renderer.frame(4), render(scene(1), 4, front_camera(128, 64)))


@pytest.mark.parametrize("size", [(97, 61), (16, 16), (64, 200), (333, 55)])
def test_any_size(size: tuple[int, int]) -> None:
    image = render(scene(2), 3, front_camera(*size))
    assert image.shape == (size[1], size[0], 3)
    assert image.dtype == np.uint8
    assert image.std() > 5


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_twice_the_size_reduced_is_nearly_the_same(index: int) -> None:
    """Anti-aliasing: what differs is the detail that smaller pictures leave out, and fractions of an edge."""
    small = render(scene(index), 6, front_camera(256, 144)).astype(float)
    large = render(scene(index), 6, front_camera(512, 288))
    reduced = cv2.resize(large, (256, 144), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(small - reduced).mean() < 2.0
    assert (np.abs(small - reduced).max(axis=2) > 60).mean() < 0.01


def other_cameras() -> Iterator[Camera]:
    """Cameras to the side, to the back, upwards and rolled."""
    front = front_camera(128, 72)
    for yaw, pitch, roll in ((1.2, 0, 0), (np.pi, 0, 0), (-2.0, 0.1, 0), (0, -1.2, 0), (0, 0.9, 0), (0.4, 0, 0.5)):
        turn = cv2.Rodrigues(np.array([0.0, 0.0, float(yaw)]))[0] @ cv2.Rodrigues(np.array([0.0, float(pitch), 0.0]))[0]
        extrinsics = front.extrinsics.copy()
        extrinsics[:3, :3] = turn @ extrinsics[:3, :3] @ cv2.Rodrigues(np.array([0.0, 0.0, float(roll)]))[0]
        yield replace(front, extrinsics=extrinsics)


def test_any_camera_pose() -> None:
    base = scene(0)
    assert base.ego.pose is not None
    for camera in other_cameras():
        assert render(base, 2, camera).shape == (72, 128, 3)
        ray = camera.extrinsics @ np.array([0.4, -0.1, 20.0, 1.0])
        at = base.ego.pose[0] @ ray
        middle = purple_middle(render(with_landmark(base, (at[0], at[1], at[2])), 0, camera))
        assert middle is not None
        assert np.abs(middle - project(np.array([0.4, -0.1, 20.0]), camera.intrinsics)).max() < 0.25


def test_the_picture_moves_smoothly() -> None:
    """No popping: consecutive frames of a slow drive differ little, and by steadily as much."""
    base = scene(0)
    speed = np.full(10, 0.5)
    slow = replace(base, ego=Motion(base.ego.pose[0] @ integrate(speed, np.zeros(10)), speed, np.zeros(10)))  # type: ignore[index]
    pose, s = base.traffic.pose[:1].repeat(10, 0), base.traffic.s[:1].repeat(10, 0)
    slow = replace(slow, traffic=replace(base.traffic, pose=pose, s=s, braking=base.traffic.braking[:1].repeat(10, 0)))
    renderer = Renderer(slow, front_camera(128, 64))
    frames = np.stack([renderer.frame(t) for t in range(10)]).astype(float)
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert change.max() < 2.0
    assert change.max() < 3 * change.min()


def test_what_is_nearer_along_a_ray_is_drawn_later() -> None:
    rng = np.random.default_rng(0)
    prints = Footprints(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 2)))
    while len(prints.yaw) < 60:
        half = rng.uniform([0.2, 0.2], [12, 4] if len(prints.yaw) % 3 == 0 else [0.4, 0.4])
        one = Footprints(rng.uniform(-60, 60, (1, 2)), rng.uniform(-3, 3, 1), half[None])
        eye = Footprints(np.zeros((1, 2)), np.zeros(1), np.ones((1, 2)))
        if not overlapping(one, prints, 0.1).any() and not overlapping(one, eye).any():
            prints = Footprints(
                *(np.concatenate([getattr(prints, f), getattr(one, f)]) for f in ("centre", "yaw", "half"))
            )
    rank = np.argsort(painters_order(prints, np.zeros(2)))
    for angle in np.linspace(0, 2 * np.pi, 400):
        hits = ray_hits(prints, np.array([np.cos(angle), np.sin(angle)]))
        order = np.argsort(hits)[: np.isfinite(hits).sum()]
        assert (np.diff(rank[order]) < 0).all()


def ray_hits(prints: Footprints, ray: Floats) -> Floats:
    """Distance (n,) at which a ray from the origin enters each footprint; inf if it misses."""
    c, s = np.cos(prints.yaw), np.sin(prints.yaw)
    origin = -np.stack(
        [prints.centre[:, 0] * c + prints.centre[:, 1] * s, prints.centre[:, 1] * c - prints.centre[:, 0] * s], -1
    )
    way = np.stack([ray[0] * c + ray[1] * s, ray[1] * c - ray[0] * s], -1)
    a, b = (-prints.half - origin) / way, (prints.half - origin) / way
    enter, leave = np.minimum(a, b).max(axis=1), np.maximum(a, b).min(axis=1)
    return np.where((enter < leave) & (enter > 0), enter, np.inf)


def test_long_wall_does_not_cover_the_lamp_before_it() -> None:
    """Sorting by the distance of centres drew a house over the lamp beside its far end."""
    wall, lamp = ((20.0, 10.0), (10.0, 4.0)), ((30.0, 5.0), (0.2, 0.2))
    prints = Footprints(np.array([lamp[0], wall[0]]), np.zeros(2), np.array([lamp[1], wall[1]]))
    assert painters_order(prints, np.zeros(2)) == [1, 0]


def test_clipping_keeps_what_lies_beyond_the_near_plane() -> None:
    square = np.array([[[-1.0, 0, NEAR - 1], [1, 0, NEAR - 1], [1, 0, NEAR + 1], [-1, 0, NEAR + 1]]])
    corners, used = clip_near(square)
    assert np.allclose(corners[0][used[0]], [[1, 0, NEAR], [1, 0, NEAR + 1], [-1, 0, NEAR + 1], [-1, 0, NEAR]])
    assert not clip_near(square - np.array([0, 0, 5.0]))[1].any()
    ahead = square + np.array([0, 0, 5.0])
    whole, used = clip_near(ahead)
    assert np.allclose(whole[0][used[0]], ahead[0])
