"""Chunks of a few pixels, and datasets of them, for the tests of the shard format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gwm.shards.dataset import complete
from gwm.shards.images import encode_jpeg
from gwm.shards.index import Dataset, open_dataset
from gwm.shards.motion import integrate
from gwm.shards.plan import Job
from gwm.shards.schema import Camera, Chunk, Motion, Skipped
from gwm.shards.writer import Record, ShardWriter, read_record

SIZE = (32, 16)  # width, height


def make_camera(view: str, size: tuple[int, int] = SIZE) -> Camera:
    """A camera with irrational numbers, to see that all digits are kept."""
    width, height = size
    intrinsics = np.array([[width * np.pi / 4, 0, width / 2], [0, width * np.pi / 4, height / 2], [0, 0, 1]])
    return Camera(view, width, height, intrinsics, np.eye(4) + np.sqrt(2) * (np.arange(16).reshape(4, 4) == 3))


def make_chunk(index: int, length: int = 12, views: Iterable[str] = ("front",), split: str = "train") -> Chunk:
    """A chunk of noise with motion, camera and text; everything follows from `index`."""
    rng = np.random.default_rng(index)
    size = (SIZE[1], SIZE[0], 3)
    frames = {view: [encode_jpeg(rng.integers(0, 256, size, dtype=np.uint8)) for _ in range(length)] for view in views}
    speed, steering = rng.uniform(0, 20, length), rng.normal(0, 1, length)
    return Chunk(
        key=f"chunk-{index:04d}",
        scene=f"scene-{index // 2}",
        split=split,
        origin=f"seed {index}",
        frames=frames,
        timestamps=3.7 + np.arange(length) / 10,
        motion=Motion(integrate(speed, steering), speed, steering),
        cameras=tuple(make_camera(view) for view in frames),
        text="Straße, night",
        fit="crop",
        extra={"start": 0.5},
    )


@dataclass(frozen=True)
class Part:
    """An item of a source."""

    name: str
    images: int = 30
    stamp: str = ""


def write_shard(out: Path, chunks: Iterable[Chunk], number: int = 0, skipped: Iterable[Skipped] = ()) -> Record:
    """One shard of `chunks` in the folder `out`."""
    (out / "jobs").mkdir(parents=True, exist_ok=True)
    job = Job(number, {f"item {number}": ""})
    with ShardWriter(out, job, "toy") as writer:
        for chunk in chunks:
            writer.add(chunk)
        for skip in skipped:
            writer.skip(skip)
    record = read_record(out, job)
    assert record is not None
    return record


def write(out: Path, chunks: Iterable[Chunk], per_shard: int = 32) -> Path:
    """A dataset of `chunks` at `out`."""
    held = list(chunks)
    records = [
        write_shard(out, held[at : at + per_shard], number) for number, at in enumerate(range(0, len(held), per_shard))
    ]
    complete(out, "toy", {"frames": 12}, records, [])
    return out


def toy(out: Path, lengths: Iterable[int] = (12,) * 10, per_shard: int = 2) -> Dataset:
    """An opened dataset of one-view chunks of these lengths."""
    return open_dataset(write(out, [make_chunk(i, n) for i, n in enumerate(lengths)], per_shard=per_shard))


def same_motion(a: Motion, b: Motion) -> bool:
    pairs = [(a.pose, b.pose), (a.speed, b.speed), (a.steering, b.steering)]
    return all((x is None and y is None) or (x is not None and np.array_equal(x, y)) for x, y in pairs)  # type: ignore[arg-type]


def flip(path: Path, at: int) -> None:
    """Invert one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
