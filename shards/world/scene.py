"""A scene: one stretch of road in one light, with everything that stands and moves on it, made from (seed, index)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards import SourceError
from gwm.shards.motion import yaw_rate
from gwm.shards.schema import FRAME_RATE, Floats, Motion
from gwm.shards.world.cars import vehicle
from gwm.shards.world.crossing import add_crossing
from gwm.shards.world.drive import SETTLE, START, Traffic, drive
from gwm.shards.world.ground import paint_ground
from gwm.shards.world.instant import Instant, instant_at, poses_at, values_at
from gwm.shards.world.junctions import Junction, arm_prints, is_clear, make_junctions
from gwm.shards.world.looks import TIMES, WEATHERS, Look, look_in, make_look
from gwm.shards.world.paint import CROSSING, Ground
from gwm.shards.world.places import PLACES, Layout, make_layout
from gwm.shards.world.polygons import Polygons, assemble
from gwm.shards.world.road import Road, make_road
from gwm.shards.world.scenery import Scenery, make_scenery
from gwm.shards.world.variant import MIXED, PLAIN, Variant

PAST = 260.0  # m of road behind the ego where cameras look back
LOOKS, DROPS, JUNCTIONS = 1, 2, 3  # random streams beside the plain world's, one for each thing it does not have
VIEW = 450.0  # m, what is farther away is not drawn
TRAFFIC = ("no", "light", "heavy")


@dataclass(frozen=True)
class Scene:
    """Everything there is to see and to know of one scene of T frames."""

    seed: int
    index: int
    layout: Layout
    look: Look
    road: Road
    ego: Motion  # T frames; the pose is that of the rear axle on the ground
    ground: Ground
    scenery: Scenery
    traffic: Traffic
    cars: Polygons  # (P, 4) faces of all moving cars in their own frames; owner = column in `traffic`
    junctions: tuple[Junction, ...]
    hills: Floats  # (H, 3): azimuth, half width, height, radians
    clouds: Floats  # (C, 4): azimuth, elevation, half width, half height, radians
    text: str

    @property
    def frames(self) -> int:
        """Number of frames T."""
        return len(self.traffic.pose)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the last."""
        return (self.frames - 1) / FRAME_RATE

    def instant(self, time: float) -> Instant:
        """Where everything is `time` seconds after the first frame, 0 .. `duration`."""
        return instant_at(self.ego, self.traffic, time)

    def pose_at(self, time: float) -> Floats:
        """(4, 4) ego -> world at `time` (s); see `poses_at`."""
        out: Floats = poses_at(self.ego, np.array([time]))[0]
        return out

    def speed_at(self, times: Floats | float) -> Floats:
        """Forward speed in m/s at one or many times (s)."""
        assert self.ego.speed is not None
        return values_at(self.ego.speed, times)

    def steering_at(self, times: Floats | float) -> Floats:
        """Angle of the steering wheel in rad, left positive, at one or many times (s)."""
        assert self.ego.steering is not None
        return values_at(self.ego.steering, times)

    def yaw_rate_at(self, times: Floats | float) -> Floats:
        """Yaw rate in rad/s, left positive, at one or many times (s)."""
        return yaw_rate(self.speed_at(times), self.steering_at(times))


def make_scene(seed: int, index: int, frames: int, variant: Variant = PLAIN) -> Scene:
    """The scene number `index` of the world `seed`, `frames` frames long at 10 Hz.

    Everything is drawn from `numpy.random.default_rng([seed, index])`: a scene depends neither on other scenes nor on
    who makes it. What `variant` adds to the plain world is drawn from other streams: in another weather the same drive
    leads past the same houses. Raises SourceError for a negative seed or index, or fewer than 2 frames.
    """
    if seed < 0 or index < 0:
        raise SourceError(f"seed {seed}, scene {index}: both must be 0 or larger")
    if frames < 2:
        raise SourceError(f"{frames} frames: a scene of the world needs at least 2")
    rng = np.random.default_rng([seed, index])
    place = PLACES[rng.choice(4, p=[0.35, 0.25, 0.22, 0.18])]
    layout, look = make_layout(rng, place), make_look(rng)
    look = _in_variant(seed, index, look, variant)
    limit, start = float(rng.uniform(*place.limit)), PAST if variant.surround else START
    road = make_road(rng, place.bends, start + 1.15 * limit * (frames + SETTLE) / FRAME_RATE + VIEW)
    traffic = int(rng.choice(3, p=[0.15, 0.45, 0.4]))
    spacing = None if traffic == 0 else place.spacing[0] if traffic == 2 else place.spacing[1]
    driven = drive(rng, road, layout, limit, spacing, frames, start)
    beside = np.random.default_rng([seed, index, JUNCTIONS])
    junctions = make_junctions(beside, road, layout, driven.stops) if variant.junctions else ()
    scenery = make_scenery(rng, road, layout, look, arm_prints(junctions))
    zebras = [s for s in _crossings(rng, layout, road, driven.stops) if is_clear(junctions, s)]
    ground = paint_ground(rng, road, layout, zebras, scenery.drives, junctions)
    bodies = [vehicle(rng, *size) for size in driven.traffic.size]
    everyone = add_crossing(beside, driven, junctions) if junctions and traffic else driven.traffic
    bodies += [vehicle(beside, *size) for size in everyone.size[len(bodies) :]]
    cars = assemble(bodies, np.zeros((len(bodies), 3)))[0]
    return Scene(
        seed, index, layout, look, road, driven.ego, ground, scenery, everyone, cars, junctions,
        *_backdrop(rng, look), text=f"{look.name} {place.name}, {TRAFFIC[traffic]} traffic",
    )  # fmt: skip


def _in_variant(seed: int, index: int, look: Look, variant: Variant) -> Look:
    """The look that `variant` asks for; what it leaves open is as in `look`, the plain world's."""
    if variant.weather is None and variant.time is None:
        return look
    rng = np.random.default_rng([seed, index, LOOKS])
    weather, time = str(rng.choice(WEATHERS, p=[0.4, 0.2, 0.25, 0.15])), str(rng.choice(TIMES, p=[0.5, 0.2, 0.3]))
    if variant.weather != MIXED:
        weather = variant.weather or look.weather
    if variant.time != MIXED:
        time = variant.time or look.time
    return look_in(rng, weather, time)


def _crossings(rng: np.random.Generator, layout: Layout, road: Road, stops: tuple[float, ...]) -> list[float]:
    """Arc lengths of zebra crossings: wherever the ego stopped for no car, and some more."""
    if not layout.place.sidewalk:
        return []
    chance = [float(s) for s in np.arange(rng.uniform(10, 90), road.length, 90.0) if rng.random() < 0.6]
    wanted = [s + 1.5 + CROSSING[0] for s in stops]
    return wanted + [s for s in chance if all(abs(s - w) > 15 for w in wanted)]


def _backdrop(rng: np.random.Generator, look: Look) -> tuple[Floats, Floats]:
    """Hills around the horizon and clouds above it, at the same directions wherever one stands."""
    n = 26
    azimuth = np.arange(n) * 2 * np.pi / n + rng.uniform(-0.1, 0.1, n)
    height = rng.uniform(0.008, 0.05, n) * rng.choice([0.4, 1.0])
    hills = np.stack([azimuth, rng.uniform(0.14, 0.4, n), height], axis=-1)
    low, high = [-np.pi, 0.1, 0.08, 0.01], [np.pi, 0.42, 0.3, 0.035]
    return hills, rng.uniform(low, high, (look.clouds, 4))
