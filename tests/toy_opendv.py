"""OpenDV in small: rows of the list, videos and extracted frames whose pictures carry their number, annotations."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import numpy as np
from toy_video import HEIGHT, WIDTH, Jumps, coded, number_of, write

from gwm.shards.clips import Cutting
from gwm.shards.images import decode_jpeg, encode_jpeg
from gwm.shards.opendv.layout import OpenDVPart
from gwm.shards.opendv.sheet import HEADER
from gwm.shards.schema import Chunk, Skipped
from gwm.shards.sources.opendv import OpenDVSource

A, B, C = "aaaaaaaaaaa", "-b_bbbbbbbb", "--I-TdCe2_g"
CHANNEL = "Slow Roads Ltd. (Tours)"
FOLDER = "Slow_Roads_Ltd._(Tours)"


def row(video=A, split="Train", subset="Full", duration="0:04", start="1", end="1", youtuber=CHANNEL):
    return ["1", video, "A, title", youtuber, "x", duration, split, subset, "Peru", "N/A", start, end]


def write_list(path: Path, *rows, header=HEADER, encoding="utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def put(folder: Path, name: str, times, **how) -> Path:
    (folder / "videos" / FOLDER).mkdir(parents=True, exist_ok=True)
    return write(folder / "videos" / FOLDER / name, times, **how)


def put_frames(folder: Path, numbers, video=A, size=(WIDTH, HEIGHT), kind="full_images") -> Path:
    place = folder / kind / FOLDER / video
    place.mkdir(parents=True)
    for i in numbers:
        (place / f"{i:09d}.jpg").write_bytes(encode_jpeg(np.resize(coded(i % 256), (size[1], size[0], 3))))
    return place


def source(folder, *, split="all", subset="full", sheet=None, annotations=None, **cutting) -> OpenDVSource:
    settings = {"find_cuts": Jumps(), "size": (WIDTH, HEIGHT), **cutting}
    return OpenDVSource(folder, Cutting(**settings), split, subset, sheet, annotations)


def parts_of(videos: OpenDVSource) -> list[OpenDVPart]:
    """Its items without what is skipped from the start."""
    return [item for item in videos.items() if isinstance(item, OpenDVPart)]


def read(videos: OpenDVSource):
    """All chunks, and all that is skipped; items travel to workers."""
    items = pickle.loads(pickle.dumps(videos.items()))
    found = [x for item in items for x in ([item] if isinstance(item, Skipped) else videos.chunks(item))]
    return [c for c in found if isinstance(c, Chunk)], [s for s in found if isinstance(s, Skipped)]


def shown(chunks) -> list[int]:
    return [number_of(decode_jpeg(jpeg)) for chunk in chunks for jpeg in chunk.frames["front"]]


def said(split: str, frames: int, start=0, length=40):
    """Annotations as they are: one for each frame, of four seconds."""
    kind = {"train": "full_images", "val": "val_images"}[split]
    return [
        {
            "cmd": i % 14, "blip": f"A \"car\" {{drives}} on 大 {i}.", "folder": f"{kind}/{FOLDER}/{A}",
            "first_frame": f"{i:09d}.jpg", "last_frame": f"{i + length - 1:09d}.jpg",
        }
        for i in range(start, frames)
    ]  # fmt: skip
