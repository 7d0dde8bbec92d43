"""Light and weather of a scene: sky, sun, haze and the colours they give to things."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import Floats


@dataclass(frozen=True)
class Look:
    """One kind of light. Colours are RGB, 0 .. 255 or factors of it."""

    name: str  # as it stands in captions
    zenith: Floats
    horizon: Floats  # also the colour of the haze
    ambient: Floats  # factor on every surface
    sun: Floats  # factor on surfaces that face the sun; zeros = no shadows
    sun_direction: Floats  # (3,) unit vector towards the sun
    haze: float  # m, distance at which 63% of a colour is haze
    lamps: float  # share of lit windows; above 0 the lamps and headlights are on
    clouds: int
    weather: str  # one of WEATHERS
    time: str  # one of TIMES

    @property
    def wet(self) -> bool:
        """Whether it rains: drops in the air, and a road that mirrors the sky and the lamps."""
        return self.weather == "rain"

    @property
    def far(self) -> float:
        """How much of the hills on the horizon is seen, 0 .. 1: all of them unless rain or fog hides them."""
        return min(1.0, self.haze / 200) ** 3

    @property
    def dark(self) -> bool:
        """Whether it is night: headlights and street lamps light the ground."""
        return float(self.ambient.max()) < 0.5

    def lit(self, albedo: Floats, normals: Floats) -> Floats:
        """Colours (P, 3) of surfaces with `albedo` (P, 3) and unit `normals` (P, 3)."""
        facing = np.maximum(normals @ self.sun_direction, 0.0)[:, None]
        # Undersides and walls see less sky than roofs do.
        open_sky = 0.82 + 0.18 * normals[:, 2:3]
        out: Floats = albedo * (self.ambient * open_sky + self.sun * facing)
        return out

    def hazy(self, colours: Floats, distance: Floats) -> Floats:
        """`colours` (P, 3) seen from `distance` (P,) metres."""
        share = np.exp(-distance / self.haze)[:, None]
        out: Floats = colours * share + self.horizon * (1 - share)
        return out


WEATHERS = ("clear", "overcast", "rain", "fog")
TIMES = ("day", "dusk", "night")
SAID = {"clear": "clear", "overcast": "overcast", "rain": "rainy", "fog": "foggy"}  # in captions
PLAIN = (
    ("sunny", "clear", "day"),
    ("overcast", "overcast", "day"),
    ("dusk", "clear", "dusk"),
    ("night", "clear", "night"),
)
Row = tuple[list[float], list[float], list[float], list[float], float, float]
ROWS: dict[tuple[str, str], Row] = {
    # zenith, horizon, ambient, sun, haze, lit windows
    ("clear", "day"): ([112, 150, 194], [204, 214, 220], [0.66, 0.68, 0.72], [0.44, 0.42, 0.38], 420, 0.0),
    ("overcast", "day"): ([158, 164, 171], [200, 203, 205], [0.86, 0.88, 0.9], [0.0, 0.0, 0.0], 280, 0.0),
    ("rain", "day"): ([126, 132, 140], [166, 170, 174], [0.68, 0.7, 0.73], [0.0, 0.0, 0.0], 140, 0.1),
    ("fog", "day"): ([196, 199, 202], [204, 207, 209], [0.84, 0.86, 0.88], [0.0, 0.0, 0.0], 55, 0.1),
    ("clear", "dusk"): ([104, 114, 146], [218, 182, 152], [0.56, 0.53, 0.56], [0.42, 0.31, 0.2], 340, 0.3),
    ("overcast", "dusk"): ([92, 96, 112], [150, 146, 150], [0.55, 0.54, 0.58], [0.0, 0.0, 0.0], 250, 0.35),
    ("rain", "dusk"): ([72, 76, 90], [114, 114, 122], [0.5, 0.5, 0.54], [0.0, 0.0, 0.0], 130, 0.4),
    ("fog", "dusk"): ([130, 126, 130], [146, 140, 140], [0.54, 0.53, 0.55], [0.0, 0.0, 0.0], 50, 0.4),
    ("clear", "night"): ([13, 16, 30], [38, 41, 54], [0.21, 0.21, 0.24], [0.0, 0.0, 0.0], 260, 0.4),
    ("overcast", "night"): ([20, 21, 28], [40, 41, 48], [0.19, 0.19, 0.21], [0.0, 0.0, 0.0], 220, 0.4),
    ("rain", "night"): ([14, 15, 22], [34, 36, 44], [0.19, 0.19, 0.21], [0.0, 0.0, 0.0], 120, 0.4),
    ("fog", "night"): ([36, 38, 44], [46, 48, 54], [0.2, 0.2, 0.22], [0.0, 0.0, 0.0], 45, 0.4),
}


def make_look(rng: np.random.Generator) -> Look:
    """Draw one of sunny, overcast, dusk and night, each with small variations: the plain world's."""
    return _look(rng, *PLAIN[rng.choice(4, p=[0.4, 0.2, 0.2, 0.2])])


def look_in(rng: np.random.Generator, weather: str, time: str) -> Look:
    """The look of a weather (one of WEATHERS) at a time of day (one of TIMES), with small variations."""
    return _look(rng, f"{SAID[weather]} {time}", weather, time)


def _look(rng: np.random.Generator, name: str, weather: str, time: str) -> Look:
    azimuth = rng.uniform(-np.pi, np.pi)
    height = np.radians(rng.uniform(12, 18) if time == "dusk" else rng.uniform(32, 60))
    flat = np.cos(height)
    direction = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(height)])
    shift = rng.uniform(-8, 8, 3)
    zenith, horizon, ambient, sun, haze, lamps = ROWS[weather, time]
    small = 0.2 if time == "night" else 1.0
    return Look(
        name,
        np.clip(np.array(zenith) + shift * small, 0, 255),
        np.clip(np.array(horizon) + shift * small, 0, 255),
        np.array(ambient),
        np.array(sun),
        direction,
        haze * rng.uniform(0.8, 1.2),
        lamps,
        int(rng.integers(3, 9)) if weather == "clear" and time != "night" else 0,
        weather,
        time,
    )
