"""What stands beside roads: trees, lamps, signs, rails, hedges, posts."""

from __future__ import annotations

import numpy as np

from gwm.shards.world.buildings import mix, pick
from gwm.shards.world.polygons import BLOB, GLOW, Colour, Solid

LEAVES = ((96, 116, 66), (84, 108, 70), (112, 120, 72), (78, 98, 62))
NEEDLES = ((62, 86, 66), (70, 92, 70))
BARK = (92, 78, 66)
STEEL = (142, 145, 148)
SIGN_BLUE, SIGN_RED, SIGN_GREEN, SIGN_WHITE = (62, 92, 148), (168, 62, 58), (60, 108, 84), (214, 214, 208)
LAMP_HEIGHT = 7.0


def tree(rng: np.random.Generator, height: float) -> Solid:
    """A tree with a round crown of three shades, or a conifer."""
    solid = Solid()
    if rng.random() < 0.25:
        green, trunk = pick(rng, NEEDLES, 8), 0.12 * height
        solid.pole(0, 0, 0, trunk * 1.6, 0.05 * height, BARK)
        for k, share in enumerate((1.0, 0.78, 0.54)):
            base = trunk + (height - trunk) * (0.0, 0.28, 0.55)[k]
            solid.cone(
                (0, 0, base),
                0.26 * height * share,
                (height - base) * (0.62, 0.7, 1.0)[k],
                mix(green, (130, 140, 110), 0.1 * k),
            )
        return solid
    green, trunk = pick(rng, LEAVES, 10), rng.uniform(0.22, 0.36) * height
    crown = height - trunk
    wide = rng.uniform(0.32, 0.5) * crown
    solid.pole(0, 0, 0, trunk + 0.3 * crown, 0.045 * height, BARK)
    for shade, share, up in ((-0.16, 1.0, 0.48), (0.0, 0.8, 0.56), (0.14, 0.48, 0.66)):
        colour = mix(green, (40, 52, 36) if shade < 0 else (168, 172, 120), abs(shade) * 1.6)
        outline = rng.uniform(0.86, 1.12, BLOB)
        solid.blob((0, 0, trunk + crown * up), (wide * share, crown * 0.52 * share), colour, outline)
    return solid


def bush(rng: np.random.Generator, size: float) -> Solid:
    """A bush, as wide as high."""
    solid = Solid()
    green = pick(rng, LEAVES, 10)
    solid.blob(
        (0, 0, 0.4 * size), (0.55 * size, 0.5 * size), mix(green, (40, 52, 36), 0.25), rng.uniform(0.9, 1.1, BLOB)
    )
    solid.blob((0, 0, 0.5 * size), (0.4 * size, 0.36 * size), green, rng.uniform(0.9, 1.1, BLOB))
    return solid


def lamp(arm: float, lit: bool) -> Solid:
    """A street lamp whose head hangs `arm` metres towards -y, over the road."""
    solid = Solid()
    h = LAMP_HEIGHT
    solid.pole(0, 0, 0, h, 0.16, STEEL)
    solid.box((-0.05, -arm, h - 0.08), (0.05, 0, h + 0.04), STEEL)
    colour: Colour = (255, 226, 170) if lit else (188, 190, 190)
    solid.box((-0.16, -arm - 0.5, h - 0.18), (0.16, -arm, h + 0.05), STEEL)
    under = [
        (-0.16, -arm - 0.5, h - 0.18),
        (-0.16, -arm, h - 0.18),
        (0.16, -arm, h - 0.18),
        (0.16, -arm - 0.5, h - 0.18),
    ]
    solid.face(under, colour, light=GLOW if lit else 0)
    if lit:
        solid.blob((0, -arm - 0.25, h - 0.15), (0.24, 0.14), colour, light=GLOW)
    return solid


def sign(rng: np.random.Generator) -> Solid:
    """A traffic sign that faces -x, the cars that come along the road."""
    solid = Solid()
    colour = (SIGN_BLUE, SIGN_RED, SIGN_WHITE)[int(rng.integers(3))]
    solid.pole(0, 0, 0, 2.7, 0.08, STEEL)
    y, z = 0.38, 2.3
    solid.face([(-0.05, y, z - y), (-0.05, -y, z - y), (-0.05, -y, z + y), (-0.05, y, z + y)], colour)
    y *= 0.55
    inner = SIGN_WHITE if colour != SIGN_WHITE else SIGN_RED
    solid.face([(-0.06, y, z - y), (-0.06, -y, z - y), (-0.06, -y, z + y), (-0.06, y, z + y)], mix(colour, inner, 0.8))
    y, z = 0.38, 2.3
    solid.face([(0.05, -y, z - y), (0.05, y, z - y), (0.05, y, z + y), (0.05, -y, z + y)], (120, 122, 124))
    return solid


