"""Cars, vans and buses as solids. Local frame: x forward, y left, the middle of the car at the origin."""

from __future__ import annotations

import numpy as np

from gwm.shards.world.buildings import mix, pick
from gwm.shards.world.polygons import HEAD, TAIL, Colour, Solid

PAINTS = (
    (188, 190, 192), (62, 64, 68), (134, 138, 142), (208, 206, 200), (120, 54, 52),
    (58, 78, 112), (92, 98, 92), (150, 136, 112), (72, 92, 100), (44, 48, 60),
)  # fmt: skip
GLASS = (52, 60, 68)
TYRE = (34, 34, 36)
PLATE = (206, 204, 190)
DARK_RED, CLEAR = (126, 36, 34), (206, 208, 206)


def _wheels(solid: Solid, length: float, width: float, radius: float) -> None:
    """Wheels as dark eight-cornered discs, two faces each, on both sides."""
    angle = np.arange(8) * np.pi / 4 + np.pi / 8
    for x in (-0.31 * length, 0.31 * length):
        rim = np.stack([x + radius * np.cos(angle), radius + radius * np.sin(angle)], axis=-1)
        for side in (-1.0, 1.0):
            ring = np.insert(rim, 1, side * (width / 2 + 0.01), axis=1)[:: int(-side)]
            solid.face(ring[[[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 0, 3]]], TYRE, coarsest=0.5)


def _lights(solid: Solid, length: float, width: float, z: float, size: float) -> None:
    """Tail lights, headlights and number plates, just in front of both ends of the body."""
    back, front, w = -length / 2 - 0.01, length / 2 + 0.01, width / 2
    for y0, y1 in ((w - 0.08, w - 0.08 - size * 1.5), (-w + 0.08 + size * 1.5, -w + 0.08)):
        solid.face([(back, y0, z), (back, y1, z), (back, y1, z + size), (back, y0, z + size)], DARK_RED, light=TAIL)
        solid.face([(front, y1, z), (front, y0, z), (front, y0, z + size), (front, y1, z + size)], CLEAR, light=HEAD)
    low = z - 0.25
    solid.face(
        [(back, 0.26, low), (back, -0.26, low), (back, -0.26, low + 0.14), (back, 0.26, low + 0.14)],
        PLATE,
        coarsest=0.2,
    )
    solid.face(
        [(front, -0.26, low - 0.1), (front, 0.26, low - 0.1), (front, 0.26, low + 0.04), (front, -0.26, low + 0.04)],
        PLATE,
        coarsest=0.2,
    )


def _cabin(
    solid: Solid, x: tuple[float, float, float, float], z: tuple[float, float], width: float, paint: Colour
) -> None:
    """The glazed upper part: x of its rear and front foot and of its rear and front roof edge."""
    foot_back, foot_front, roof_back, roof_front = x
    z0, z1 = z
    w, v = width / 2 - 0.04, width / 2 - 0.2
    a, b, c, d = (foot_back, -w, z0), (foot_front, -w, z0), (foot_front, w, z0), (foot_back, w, z0)
    e, f, g, h = (roof_back, -v, z1), (roof_front, -v, z1), (roof_front, v, z1), (roof_back, v, z1)
    solid.face([(a, b, f, e), (b, c, g, f), (c, d, h, g), (d, a, e, h)], mix(paint, (0, 0, 0), 0.12))

    walls = np.array([(a, b, f, e), (b, c, g, f), (c, d, h, g), (d, a, e, h)])
    middle = walls.mean(axis=1, keepdims=True)
    solid.face(middle + (walls - middle) * 0.84, GLASS)
    solid.face([e, f, g, h], mix(paint, (255, 255, 255), 0.06))


def car(rng: np.random.Generator, length: float, width: float) -> Solid:
    """A passenger car of one of three shapes: hatchback, saloon, or the taller off-roader."""
    solid = Solid()
    paint = pick(rng, PAINTS, 8)
    shape = int(rng.integers(3))
    waist, roof = ((0.86, 1.46), (0.84, 1.42), (1.0, 1.68))[shape]
    h = length / 2
    solid.box((-h, -width / 2, 0.24), (h, width / 2, waist), paint, top=mix(paint, (255, 255, 255), 0.06), taper=0.1)
    bumper = mix(paint, (40, 40, 42), 0.75)
    for end in (-1.0, 1.0):
        x, w = end * (h + 0.005), width / 2 * end
        solid.face([(x, -w, 0.24), (x, w, 0.24), (x, w, 0.45), (x, -w, 0.45)], bumper, coarsest=0.3)
    _wheels(solid, length, width, 0.32)
    _lights(solid, length, width, waist - 0.3, 0.16)
    rear_foot, rear_roof = ((-h + 0.05, -h + 0.5), (-h + 0.75, -h + 1.4), (-h + 0.05, -h + 0.35))[shape]
    _cabin(solid, (rear_foot, h - 1.05, rear_roof, h - 1.85), (waist, roof), width, paint)
    return solid


def bus(rng: np.random.Generator, length: float, width: float) -> Solid:
    """A bus with a row of windows, or a box lorry."""
    solid = Solid()
    paint = pick(rng, ((196, 192, 182), (150, 70, 62), (92, 112, 124), (186, 160, 100)), 8)
    h, w, top = length / 2, width / 2, 3.0
    solid.box((-h, -w, 0.35), (h, w, top), paint, top=mix(paint, (255, 255, 255), 0.1))
    _wheels(solid, length, width, 0.48)
    passengers = rng.random() < 0.6
    x = h + 0.01
    solid.face([(x, -w * 0.9, 1.4), (x, w * 0.9, 1.4), (x, w * 0.9, 2.6), (x, -w * 0.9, 2.6)], GLASS)
    if passengers:
        solid.face([(-x, w * 0.8, 1.5), (-x, -w * 0.8, 1.5), (-x, -w * 0.8, 2.5), (-x, w * 0.8, 2.5)], GLASS)
        for y in (w + 0.01, -w - 0.01):
            a, b = (h - 0.4, -h + 0.4) if y > 0 else (-h + 0.4, h - 0.4)
            solid.face([(a, y, 1.4), (b, y, 1.4), (b, y, 2.5), (a, y, 2.5)], GLASS)
    else:
        for y in (w + 0.01, -w - 0.01):
            a, b = (h - 0.3, h - 1.5) if y > 0 else (h - 1.5, h - 0.3)
            solid.face([(a, y, 1.4), (b, y, 1.4), (b, y, 2.4), (a, y, 2.4)], GLASS)
    _lights(solid, length, width, 0.8, 0.22)
    return solid


def vehicle(rng: np.random.Generator, length: float, width: float) -> Solid:
    """A car, or above 6 m a bus."""
    return bus(rng, length, width) if length > 6 else car(rng, length, width)
