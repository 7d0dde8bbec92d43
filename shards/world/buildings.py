"""Houses: blocks of flats and offices with rows of windows, and gabled houses with gardens.

Local frame: the front stands on y = 0 and faces -y, where the road is; x runs along it, centred.
"""

from __future__ import annotations

import numpy as np

from gwm.shards.schema import Floats
from gwm.shards.world.polygons import GLOW, PLAIN, Colour, Solid

WALLS = (
    (150, 106, 90), (190, 176, 152), (150, 150, 147), (203, 194, 174), (126, 136, 146),
    (178, 150, 108), (164, 130, 112), (140, 124, 110), (172, 172, 166), (120, 108, 104),
)  # fmt: skip
ROOFS = ((134, 82, 66), (104, 84, 76), (92, 94, 98), (120, 100, 84))
GLASS = (92, 106, 120)
LAMPLIGHT = (244, 200, 128)
DARK = np.array([20.0, 20.0, 30.0])  # of a wall at night
AWNINGS = ((130, 62, 58), (66, 92, 84), (64, 80, 116), (176, 146, 84))
DETAIL = 0.45  # m; when a pixel on the house is larger than this, rows of windows become stripes
FAR = 1.6  # m; when it is larger than this, the whole wall has one colour


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 10.0) -> Colour:
    """One of `colours`, a little lighter or darker."""
    chosen = np.array(colours[int(rng.integers(len(colours)))], float) + rng.uniform(-spread, spread)
    return float(chosen[0]), float(chosen[1]), float(chosen[2])


def mix(a: Floats | Colour, b: Floats | Colour, share: float) -> Colour:
    """The colour `share` of the way from a to b."""
    c = np.asarray(a, float) * (1 - share) + np.asarray(b, float) * share
    return float(c[0]), float(c[1]), float(c[2])


def _panes(a: Floats, b: Floats, spans: Floats, heights: Floats) -> Floats:
    """Rectangles (rows * columns, 4, 3) on the wall from a to b (2,): `spans` (C, 2) along it, `heights` (R, 2)."""
    along = (b - a) / np.linalg.norm(b - a)
    left, right = a + spans[:, :1] * along, a + spans[:, 1:] * along
    quads = np.zeros((len(heights), len(spans), 4, 3))
    quads[:, :, 0, :2] = quads[:, :, 3, :2] = left
    quads[:, :, 1, :2] = quads[:, :, 2, :2] = right
    quads[:, :, 0, 2] = quads[:, :, 1, 2] = heights[:, :1]
    quads[:, :, 2, 2] = quads[:, :, 3, 2] = heights[:, 1:]
    return quads.reshape(-1, 4, 3)


def windows(
    rng: np.random.Generator, solid: Solid, wall: tuple[Floats, Floats], floors: Floats, pitch: float, share: float,
    colour: Colour, lit: float,
) -> None:  # fmt: skip
    """Windows on the wall between two points (2,), seen from its outside with the first point at the left.

    floors: (R,) heights of the window sills, m; pitch: distance between windows, m; share: of it that is glass;
    colour: of the wall; lit: share of windows with light in them. From afar each row becomes one stripe.
    """
    a, b = wall
    length = float(np.linalg.norm(b - a))
    columns = max(1, int((length - 0.8) / pitch))
    start = (length - columns * pitch) / 2 + pitch * (1 - share) / 2
    left = start + np.arange(columns) * pitch
    heights = np.stack([floors, floors + 1.5], axis=-1)
    spans = np.stack([left, left + pitch * share], axis=-1)
    panes = _panes(a, b, spans, heights)
    bright = rng.random(len(panes)) < lit
    glass = mix(GLASS, colour, 0.15)
    solid.face(panes[~bright], glass, coarsest=DETAIL)
    lamp = np.array(LAMPLIGHT) * rng.uniform(0.75, 1.0, (len(panes), 1))
    solid.face(panes[bright], lamp[bright], light=GLOW, coarsest=DETAIL)
    across = np.array([[spans[0, 0], spans[-1, 1]]])
    light = bright.reshape(len(floors), columns).mean(axis=1, keepdims=True)
    glow = light[:, 0] > 0.25
    rows = _panes(a, b, across, heights)
    solid.face(rows[~glow], mix(colour, glass, share), finest=DETAIL, coarsest=FAR)
    shine = DARK + (np.array(LAMPLIGHT) - DARK) * 0.75 * share * light
    solid.face(rows[glow], shine[glow], light=GLOW, finest=DETAIL, coarsest=FAR)
    whole = _panes(a, b, across, np.array([[heights[0, 0], heights[-1, 1]]]))
    if light.mean() > 0.25:
        solid.face(whole, DARK + (np.array(LAMPLIGHT) - DARK) * 0.4 * share * light.mean(), light=GLOW, finest=FAR)
    else:
        solid.face(whole, mix(colour, glass, share * 0.5), finest=FAR)


