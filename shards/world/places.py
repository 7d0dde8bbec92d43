"""The four kinds of place, as numbers: how roads bend, how wide they are, how fast and how densely they are driven."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwm.shards.schema import Floats
from gwm.shards.world.road import Bends


@dataclass(frozen=True)
class Place:
    """A kind of place. Metres, m/s; pairs are (smallest, largest)."""

    name: str  # as it stands in captions
    bends: Bends
    lanes: tuple[int, int]  # per direction
    lane_width: float
    shoulder: float  # paved, outside the outermost lane
    sidewalk: float  # width; 0 = none
    median: tuple[float, float]  # between the two directions
    limit: tuple[float, float]  # speed at which people drive here
    spacing: tuple[float, float]  # mean distance between cars of a lane in heavy and in light traffic


TOWN = Bends((13, 90), (0.5, 1.6), (8, 45), ease=9, clearance=45)
SUBURB = Bends((16, 110), (0.4, 1.5), (6, 45), ease=10, clearance=40)
COUNTRY = Bends((30, 220), (0.3, 1.4), (5, 60), ease=18, clearance=45)
HIGHWAY = Bends((150, 600), (0.2, 0.9), (10, 90), ease=50, clearance=60)

PLACES = (
    Place("town road", TOWN, (1, 2), 3.2, 0.4, 3.0, (0, 0), limit=(8, 14), spacing=(24, 90)),
    Place("suburb road", SUBURB, (1, 1), 3.1, 0.3, 2.0, (0, 0), limit=(8, 14), spacing=(35, 120)),
    Place("country road", COUNTRY, (1, 1), 3.4, 0.7, 0.0, (0, 0), limit=(12, 20), spacing=(60, 200)),
    Place("highway", HIGHWAY, (2, 3), 3.6, 2.2, 0.0, (2, 5), limit=(16, 21), spacing=(38, 110)),
)


@dataclass(frozen=True)
class Layout:
    """The cross-section of one road: lanes and edges as offsets d from the centreline, left positive, metres."""

    place: Place
    lanes: int  # per direction
    median: float
    parking: float  # width of the parking strip on each side; 0 = none

    @property
    def edge(self) -> float:
        """Offset of the outer edge of the outermost lane."""
        return self.median / 2 + self.lanes * self.place.lane_width

    @property
    def paved(self) -> float:
        """Half the width of the asphalt."""
        return self.edge + self.place.shoulder + self.parking

    @property
    def border(self) -> float:
        """Where road and sidewalk end and gardens, houses or fields begin."""
        return self.paved + self.place.sidewalk

    def centre(self, lane: Floats | int, direction: Floats | int) -> Floats:
        """Offset of a lane's centre; lane 0 is the innermost, direction 1 drives along s (on the right), -1 against."""
        offset: Floats = -np.asarray(direction) * (self.median / 2 + (np.asarray(lane) + 0.5) * self.place.lane_width)
        return offset


def make_layout(rng: np.random.Generator, place: Place) -> Layout:
    """Draw one cross-section for a kind of place."""
    lanes = int(rng.integers(place.lanes[0], place.lanes[1] + 1))
    median = float(rng.uniform(*place.median))
    parking = 2.2 if place.sidewalk and rng.random() < 0.5 else 0.0
    return Layout(place, lanes, median, parking)
