"""Flipped bits in Waymo's Parquet files. Without checksums not every one is noticed; but none does anything else."""

from __future__ import annotations

import os
import random
import signal
import traceback
from pathlib import Path

import pytest
from test_waymo_source import frame, source, write_v2

from gwm.shards import SourceError
from gwm.shards.schema import Chunk, Skipped
from gwm.shards.waymo.v2 import COMPONENTS

FRAMES = 6
PATIENCE = 60  # s


def flips(data: bytes) -> list[tuple[int, int]]:
    """Bytes and their bits: half of them anywhere, half in the footer, which says where and what everything is."""
    draw, footer = random.Random(0), len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    places = [*draw.choices(range(len(data)), k=75), *draw.choices(range(footer, len(data)), k=75)]
    return [(at, draw.randrange(8)) for at in [*places, *range(len(data) - 8, len(data))]]


def read(folder: Path) -> bool:
    """Whether something is said to be lost. What is found is of the segment, and no longer than it."""
    try:
        (item,) = source(folder).items()
        found = list(source(folder).chunks(item))
    except SourceError:
        return True
    chunks = [part for part in found if isinstance(part, Chunk)]
    losses = [part for part in found if isinstance(part, Skipped)]
    assert len(chunks) + len(losses) == len(found)
    assert sum(chunk.length for chunk in chunks) <= FRAMES
    return bool(losses)


def read_damaged(folder: Path, component: str, out: int) -> int:
    """How many of the flips are noticed. `out` is told of each before it is tried."""
    (path,) = folder.glob(f"*/{component}/*.parquet")
    data, noticed = path.read_bytes(), 0
    for at, bit in flips(data):
        os.write(out, f"byte {at} of {len(data)}, bit {bit}\n".encode())
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        noticed += read(folder)
    return noticed


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_flipped_bit_is_refused_or_read_over(tmp_path, component):
    """In a process of its own: the reader is native code, which may crash, or never come to an end."""
    write_v2(tmp_path / "in", [frame(i) for i in range(FRAMES)])
    assert not read(tmp_path / "in")
    log = tmp_path / "log"
    child = os.fork()
    if child == 0:
        out = os.open(log, os.O_CREAT | os.O_WRONLY)
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            os.write(out, f"noticed: {read_damaged(tmp_path / 'in', component, out)}\n".encode())
            os._exit(0)
        except BaseException:
            os.write(out, traceback.format_exc().encode())
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = log.read_text()
    assert status == 0, said[-3000:]
    assert int(said.split()[-1]) > 20, said[-200:]
