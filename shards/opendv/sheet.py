"""OpenDV-YouTube's list of videos: the official sheet as CSV, or the JSON that its preparation script makes of it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gwm.shards import SourceError
from gwm.shards.schema import FRAME_RATE, Skipped
from gwm.shards.storage import AnyPath

HEADER = (
    "ID", "VideoID", "Title", "YouTuber", "Link", "Duration", "Train / Val", "Mini / Full Set",
    "Nation or Area (Inferred by GPT)", "State, Province, or City (Inferred by GPT and refined by human)",
    "Discarded Length at the Begininning (second)", "Discarded Length at the Ending (second)",
)  # fmt: skip
NAME = "OpenDV-YouTube"
PLACES = (f"meta/{NAME}.csv", f"{NAME}.csv", f"meta/{NAME}.json", f"{NAME}.json")
ID = re.compile(r"[A-Za-z0-9_-]{11}")

# What a column's name begins with, in small letters and without spaces: in the JSON, and in the sheet.
NEEDED = {
    "videoid": ("videoid",), "youtuber": ("youtuber",), "split": ("split", "train/val"),
    "subset": ("subset", "mini/full"), "start_discard": ("start_discard", "discardedlengthatthebegin"),
    "end_discard": ("end_discard", "discardedlengthattheend"),
}  # fmt: skip
OPTIONAL = {"duration": ("duration",), "area": ("area", "nationorarea"), "state": ("state",)}

Row = Mapping[str, str]


@dataclass(frozen=True)
class Video:
    """One row of the list."""

    id: str  # YouTube's, 11 characters
    youtuber: str
    split: str  # "train" or "val"
    mini: bool
    length: int  # s; 0 where the list does not say
    start_discard: float  # s at the beginning that are not used
    end_discard: float  # s at the end
    area: str = ""
    state: str = ""

    @property
    def place(self) -> str:
        """Its path below videos/ (without a suffix), full_images/ and val_images/."""
        return f"{self.youtuber.replace(' ', '_')}/{self.id}"

    @property
    def frames(self) -> int:
        """How many it gives at 10 Hz by the list, as the official extraction counts them; 0 where that is unknown."""
        return max(0, int(FRAME_RATE * (self.length - self.start_discard - self.end_discard))) if self.length else 0


def find_list(folder: AnyPath) -> AnyPath | None:
    """The list in its usual places below the dataset's folder."""
    return next((folder / place for place in PLACES if (folder / place).is_file()), None)


def read_list(path: AnyPath) -> tuple[list[Video], list[Skipped]]:
    """The videos of the list in its order, and the rows that are of no use.

    Raises SourceError for a file that cannot be read, and for one without a needed column.
    """
    try:
        data = path.read_bytes()
        rows = list(_from_json(data) if path.suffix.lower() == ".json" else _from_csv(data))
    except OSError as error:
        raise SourceError(f"the list {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise SourceError(f"{path} is no list of videos ({error}); export the official sheet as CSV again") from error
    videos: dict[str, Video] = {}
    skipped = []
    for number, row in rows:
        try:
            video = _video(row)
            if video.id in videos:
                raise ValueError("video is in the list already")
            videos[video.id] = video
        except ValueError as error:
            skipped.append(Skipped(f"{path.name}, row {number}: {row.get('videoid', '')}", str(error)))
    return list(videos.values()), skipped


def _from_csv(data: bytes) -> Iterator[tuple[int, Row]]:
    """Rows by our names of the columns, numbered as in a spreadsheet."""
    lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    columns = _columns(next(lines, []))
    for number, cells in enumerate(lines, 2):
        if any(cell.strip() for cell in cells):
            yield number, {name: cells[i].strip() if i < len(cells) else "" for name, i in columns.items()}


def _from_json(data: bytes) -> Iterator[tuple[int, Row]]:
    rows: Any = json.loads(data.decode("utf-8-sig"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("not a JSON list of objects")
    names: list[str] = list(dict.fromkeys(name for row in rows for name in row))
    columns = _columns(names)
    for number, row in enumerate(rows, 1):
        values = {name: row.get(names[i]) for name, i in columns.items()}
        yield number, {name: "" if value is None else str(value).strip() for name, value in values.items()}


def _columns(header: Sequence[str]) -> dict[str, int]:
    """Where our columns are; ValueError where a needed one is missing."""
    found = {name: at for name, begins in (NEEDED | OPTIONAL).items() if (at := _column(header, begins)) is not None}
    missing = [HEADER[_column(HEADER, begins) or 0] for name, begins in NEEDED.items() if name not in found]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
    return found


def _column(header: Sequence[str], begins: tuple[str, ...]) -> int | None:
    plain = (re.sub(r"\s", "", name).casefold() for name in header)
    return next((i for i, column in enumerate(plain) if column.startswith(begins)), None)


def _video(row: Row) -> Video:
    """ValueError with the cause where the row is of no use."""
    if not ID.fullmatch(row["videoid"]):
        raise ValueError("id is not 11 letters, digits, - or _")
    if not row["youtuber"] or "/" in row["youtuber"] or row["youtuber"] in (".", ".."):
        raise ValueError("YouTuber cannot be the name of a folder")
    split, subset = row["split"].casefold(), row["subset"].casefold()
    if split not in ("train", "val"):
        raise ValueError("neither Train nor Val")
    if subset not in ("mini", "full"):
        raise ValueError("neither Mini nor Full")
    return Video(
        row["videoid"], row["youtuber"], split, subset == "mini", _seconds(row.get("duration", "")),
        _discard(row["start_discard"]), _discard(row["end_discard"]),
        _known(row.get("area", "")), _known(row.get("state", "")),
    )  # fmt: skip


def _discard(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError("discarded length is not a number of seconds")
    return value


def _seconds(duration: str) -> int:
    """Of "MM:SS" or "H:MM:SS"; 0 for anything else."""
    if not re.fullmatch(r"\d+(:\d\d){1,2}", duration):
        return 0
    seconds = 0
    for part in duration.split(":"):
        seconds = 60 * seconds + int(part)
    return seconds


def _known(text: str) -> str:
    return "" if text.casefold() in ("n/a", "nan") else text
