"""The renderer: any pinhole camera on the ego car, painter's algorithm, anti-aliased by supersampling.

A picture is drawn in layers: sky, clouds and far hills; the ground's paint in flat colours, multiplied by one map of
light (shadows, headlights, street lamps) and faded into the haze; what stands on the ground, from far to near.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from gwm.shards.schema import FRAME_RATE, Camera, Floats, Images
from gwm.shards.world.atmosphere import Atmosphere, beam
from gwm.shards.world.camera import project, to_camera
from gwm.shards.world.halos import BRAKE_RED, HEADLIGHT, TAIL_RED, glow, is_seen, lights
from gwm.shards.world.instant import Instant
from gwm.shards.world.order import Footprints, painters_order
from gwm.shards.world.polygons import GLOW, HEAD, TAIL, Bools, Ints, Polygons, cross, placed
from gwm.shards.world.rain import WIND, draw_rain, drop_stream
from gwm.shards.world.raster import SHIFT, Corners, Raster
from gwm.shards.world.scene import DROPS, VIEW, Scene
from gwm.shards.world.shadows import box_shadows
from gwm.shards.world.stage import Batch, Stage, in_light

SHADOWS = 180.0  # m, shadows farther away are not drawn
FLIPPED = np.array([1.0, 1.0, -1.0])  # a place mirrored in the ground
MIRRORED, STREAK = 0.45, 4.0  # of a light in a wet road: its brightness, and how much higher than wide it is
CAR_HEIGHT = 1.35  # m, of the box that casts a car's shadow


@dataclass(frozen=True)
class Shot:
    """One picture as it is taken: where the camera is, and which cars are about."""

    now: Instant
    world: Floats  # (4, 4) camera -> world
    eye: Floats  # (2,) m, the camera's place on the ground
    cars: Ints  # columns of the moving cars that are on the road within the view


class Renderer:
    """Draws the frames of one scene as one camera on the ego car sees them."""

    def __init__(self, scene: Scene, camera: Camera, stage: Stage | None = None) -> None:
        """`stage`: the scene's, to be shared by the cameras of a rig."""
        self.scene, self.camera, self.raster = scene, camera, Raster(camera)
        self.stage = stage or Stage(scene)
        self.air = Atmosphere(scene.look, scene.ground.plain, camera, self.raster.factor)

    def frame(self, index: int) -> Images:
        """Frame `index` as (H, W, 3) uint8 RGB."""
        return self.at(index / FRAME_RATE)

    def at(self, time: float) -> Images:
        """The picture taken `time` seconds after the first frame, (H, W, 3) uint8 RGB."""
        shot = self._shot(self.scene.instant(time))
        picture = self.air.background.copy()
        self._backdrop(picture, shot)
        self._ground(picture, shot)
        for corners, colour in self._solids(shot):
            cv2.fillConvexPoly(picture, corners, colour, cv2.LINE_8, SHIFT)
        small = self.raster.reduce(picture)
        if self.scene.look.lamps > 0:
            self._halos(small, picture, shot)
        if self.scene.look.wet:
            self._rain(small, shot.now)
        return small

    def _shot(self, now: Instant) -> Shot:
        world = now.ego @ self.camera.extrinsics
        near = np.hypot(*(now.cars[:, :2] - world[:2, 3]).T) < VIEW
        there = near & (now.s > 2) & (now.s < self.scene.road.length - 2)
        return Shot(now, world, world[:2, 3], np.flatnonzero(there))

    def _backdrop(self, picture: Images, shot: Shot) -> None:
        """Clouds and far hills: directions, not places."""
        look, scene = self.scene.look, self.scene
        turn = shot.world[:3, :3]
        if len(scene.clouds):
            angle = np.arange(12) * np.pi / 6
            azimuth = scene.clouds[:, :1] + scene.clouds[:, 2:3] * np.cos(angle)
            height = scene.clouds[:, 1:2] + scene.clouds[:, 3:] * np.sin(angle)
            rays = np.stack([np.cos(azimuth), np.sin(azimuth), np.tan(height)], axis=-1) @ turn
            white = look.horizon * 0.65 + (look.ambient + look.sun) * 225 * 0.35
            self.raster.fill(picture, 1000 * rays, np.tile(np.minimum(white, 255), (len(rays), 1)))
        h = scene.hills
        share = np.array([-1.0, -0.7, -0.3, 0.0, 0.35, 0.7, 1.0])
        azimuth = h[:, :1] + h[:, 1:2] * share
        height = h[:, 2:] * np.array([0.0, 0.5, 0.92, 1.0, 0.85, 0.4, 0.0])
        rays = np.stack([np.cos(azimuth), np.sin(azimuth), height], axis=-1) @ turn
        hill = look.lit(np.array([[104.0, 118.0, 104.0]]), np.array([[0.0, 0.0, 1.0]]))
        shade = np.where(np.arange(len(h))[:, None] % 3 == 0, 0.5, 0.36) * look.far
        self.raster.fill(picture, 1000 * rays, hill * shade + look.horizon * (1 - shade))

    def _ground(self, picture: Images, shot: Shot) -> None:
        """Paint the ground in flat colours, darker below the cars; then light it and fade it into the haze."""
        if self.air.rows.stop == 0:
            return
        prints = shot.now.prints().take(shot.cars)
        near = self._near(self.stage.paint_extent, shot, VIEW)
        pixel = np.hypot(*(self.stage.paint_extent[0][near, :2] - shot.eye).T) / self.camera.intrinsics[0, 0]
        near = near[pixel < self.scene.ground.coarsest[near]]
        below = np.pad(replace(prints, half=prints.half + 0.05).corners(), ((0, 0), (0, 0), (0, 1)))
        points = np.concatenate([self.scene.ground.points[near], below])
        colours = np.concatenate([self.stage.paint[near], np.tile(self.stage.paint.min(axis=0) * 0.5, (len(below), 1))])
        self.raster.fill(picture, to_camera(points, shot.world), colours)
        self.air.light_ground(picture, self._shadows(shot, prints), self._lamps_near(shot))

    def _near(self, extent: tuple[Floats, Floats], shot: Shot, view: float) -> Ints:
        """Indices of things with centres (P, 3) and radii (P,) that may be in the picture."""
        centre, reach = extent
        close = np.flatnonzero(np.abs(centre[:, :2] - shot.eye).max(axis=1) < view)
        return close[self.raster.near(to_camera(centre[close], shot.world), reach[close])]

    def _shadows(self, shot: Shot, prints: Footprints) -> Images | None:
        """What shadows leave of the light on the ground, (H, W) uint8; None without sun. `prints` are the cars'."""
        look = self.scene.look
        if not look.sun.any():
            return None
        cast = self.stage.shadows[self._near(self.stage.shadow_extent, shot, SHADOWS)]
        points = np.concatenate([cast, box_shadows(prints, np.full(len(prints.yaw), CAR_HEIGHT), look)])
        light: Images = np.full((self.raster.height, self.raster.width), 255, np.uint8)
        self.raster.fill(light, to_camera(points, shot.world), np.full((len(points), 1), self.air.shadow))
        return light

    def _lamps_near(self, shot: Shot) -> Floats:
        """Places (L, 2) in the ego frame of the street lamps whose light on the ground may be seen."""
        lamps = self.scene.scenery.lamps
        centre = to_camera(lamps * np.array([1.0, 1.0, 0.0]), shot.world)
        near = self.raster.near(centre, 12.0) & (np.hypot(*(lamps[:, :2] - shot.eye).T) < 120)
        out: Floats = ((lamps[near] - shot.now.ego[:3, 3]) @ shot.now.ego[:3, :3])[:, :2]
        return out

    def _solids(self, shot: Shot) -> list[tuple[Corners, list[float]]]:
        """All visible polygons of what stands on the ground, in drawing order, with their colours."""
        still, cars = self.scene.scenery.prints, shot.now.prints()
        prints = Footprints(*(np.concatenate([getattr(still, f), getattr(cars, f)]) for f in ("centre", "yaw", "half")))
        there = np.concatenate([np.arange(len(still.yaw)), shot.cars + len(still.yaw)])
        # Crowns, lamp arms and sign bridges reach beyond their footprint, and upwards.
        extent = np.pad(prints.centre[there], ((0, 0), (0, 1))), np.hypot(*prints.half[there].T) + 6.0
        visible = there[self._near(extent, shot, VIEW)]
        rank = np.full(len(prints.yaw), -1)
        rank[visible[painters_order(prints.take(visible), shot.eye)]] = np.arange(len(visible))
        pixel = np.hypot(*(prints.centre - shot.eye).T) / self.camera.intrinsics[0, 0]
        faces, blobs = (batch.take(_chosen(batch.polygons, rank, pixel)) for batch in self.stage.still)
        moving = self._moving(shot, rank, pixel)
        corners: list[Corners] = []
        colours, ranks = [], []
        for batch in (faces.join(moving), blobs):
            points = to_camera(_turned(batch.polygons, shot.eye), shot.world)
            drawn, seen = self.raster.corners(points)
            keep = np.flatnonzero(seen & _facing(points))
            corners += [drawn[i] for i in keep.tolist()]
            colours.append(self._seen(batch.take(keep), points[keep].mean(axis=1)))
            ranks.append(rank[batch.polygons.owner[keep]])
        order = np.argsort(np.concatenate(ranks), kind="stable").tolist()
        rgb = np.concatenate(colours).tolist()
        return [(corners[i], rgb[i]) for i in order]

    def _moving(self, shot: Shot, rank: Ints, pixel: Floats) -> Batch:
        """The visible moving cars in the world, their lights on or off; they own the last places of `rank`."""
        scene = self.scene
        first = len(rank) - len(shot.now.size)
        part = scene.cars.take(_chosen(replace(scene.cars, owner=scene.cars.owner + first), rank, pixel))
        points = placed(part.points, shot.now.cars[part.owner])
        braking = shot.now.braking[part.owner]
        batch = in_light(scene.look, replace(part, points=points, owner=part.owner + first))
        colour, lamps = batch.lit.copy(), scene.look.lamps > 0
        colour[(part.light == TAIL) & lamps] = TAIL_RED
        colour[(part.light == TAIL) & braking] = BRAKE_RED
        colour[(part.light == HEAD) & lamps] = HEADLIGHT
        return Batch(batch.polygons, colour)

    def _seen(self, batch: Batch, middle: Floats) -> Floats:
        """Colours (P, 3) of polygons around `middle` (P, 3) in the camera's frame, in headlights and through haze."""
        lit = batch.lit
        if self.scene.look.dark:
            ego = middle @ self.camera.extrinsics[:3, :3].T + self.camera.extrinsics[:3, 3]
            plain = (batch.polygons.light != GLOW) & (ego[:, 2] < 6)
            lit = lit + batch.polygons.colour * (0.6 * beam(ego[:, 0], ego[:, 1], self.camera) * plain)[:, None]
        return np.minimum(self.scene.look.hazy(lit, np.linalg.norm(middle, axis=1)), 255.0)

    def _halos(self, small: Images, picture: Images, shot: Shot) -> None:
        """Add a glow to `small` around every light that can be seen in the supersampled `picture`."""
        scene, look = self.scene, self.scene.look
        points, colours, radius = lights(scene.scenery.lamps, shot.now, shot.cars, shot.eye)
        places = to_camera(points, shot.world)
        far = np.linalg.norm(places, axis=1)
        near = np.flatnonzero((places[:, 2] > 1.0) & (far < 150))
        pixels = project(places[near], self.raster.lens)
        strength = (0.5 if look.dark else 0.25) * np.exp(-far / look.haze)
        sizes = radius * self.camera.intrinsics[0, 0] / np.maximum(far, 1.0) + 0.01 * self.camera.width
        mirrored = project(to_camera(points[near] * FLIPPED, shot.world), self.raster.lens)
        for k, (u, v), mirror in zip(near.tolist(), pixels.tolist(), mirrored.tolist(), strict=True):
            if is_seen(picture, u, v):
                light = colours[k] * strength[k]
                glow(small, u / self.raster.factor, v / self.raster.factor, float(sizes[k]), light)
                if look.wet:
                    at = mirror[0] / self.raster.factor, mirror[1] / self.raster.factor
                    glow(small, *at, float(sizes[k]), light * MIRRORED, STREAK)

    def _rain(self, small: Images, now: Instant) -> None:
        scene = self.scene
        rng = drop_stream(scene.seed, scene.index, DROPS, self.camera, now.time)
        wind = WIND * np.array([np.cos(scene.index), np.sin(scene.index), 0.0])  # Our choice: it blows steadily
        drift = wind @ now.ego[:3, :3] - np.array([now.speed, 0.0, 0.0])
        draw_rain(rng, small, self.camera, drift, scene.look.horizon)


