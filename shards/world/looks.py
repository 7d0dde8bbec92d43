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


NAMES = ("sunny", "overcast", "dusk", "night")


def make_look(rng: np.random.Generator) -> Look:
    """Draw one of sunny, overcast, dusk and night, each with small variations."""
    name = NAMES[rng.choice(4, p=[0.4, 0.2, 0.2, 0.2])]
    azimuth = rng.uniform(-np.pi, np.pi)
    height = np.radians(rng.uniform(12, 18) if name == "dusk" else rng.uniform(32, 60))
    flat = np.cos(height)
    direction = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(height)])
    shift = rng.uniform(-8, 8, 3)
    rows: dict[str, tuple[list[float], list[float], list[float], list[float], float, float]] = {
        # zenith, horizon, ambient, sun, haze, lit windows
        "sunny": ([112, 150, 194], [204, 214, 220], [0.66, 0.68, 0.72], [0.44, 0.42, 0.38], 420, 0.0),
        "overcast": ([158, 164, 171], [200, 203, 205], [0.86, 0.88, 0.9], [0.0, 0.0, 0.0], 280, 0.0),
        "dusk": ([104, 114, 146], [218, 182, 152], [0.56, 0.53, 0.56], [0.42, 0.31, 0.2], 340, 0.3),
        "night": ([13, 16, 30], [38, 41, 54], [0.21, 0.21, 0.24], [0.0, 0.0, 0.0], 260, 0.4),
    }
    zenith, horizon, ambient, sun, haze, lamps = rows[name]
    small = 0.2 if name == "night" else 1.0
    return Look(
        name,
        np.clip(np.array(zenith) + shift * small, 0, 255),
        np.clip(np.array(horizon) + shift * small, 0, 255),
        np.array(ambient),
        np.array(sun),
        direction,
        haze * rng.uniform(0.8, 1.2),
        lamps,
        int(rng.integers(3, 9)) if name in ("sunny", "dusk") else 0,
    )