def _sides(width: float, depth: float) -> list[tuple[Floats, Floats]]:
    """The front and the two ends of a house: what can be seen from the road."""
    x = width / 2
    front = (np.array([-x, 0.0]), np.array([x, 0.0]))
    right = (np.array([x, 0.0]), np.array([x, depth]))
    left = (np.array([-x, depth]), np.array([-x, 0.0]))
    return [front, right, left]


def block(rng: np.random.Generator, width: float, depth: float, floors: int, lit: float) -> Solid:
    """A block of flats or offices; the ground floor may be a row of shops."""
    solid = Solid()
    height = floors * 3.0 + 1.2
    wall = pick(rng, WALLS)
    solid.box((-width / 2, 0, 0), (width / 2, depth, height), wall, top=mix(wall, (110, 110, 112), 0.6))
    shops = rng.random() < 0.5
    office = rng.random() < 0.35
    pitch, share = (3.2, 0.86) if office else (rng.uniform(2.2, 3.0), rng.uniform(0.42, 0.58))
    sills = 3.0 * np.arange(1.0 if shops else 0.0, floors) + 1.1
    for side, (a, b) in enumerate(_sides(width, depth)):
        if len(sills) and (side == 0 or rng.random() < 0.75):
            windows(rng, solid, (a, b), sills, pitch, share, wall, lit)
    for a, b in _sides(width, depth):  # a cornice below the roof and a base above the ground
        length = float(np.linalg.norm(b - a))
        bands = _panes(a, b, np.array([[0, length]]), np.array([[height - 0.5, height], [0, 0.5]]))
        solid.face(bands, mix(wall, (70, 68, 68), 0.3), coarsest=0.6)
    if shops:
        glow = lit > 0 and rng.random() < 0.6
        glass = mix(LAMPLIGHT, DARK, 0.25) if glow else (78, 88, 98)
        span = np.array([[0.6, width - 0.6]])
        solid.face(_panes(*_sides(width, depth)[0], span, np.array([[0.5, 2.5]])), glass, light=GLOW if glow else PLAIN)
        solid.face(_panes(*_sides(width, depth)[0], span, np.array([[2.5, 3.1]])), pick(rng, AWNINGS))
    return solid


def house(rng: np.random.Generator, width: float, depth: float, lit: float) -> Solid:
    """A gabled house of one or two floors; the ridge runs along the road or across it."""
    solid = Solid()
    floors = int(rng.integers(1, 3))
    wall, roof = pick(rng, WALLS), pick(rng, ROOFS)
    eaves, rise = floors * 2.8 + 0.3, rng.uniform(1.8, 3.2)
    x, out = width / 2, 0.4
    solid.box((-x, 0, 0), (x, depth, eaves), wall)
    sills = 2.8 * np.arange(0.0, floors) + 0.9
    for a, b in _sides(width, depth):
        windows(rng, solid, (a, b), sills, 2.9, 0.42, wall, lit)
    door = rng.uniform(0.5, width - 1.5)
    solid.face(_panes(*_sides(width, depth)[0], np.array([[door, door + 1.0]]), np.array([[0, 2.1]])), (92, 70, 58))
    y0, y1, m, top = -out, depth + out, depth / 2, eaves + rise
    if rng.random() < 0.6:  # ridge along the road
        o = x + out
        solid.face([(x, 0, eaves), (x, depth, eaves), (x, m, top), (x, m, top)], wall)
        solid.face([(-x, depth, eaves), (-x, 0, eaves), (-x, m, top), (-x, m, top)], wall)
        solid.face([(-o, y0, eaves - 0.2), (o, y0, eaves - 0.2), (o, m, top), (-o, m, top)], roof)
        solid.face([(o, y1, eaves - 0.2), (-o, y1, eaves - 0.2), (-o, m, top), (o, m, top)], roof)
    else:  # gable towards the road
        o = x + out
        solid.face([(-x, 0, eaves), (x, 0, eaves), (0, 0, top), (0, 0, top)], wall)
        solid.face([(x, depth, eaves), (-x, depth, eaves), (0, depth, top), (0, depth, top)], wall)
        solid.face([(o, y0, eaves - 0.2), (o, y1, eaves - 0.2), (0, y1, top), (0, y0, top)], roof)
        solid.face([(-o, y1, eaves - 0.2), (-o, y0, eaves - 0.2), (0, y0, top), (0, y1, top)], roof)
    return solid