def _chosen(polygons: Polygons, rank: Ints, pixel: Floats) -> Ints:
    """Indices of the polygons of visible solids (rank >= 0), in the detail that the size of a pixel there allows."""
    size = pixel[polygons.owner]
    return np.flatnonzero((rank[polygons.owner] >= 0) & (size >= polygons.finest) & (size < polygons.coarsest))


def _turned(part: Polygons, eye: Floats) -> Floats:
    """World points (P, N, 3) with the sideways parts of poles and crowns turned to the viewer."""
    round_ = np.flatnonzero(part.side.any(axis=1))
    points = part.points.copy()
    to = points[round_, 0, :2] - eye
    to /= np.maximum(np.hypot(*to.T), 1e-6)[:, None]
    right = np.stack([to[:, 1], -to[:, 0]], axis=-1)
    points[round_, :, :2] += part.side[round_][..., None] * right[:, None]
    return points


def _facing(points: Floats) -> Bools:
    """Whether polygons (P, N, 3) in the camera's frame turn their outside to the camera."""
    normal = cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    out: Bools = (normal * points[:, 0]).sum(axis=1) < 0
    return out


def render(scene: Scene, frame: int, camera: Camera) -> Images:
    """Frame number `frame` of a scene as (H, W, 3) uint8 RGB. For many frames keep a `Renderer`."""
    return Renderer(scene, camera).frame(frame)
