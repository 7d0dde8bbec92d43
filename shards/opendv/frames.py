"""OpenDV's extracted frames, a folder of JPEGs numbered at 10 Hz, as runs of frames of one scene."""

from __future__ import annotations

from collections.abc import Iterator

from gwm.shards import ShardError, SourceError
from gwm.shards.clips import Cutting, Run, Shot, cut_up
from gwm.shards.images import decode_jpeg, fit_jpeg
from gwm.shards.schema import Damaged, Images, Skipped
from gwm.shards.storage import AnyPath


def frame_file(number: int) -> str:
    """The name of a frame's file."""
    return f"{number:09d}.jpg"


def frame_runs(
    folder: AnyPath, origin: str, span: tuple[int, int], cutting: Cutting, losses: list[Skipped]
) -> Iterator[Run]:
    """The runs of the frames of the numbers `span` in order; ticks are numbers.

    JPEGs of the right size are passed on untouched. What is left out is appended to `losses`. Raises SourceError
    where the folder cannot be read.
    """
    missing: list[int] = []
    damaged: list[int] = []
    yield from cut_up(_shots(folder, span, cutting, missing, damaged), origin, cutting, losses)
    for kind, numbers, cause in ((Skipped, missing, "missing"), (Damaged, damaged, "damaged")):  # stamps count files
        if numbers:
            item = f"{origin}: frames: {len(numbers)}, the first is {frame_file(numbers[0])}"
            losses.append(kind(item, f"extracted frame is {cause}", len(numbers)))


def _shots(
    folder: AnyPath, span: tuple[int, int], cutting: Cutting, missing: list[int], damaged: list[int]
) -> Iterator[tuple[Shot, Images]]:
    for number in range(*span):
        file = folder / frame_file(number)
        try:
            with file.open("rb") as stream:
                jpeg = fit_jpeg(stream.read(), cutting.size, cutting.fit)
        except FileNotFoundError:
            missing.append(number)
        except ShardError:
            damaged.append(number)
        except OSError as error:
            raise SourceError(f"{file.name} cannot be read: {error.strerror or error}") from error
        else:
            yield Shot(number, jpeg), decode_jpeg(jpeg)
