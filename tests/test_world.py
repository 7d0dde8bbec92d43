"""The rendered world: what is recorded is what was driven, and everything follows from the seed."""

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest

from gwm.shards import SourceError
from gwm.shards.images import decode_jpeg
from gwm.shards.motion import STEERING_RATIO, WHEELBASE, integrate, yaw_rate
from gwm.shards.sources.world import WorldSource
from gwm.shards.world import Scene, make_scene
from gwm.shards.world.drive import EGO_CENTRE, EGO_SIZE, Drive, drive
from gwm.shards.world.order import Footprints, overlapping
from gwm.shards.world.places import PLACES, Layout, make_layout
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


def test_stops_are_where_the_ego_stands_still(drives: list[Driven]) -> None:
    """A crossing is painted there, so the front bumper must be there while the wheels do not turn."""
    count = 0
    for one in drives:
        ego = one.result.ego
        assert ego.pose is not None
        assert ego.speed is not None
        still = ego.pose[ego.speed == 0, :2, 3]
        for s in one.result.stops:
            x, y = one.road.point(s - EGO_CENTRE - EGO_SIZE[0] / 2, -one.layout.edge / 2)
            assert np.hypot(*(still - [x, y]).T).min() < one.layout.edge / 2
            count += 1
    assert count >= 3


def test_same_seed_same_bytes_in_any_order() -> None:
    source = WorldSource(4, seed=3, frames=3, size=(96, 54))
    other = WorldSource(50, seed=3, frames=3, size=(96, 54))
    first = [next(source.chunks(item)).frames["front"] for item in source.items()[:3]]
    again = [next(other.chunks(item)).frames["front"] for item in other.items()[2::-1]]
    assert first == again[::-1]
    assert first[0] != first[1]
    fourth = WorldSource(4, seed=4, frames=3, size=(96, 54))
    assert next(fourth.chunks(fourth.items()[0])).frames["front"] != first[0]


# Between the frames


def test_at_the_frames_time_gives_the_frames_values() -> None:
    base = scene(1)
    ego = base.ego
    assert ego.pose is not None
    for i in (0, 3, 7, 11):
        now = base.instant(i / 10)
        assert np.array_equal(now.ego, ego.pose[i])
        assert np.array_equal(base.pose_at(i / 10), ego.pose[i])
        assert np.array_equal(now.cars, base.traffic.pose[i])
        assert np.array_equal(now.braking, base.traffic.braking[i])
    assert np.array_equal(base.speed_at(np.arange(12) / 10), ego.speed)  # type: ignore[arg-type]
    assert np.array_equal(base.steering_at(np.arange(12) / 10), ego.steering)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [0, 1, 2, 5])
def test_between_the_frames_the_pose_moves_as_speed_and_yaw_rate_say(index: int) -> None:
    base = scene(index)
    times = np.linspace(0, base.duration, 23 * 11 + 1)
    poses = np.stack([base.pose_at(float(t)) for t in times])
    dt, middle = times[1] - times[0], (times[1:] + times[:-1]) / 2
    step = np.linalg.inv(poses[:-1]) @ poses[1:]
    assert np.abs(step[:, 0, 3] / dt - base.speed_at(middle)).max() < 0.02
    assert np.abs(step[:, 1, 3] / dt).max() < 0.02  # m/s sideways
    turned = np.arctan2(step[:, 1, 0], step[:, 0, 0]) / dt
    # Within a frame the pose has one curvature while the wheel turns steadily: half its turn is the most it may differ.
    assert base.ego.steering is not None
    lag = np.abs(np.diff(base.ego.steering)).max() / 2 / STEERING_RATIO / WHEELBASE * base.speed_at(times).max()
    assert np.abs(turned - base.yaw_rate_at(middle)).max() < 1.1 * lag + 1e-3
    assert lag < 0.1


def test_between_the_frames_cars_are_between_their_places() -> None:
    base = scene(1)
    a, b = base.instant(0.3), base.instant(0.4)
    half = base.instant(0.35)
    assert len(a.cars) > 5
    assert np.allclose(half.cars, (a.cars + b.cars) / 2)
    assert (np.hypot(*(b.cars - a.cars)[:, :2].T) > 0.5).any()


@pytest.mark.parametrize("time", [-0.1, 1.1001, 60.0])
def test_a_scene_has_no_time_before_and_after(time: float) -> None:
    for ask in (scene(0).instant, scene(0).pose_at, scene(0).speed_at, scene(0).steering_at):
        with pytest.raises(AssertionError, match="a scene of 0"):
            ask(time)


# Roads and houses


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
def test_houses_stand_beside_the_road_and_nothing_stands_in_them(index: int) -> None:
    """Trees once stood in houses: only the last 80 houses had been looked at."""
    base = scene(index)
    prints, large = base.scenery.prints, base.scenery.shadow > 4
    if large.any():
        houses = prints.take(large)
        assert base.road.distance(houses.corners().reshape(-1, 2)).min() > base.layout.border - 0.5
        both = overlapping(prints, houses)
        both[np.flatnonzero(large), np.arange(len(houses.yaw))] = False
        assert not both.any()


# The source


def test_chunk() -> None:
    source = WorldSource(3, seed=5, frames=4, size=(64, 48), val_every=3)
    (chunk,) = source.chunks(source.items()[2])
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
    assert [few.split(i) for i in range(12)] == [many.split(i) for i in range(12)]
    assert [i for i in range(12) if few.split(i) == "val"] == [9]


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
