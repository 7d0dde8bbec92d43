"""What may be asked of a scene beyond the plain world: weather, time of day, junctions, a road behind."""

from __future__ import annotations

from dataclasses import dataclass

from gwm.shards import SourceError
from gwm.shards.world.looks import TIMES, WEATHERS

MIXED = "mixed"  # another one in every scene


@dataclass(frozen=True)
class Variant:
    """The scenes of one kind. The plain world is the default: models know its pictures, which stay as they are.

    Raises SourceError for a weather or time that does not exist.
    """

    weather: str | None = None  # one of WEATHERS or MIXED; None: the plain world's sun or clouds
    time: str | None = None  # of day, one of TIMES or MIXED; None: the plain world's
    junctions: bool = False  # roads that cross or join, with cars that wait or pass
    surround: bool = False  # the road has a long past, for cameras that look back

    def __post_init__(self) -> None:
        if self.weather not in (None, MIXED, *WEATHERS):
            raise SourceError(f"weather {self.weather!r}: must be one of {', '.join((*WEATHERS, MIXED))}")
        if self.time not in (None, MIXED, *TIMES):
            raise SourceError(f"time of day {self.time!r}: must be one of {', '.join((*TIMES, MIXED))}")


PLAIN = Variant()
