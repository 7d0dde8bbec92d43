"""The rendered world: what is recorded is what was driven, and what is drawn is where the camera says it is."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import pytest

from gwm.shards import SourceError
from gwm.shards.images import decode_jpeg
from gwm.shards.motion import integrate, planar_pose, yaw_rate
from gwm.shards.schema import Camera, Floats, Images, Motion
from gwm.shards.sources.world import WorldSource
from gwm.shards.world import Renderer, Scene, front_camera, make_scene, render
from gwm.shards.world.camera import NEAR, clip_near, project, to_camera
from gwm.shards.world.drive import EGO_CENTRE, EGO_SIZE, Drive, drive
from gwm.shards.world.order import Footprints, overlapping, painters_order
from gwm.shards.world.places import PLACES, Layout, make_layout
from gwm.shards.world.polygons import GLOW, Solid, assemble
from gwm.shards.world.road import Bends, Road, make_road


@lru_cache(maxsize=8)
def scene(index: int, frames: int = 12) -> Scene:
    """A scene, made once."""
    return make_scene(7, index, frames)


@dataclass(frozen=True)
class Driven:
    """A drive and the road it was driven on."""

    road: Road
    layout: Layout
    result: Drive


@pytest.fixture(scope="module")
def drives() -> list[Driven]:
    """Twelve drives of 8 s in each kind of place, in traffic and without."""
    out = []
    for place in PLACES:
        for i in range(12):
            rng = np.random.default_rng([PLACES.index(place), i])
            layout = make_layout(rng, place)
            limit = float(rng.uniform(*place.limit))
            road = make_road(rng, place.bends, 350 + 12 * limit)
            spacing = (place.spacing[0], place.spacing[1], None)[i % 3]
            out.append(Driven(road, layout, drive(rng, road, layout, limit, spacing, 80)))
    return out


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


# What is recorded


@pytest.mark.parametrize("index", [0, 1, 2])
def test_pose_is_the_bicycles(index: int) -> None:
    ego = scene(index).ego
    assert ego.pose is not None
    assert ego.speed is not None
    assert ego.steering is not None
    assert np.abs(ego.pose[0] @ integrate(ego.speed, ego.steering) - ego.pose).max() < 1e-9


def test_ego_stays_on_its_side_of_the_road(drives: list[Driven]) -> None:
    for one in drives:
        pose, near = one.result.ego.pose, 60.0
        assert pose is not None
        for x, y in pose[:, :2, 3]:
            near, d = one.road.locate(x, y, near=near, reach=60.0)
            assert -one.layout.edge + 0.3 < d < -one.layout.median / 2 - 0.5, one.layout


def test_actions_are_diverse(drives: list[Driven]) -> None:
    speed = np.stack([d.result.ego.speed for d in drives if d.result.ego.speed is not None])
    steering = np.stack([d.result.ego.steering for d in drives if d.result.ego.steering is not None])
    rate = yaw_rate(speed, steering)
    left, right = (rate > 0.05).mean(), (rate < -0.05).mean()
    assert min(left, right) > 0.08
    assert 1 / 3 < left / right < 3
    assert rate.max() > 0.2
    assert rate.min() < -0.2
    assert speed.min() == 0.0
    assert speed.max() > 17.0
    assert speed.max() < 25.0
    still = speed == 0
    assert 0.01 < still.mean() < 0.3
    holds = [len(run) for row in still for run in "".join("x" if s else " " for s in row).split()]
    assert max(holds) >= 8
    starts = (still[:, :-1] & ~still[:, 1:]).sum()
    assert starts >= 3


def test_headings_are_of_every_size() -> None:
    headings = [make_road(np.random.default_rng(i), PLACES[0].bends, 50.0).heading(0.0) for i in range(40)]
    assert len(np.unique(np.floor(np.mod(headings, 2 * np.pi) / (np.pi / 2)))) == 4


def test_motion_is_smooth(drives: list[Driven]) -> None:
    for one in drives:
        ego = one.result.ego
        assert ego.speed is not None
        assert ego.steering is not None
        assert np.abs(np.diff(ego.speed)).max() <= 0.8 + 1e-9
        assert np.abs(np.diff(ego.steering)).max() <= 0.7 + 1e-9


def test_nobody_drives_into_the_ego(drives: list[Driven]) -> None:
    for one in drives:
        pose, traffic = one.result.ego.pose, one.result.traffic
        assert pose is not None
        for t in range(len(pose)):
            yaw = float(np.arctan2(pose[t, 1, 0], pose[t, 0, 0]))
            middle = pose[t, :2, 3] + EGO_CENTRE * pose[t, :2, 0]
            ego = Footprints(middle[None], np.array([yaw]), np.array([EGO_SIZE]) / 2)
            cars = Footprints(traffic.pose[t, :, :2], traffic.pose[t, :, 2], traffic.size / 2)
            assert not overlapping(ego, cars).any(), (one.layout, t)


def test_other_cars_do_not_drive_into_each_other(drives: list[Driven]) -> None:
    for one in drives[::4]:
        traffic = one.result.traffic
        for t in range(0, len(traffic.pose), 10):
            on_road = (traffic.s[t] > 3) & (traffic.s[t] < one.road.length - 3)
            cars = Footprints(traffic.pose[t, :, :2], traffic.pose[t, :, 2], traffic.size / 2).take(on_road)
            assert not (overlapping(cars, cars) & ~np.eye(on_road.sum(), dtype=bool)).any()


def test_a_stop_gets_a_crossing_in_front_of_the_ego(drives: list[Driven]) -> None:
    for one in drives:
        for s in one.result.stops:
            assert 0 < s < one.road.length
    assert any(one.result.stops for one in drives)


# What is drawn


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


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_turning_left_moves_the_scenery_right(sign: float) -> None:
    base = scene(0)
    speed, steering = np.full(12, 6.0), np.full(12, sign * 2.0)
    base = replace(base, ego=Motion(integrate(speed, steering), speed, steering))
    renderer = Renderer(with_landmark(base, (120.0, 0.0, 6.0), size=8.0), front_camera(128, 64))
    columns = [middle[0] for t in range(12) if (middle := purple_middle(renderer.frame(t))) is not None]
    assert len(columns) == 12
    assert (np.diff(columns) * sign > 0.5).all()


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


def test_same_seed_same_bytes_in_any_order() -> None:
    source = WorldSource(4, seed=3, frames=3, size=(96, 54))
    first = [next(source.chunks(i)).frames["front"] for i in (0, 1, 2)]
    again = [next(WorldSource(50, seed=3, frames=3, size=(96, 54)).chunks(i)).frames["front"] for i in (2, 1, 0)]
    assert first == again[::-1]
    assert first[0] != first[1]
    assert next(WorldSource(4, seed=4, frames=3, size=(96, 54)).chunks(0)).frames["front"] != first[0]


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


# Parts


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


def test_road_coordinates_there_and_back() -> None:
    road = make_road(np.random.default_rng(5), PLACES[0].bends, 300.0)
    for s, d in ((20.0, 0.0), (90.3, 3.1), (170.7, -4.4), (250.2, 1.0)):
        x, y = road.point(s, d)
        there = road.locate(x, y, near=s + 3)
        assert there == pytest.approx((s, d), abs=0.02)


def test_roads_bend_both_ways_and_keep_clear_of_themselves() -> None:
    lefts = 0.0
    for i in range(20):
        road = make_road(np.random.default_rng(i), PLACES[0].bends, 400.0)
        lefts += (road.curvatures > 0).sum() / max((road.curvatures != 0).sum(), 1) / 20
        assert np.abs(road.curvatures).max() <= 1 / 13 + 1e-9
        for s in np.arange(0, 400, 20.0):
            away = road.distance(road.point(s)[None], skip=(s - 105, s + 105))
            assert away[0] > 30
    assert 0.3 < lefts < 0.7


def test_a_bend_turns_by_what_it_should() -> None:
    road = make_road(np.random.default_rng(0), Bends((20, 20), (1.0, 1.0), (5, 5), 8, 30), 60.0)
    assert np.abs(np.diff(road.headings)).max() <= 0.5 / 20 + 1e-9
    assert np.abs(road.headings - road.headings[0]).max() > 0.9


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_no_house_stands_on_the_road(index: int) -> None:
    base = scene(index)
    houses = base.scenery.prints.take(base.scenery.shadow > 4)
    if len(houses.yaw):
        corners = houses.corners().reshape(-1, 2)
        assert base.road.distance(corners).min() > base.layout.border - 0.5
        near = np.flatnonzero(np.hypot(*(houses.centre - houses.centre[0]).T) < 150)
        some = houses.take(near)
        assert not (overlapping(some, some) & ~np.eye(len(near), dtype=bool)).any()


# The source


def test_chunk() -> None:
    source = WorldSource(3, seed=5, frames=4, size=(64, 48), val_every=3)
    (chunk,) = source.chunks(2)
    assert chunk.key == "world-5-000002"
    assert chunk.split == "val"
    assert chunk.length == len(chunk.frames["front"]) == 4
    assert np.allclose(chunk.timestamps, [0.0, 0.1, 0.2, 0.3])
    assert decode_jpeg(chunk.frames["front"][0]).shape == (48, 64, 3)
    assert chunk.cameras[0].view == "front"
    assert (chunk.cameras[0].width, chunk.cameras[0].height) == (64, 48)
    assert chunk.motion.pose is not None
    assert chunk.motion.pose.shape == (4, 4, 4)
    assert 1 <= len(chunk.text.split()) <= 8


def test_splits_do_not_depend_on_the_number_of_scenes() -> None:
    few, many = WorldSource(12), WorldSource(100)
    assert [few.split(i) for i in few.items()] == [many.split(i) for i in few.items()]
    assert [i for i in few.items() if few.split(i) == "val"] == [9]


def test_every_town_is_another() -> None:
    """Train and val scenes have different indices, and the index alone seeds the town."""
    roads = [make_road(np.random.default_rng([0, i]), PLACES[0].bends, 100.0) for i in range(20)]
    assert len({float(r.xs[50]) for r in roads}) == 20
    assert not np.array_equal(scene(0).road.xs[:50], scene(1).road.xs[:50])


def test_captions_are_few_plain_words() -> None:
    words = {w for i in range(4) for w in scene(i).text.replace(",", "").split()}
    allowed = "sunny overcast dusk night town suburb country highway road no light heavy traffic"
    assert words <= set(allowed.split())


def test_settings_are_json() -> None:
    settings = WorldSource(3).settings()
    assert json.loads(json.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("bad", "named"),
    [({"scenes": 0}, "0 scenes"), ({"seed": -1}, "-1"), ({"frames": 1}, "1 frames"), ({"size": (0, 64)}, "(0, 64)"),
     ({"val_every": 0}, "0")],
)  # fmt: skip
def test_impossible_worlds_are_refused(bad: dict[str, object], named: str) -> None:
    with pytest.raises(SourceError) as caught:
        WorldSource(**{"scenes": 2, **bad})  # type: ignore[arg-type]
    assert named in str(caught.value)


def test_impossible_scenes_are_refused() -> None:
    with pytest.raises(SourceError, match="0 or larger"):
        make_scene(-1, 0, 10)
    with pytest.raises(SourceError, match="at least 2"):
        make_scene(0, 0, 1)