def board(rng: np.random.Generator, width: float) -> Solid:
    """A large direction sign on two posts that faces -x."""
    solid = Solid()
    colour = (SIGN_BLUE, SIGN_GREEN)[int(rng.integers(2))]
    w, z0, z1 = width / 2, 2.2, 5.2
    for y in (-w * 0.7, w * 0.7):
        solid.pole(0, y, 0, z1, 0.2, STEEL)
    solid.face([(-0.1, w, z0), (-0.1, -w, z0), (-0.1, -w, z1), (-0.1, w, z1)], colour)
    for k in range(2):
        z = z1 - 0.7 - 1.1 * k
        right = -w * rng.uniform(0.2, 0.75)
        solid.face(
            [(-0.12, w * 0.8, z - 0.5), (-0.12, right, z - 0.5), (-0.12, right, z), (-0.12, w * 0.8, z)],
            SIGN_WHITE,
            coarsest=0.4,
        )
    solid.face([(0.1, -w, z0), (0.1, w, z0), (0.1, w, z1), (0.1, -w, z1)], (120, 122, 124))
    return solid


def gantry(rng: np.random.Generator, reach: float) -> Solid:
    """A sign bridge over one direction: from y = 0 at the right edge to y = reach; faces -x."""
    solid = Solid()
    colour = (SIGN_BLUE, SIGN_GREEN)[int(rng.integers(2))]
    solid.pole(0, 0, 0, 6.8, 0.35, STEEL)
    solid.pole(0, reach, 0, 6.8, 0.35, STEEL)
    solid.box((-0.2, 0, 6.4), (0.2, reach, 6.8), STEEL)
    for k in range(2):
        y0 = reach * (0.12 + 0.42 * k)
        y1 = y0 + reach * 0.34
        solid.face([(-0.3, y1, 5.4), (-0.3, y0, 5.4), (-0.3, y0, 7.6), (-0.3, y1, 7.6)], colour)
        solid.face(
            [(-0.32, y1 - 0.4, 6.6), (-0.32, y0 + 0.8, 6.6), (-0.32, y0 + 0.8, 7.1), (-0.32, y1 - 0.4, 7.1)],
            SIGN_WHITE,
            coarsest=0.4,
        )
        solid.face([(0.3, y0, 5.4), (0.3, y1, 5.4), (0.3, y1, 7.6), (0.3, y0, 7.6)], (120, 122, 124))
    return solid


def rail(length: float) -> Solid:
    """A stretch of guard rail along x, on posts."""
    solid = Solid()
    h = length / 2
    for x in (-h * 0.5, h * 0.5):
        solid.pole(x, 0, 0, 0.6, 0.12, (112, 114, 116), coarsest=0.3)
    solid.box((-h, -0.06, 0.45), (h, 0.06, 0.78), (158, 160, 162))
    return solid


def wall(length: float, height: float, thickness: float, colour: Colour) -> Solid:
    """A stretch of wall, hedge or barrier along x."""
    solid = Solid()
    solid.box(
        (-length / 2, -thickness / 2, 0),
        (length / 2, thickness / 2, height),
        colour,
        top=mix(colour, (255, 255, 255), 0.08),
    )
    return solid


def post() -> Solid:
    """A white marker post with a dark band."""
    solid = Solid()
    solid.pole(0, 0, 0, 1.0, 0.12, (206, 206, 200), coarsest=0.5)
    solid.pole(0, 0, 0.7, 0.86, 0.13, (60, 60, 62), coarsest=0.2)
    return solid


def power_pole() -> Solid:
    """A wooden pole with a cross-arm."""
    solid = Solid()
    solid.pole(0, 0, 0, 8.5, 0.24, (104, 88, 74))
    solid.box((-0.06, -1.1, 7.7), (0.06, 1.1, 7.85), (104, 88, 74))
    return solid
