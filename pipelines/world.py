"""`gwm world`: the rendered world as a dataset in an official format, in a folder that is whole or not there."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gwm.pipelines.progress import Ticker
from gwm.shards import ShardError, SourceError
from gwm.shards.exports import nuscenes, opendv, waymo
from gwm.shards.exports.takes import Advance
from gwm.shards.images import Size
from gwm.shards.lock import LOCK_FILE, locked
from gwm.shards.sources.world import WorldSource


@dataclass(frozen=True)
class Format:
    """How the world becomes one of the datasets."""

    rig: str
    size: Size  # of the front camera: the real one's, but for OpenDV
    count_pictures: Callable[[WorldSource], int]
    export: Callable[[WorldSource, Path, Advance], None]


FORMATS = {
    "nuscenes": Format("nuscenes", (1600, 900), nuscenes.count_pictures, nuscenes.export_nuscenes),
    "waymo": Format("waymo", (1920, 1280), waymo.count_pictures, waymo.export_v1),
    "waymo-v2": Format("waymo", (1920, 1280), waymo.count_pictures, waymo.export_v2),
    "opendv": Format("front", (512, 288), opendv.count_pictures, opendv.export_opendv),
}


@dataclass
class Written:
    """What was written."""

    out: str
    format: str
    scenes: int
    frames: int  # of a scene of the world, at 10 Hz
    pictures: int
    bytes: int
    seconds: float


def find_format(name: str) -> Format:
    """SourceError for one that there is not."""
    if name not in FORMATS:
        raise SourceError(f"--as {name}: must be one of shards, {', '.join(FORMATS)}")
    return FORMATS[name]


def write_world(name: str, world: WorldSource, out: Path) -> Written:
    """Write `world`, made for the format `name`, into the folder `out`, which must be empty or not there.

    Raises SourceError for a world that the format cannot hold, ShardError where `out` cannot be written to.
    """
    began, chosen = time.monotonic(), find_format(name)
    pictures = chosen.count_pictures(world)
    with _whole_folder(out) as folder, Ticker(f"{name}, pictures", pictures) as ticker:
        chosen.export(world, folder, ticker.advance)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Written(str(out), name, world.scenes, world.frames, pictures, size, time.monotonic() - began)


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` to write into. In the end it becomes `out`; after an exception it is removed.

    What a killed run left of it is removed by the next.
    """
    out = out.resolve()
    if out.exists() and not (out.is_dir() and next(out.iterdir(), None) is None):
        raise ShardError(f"{out} is there already, and is no empty folder; choose another, or delete it first")
    folder = out.with_name(f".{out.name}.unfinished")
    try:
        (folder / LOCK_FILE).parent.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            try:
                _clear(folder)
                yield folder
                shutil.rmtree((folder / LOCK_FILE).parent)
                folder.replace(out)
            except BaseException as error:
                with suppress(OSError):  # what went wrong first is what the user should read
                    shutil.rmtree(folder)
                if isinstance(error, ShardError) and isinstance(error.__cause__, OSError):
                    raise error.__cause__ from None  # a writer's advice is for a folder that stays
                raise
    except OSError as error:
        reason = error.strerror or error
        raise ShardError(f"cannot write {out}: {reason}; choose another folder or free some space") from error


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != Path(LOCK_FILE).parts[0]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
