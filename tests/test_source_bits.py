"""Flipped bits in every kind of source. Not every one can be noticed; but none does anything else than lose frames."""

from __future__ import annotations

import os
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy_nuscenes
import toy_opendv
import toy_video
from test_waymo_source import frame, write_v2
from test_waymo_source import source as waymo_source

from gwm.shards import SourceError
from gwm.shards.clips import Cutting
from gwm.shards.plan import Source
from gwm.shards.schema import Chunk, Skipped
from gwm.shards.sources.nuscenes import NuScenesSource
from gwm.shards.sources.video import VideoSource
from gwm.shards.waymo.v2 import COMPONENTS

PATIENCE = 120  # s


def flips(data: bytes, parts: list[tuple[int, int]], each: int) -> Iterator[tuple[int, int]]:
    """Random bits, `each` in every part: which byte, and which of its bits."""
    draw = random.Random(0)
    for begin, end in parts:
        for _ in range(each):
            yield draw.randrange(begin, end), draw.randrange(8)


def read(source: Source, frames: int) -> bool:
    """Whether something is said to be lost. No more is found than there was."""
    found = []
    try:
        for item in source.items():
            found += [item] if isinstance(item, Skipped) else list(source.chunks(item))
    except SourceError:
        return True
    chunks = [part for part in found if isinstance(part, Chunk)]
    losses = [part for part in found if isinstance(part, Skipped)]
    assert len(chunks) + len(losses) == len(found)
    assert sum(chunk.length for chunk in chunks) <= frames
    return bool(losses)


def check(source: Source, path: Path, frames: int, places: Iterator[tuple[int, int]], log: Path) -> int:
    """How many of the flips are noticed. Each is logged before it is tried.

    In a process of its own: the readers are native code, which may crash, or never come to an end.
    """
    assert not read(source, frames)
    child = os.fork()
    if child == 0:
        out = os.open(log, os.O_CREAT | os.O_WRONLY)
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            data, noticed = path.read_bytes(), 0
            for at, bit in places:
                os.write(out, f"byte {at} of {len(data)}, bit {bit}\n".encode())
                path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
                noticed += read(source, frames)
            os.write(out, f"noticed: {noticed}\n".encode())
            os._exit(0)
        except BaseException:
            os.write(out, traceback.format_exc().encode())
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = log.read_text()
    assert status == 0, said[-3000:]
    return int(said.split()[-1])


@pytest.mark.parametrize("component", COMPONENTS)
def test_waymos_parquet(tmp_path, component):
    """Half of the flips are in the footer, which says where and what everything is."""
    write_v2(tmp_path / "in", [frame(i) for i in range(6)])
    (path,) = tmp_path.glob(f"in/*/{component}/*.parquet")
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    places = flips(data, [(0, len(data)), (footer, len(data)), (len(data) - 8, len(data))], 60)
    assert check(waymo_source(tmp_path / "in"), path, 6, places, tmp_path / "log") > 40


def nuscenes(folder: Path) -> Source:
    return NuScenesSource(toy_nuscenes.write(folder), size=None)


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        ("v1.0-*/sample_data.json", 5), ("v1.0-*/calibrated_sensor.json", 5), ("v1.0-*/scene.json", 5),
        ("can_bus/*_pose.json", 5), ("samples/CAM_FRONT/*.jpg", 5),
    ],
)  # fmt: skip
def test_nuscenes_tables_messages_and_images(tmp_path, pattern, least):
    source = nuscenes(tmp_path / "in")
    path = min((tmp_path / "in").glob(pattern))
    data = path.read_bytes()
    assert check(source, path, 41, flips(data, [(0, len(data))], 40), tmp_path / "log") >= least


def video(folder: Path) -> tuple[Source, Path]:
    folder.mkdir()
    path = toy_video.write(folder / "a.mp4", toy_video.regular(10, 40))
    return VideoSource(folder, Cutting(None, (toy_video.WIDTH, toy_video.HEIGHT))), path


def opendv(folder: Path) -> tuple[Source, Path]:
    toy_opendv.write_list(folder / "meta/OpenDV-YouTube.csv", toy_opendv.row())
    toy_opendv.put(folder, f"{toy_opendv.A}.mp4", toy_video.regular(10, 40))
    return toy_opendv.source(folder), folder / "meta/OpenDV-YouTube.csv"


@pytest.mark.parametrize("make", [video, opendv])
def test_videos_and_their_list(tmp_path, make: Callable[[Path], tuple[Source, Path]]):
    source, path = make(tmp_path / "in")
    data = path.read_bytes()
    head = data.find(b"moov") if make is video else 0
    places = flips(data, [(0, len(data)), (head, min(len(data), head + 900))], 60)
    assert check(source, path, 41 + 20, places, tmp_path / "log") > 20


def test_a_title_that_is_not_utf_8_is_no_matter(tmp_path):
    source, path = video(tmp_path / "in")
    data = bytearray(path.read_bytes())
    data[19] ^= 0x80  # in the names of the formats it is compatible with
    path.write_bytes(data)
    assert not read(source, 40)
