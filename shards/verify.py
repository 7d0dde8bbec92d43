"""What is in a dataset, and whether every byte of it is what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from gwm.shards.images import decode_jpeg
from gwm.shards.index import INDEX_FILE, Dataset, Member, Row, count, open_dataset, read_index
from gwm.shards.latents.index import is_latents
from gwm.shards.latents.verify import latent_info, verify_latents
from gwm.shards.sample import decode_description, faults, json_name
from gwm.shards.schema import FRAME_RATE, SCHEMA_VERSION
from gwm.shards.storage import AnyPath
from gwm.shards.tar_check import VerifyReport, check_dataset


def verify(path: AnyPath) -> VerifyReport:
    """Check every byte of the dataset in folder `path`; all that is wrong is reported, not only the first.

    The SHA-256 of the index and of each shard; every member as `tarfile` sees it against the index (name, offset, size,
    CRC-32); every JPEG decoded in full and of the right size; every JSON against the index and `sample.faults`.
    Latents are checked likewise (see `verify_latents`). Raises ShardError where nothing can be checked: no dataset, or
    a dataset.json or index that cannot be read.
    """
    if is_latents(path):
        return verify_latents(path)
    dataset = read_index(path)
    return check_dataset(dataset, _check_index(dataset), _check_data)


def info(path: AnyPath) -> dict[str, Any]:
    """A summary of the dataset or latents in folder `path`, of JSON values. Raises ShardError where there are none."""
    if is_latents(path):
        return latent_info(path)
    dataset = open_dataset(path)
    counts = dataset.counts
    present = {
        name: float(np.mean(dataset.table.column(f"has_{name}").to_pylist()))
        for name in ("pose", "speed", "steering", "cameras")
    }
    said = zip(*(dataset.table.column(name).to_pylist() for name in ("text", "captions")), strict=True)
    present["text"] = float(np.mean([bool(text or captions) for text, captions in said]))
    return {
        "path": str(path),
        "schema_version": SCHEMA_VERSION,
        "gwm_version": dataset.gwm_version,
        "source": dataset.source,
        "settings": dict(dataset.settings),
        "samples": counts["samples"],
        "frames": counts["frames"],
        "hours": counts["seconds"] / 3600,
        "scenes": counts["scenes"],
        "splits": counts["splits"],
        "frame_rate": FRAME_RATE,
        "views": list(dataset.views),
        "sizes": {view: f"{width}x{height}" for view, (width, height) in dataset.sizes.items()},
        "shards": len(dataset.shards),
        "bytes": sum(shard.bytes for shard in dataset.shards),
        "present": present,  # share of the samples that have it
        "skipped": len(dataset.skipped),
        "skipped_by_cause": dict(sorted(Counter(skip["cause"] for skip in dataset.skipped).items())),
    }


def _check_index(dataset: Dataset) -> list[str]:
    """The index, dataset.json and the folder against each other."""
    found = []
    if dataset.counts != count(dataset.table):
        found.append("dataset.json: counts differ from the index")
    listed = Counter({shard.name: shard.samples for shard in dataset.shards})
    if listed != Counter(dataset.table.column("shard").to_pylist()):
        found.append("dataset.json: samples per shard differ from the index")
    keys = Counter(dataset.table.column("key").to_pylist())
    found += [f"{INDEX_FILE}: key {key} occurs {times} times" for key, times in keys.items() if times > 1]
    strangers = sorted(file.name for file in dataset.path.glob("*.tar") if file.name not in listed)
    return found + [f"{name}: not in dataset.json" for name in strangers]


def _check_data(row: Row, member: Member, data: bytes) -> Iterator[str]:
    if member.name == json_name(row.key):
        yield from _check_description(row, data)
        return
    height, width, _ = decode_jpeg(data).shape
    wanted = row.sizes[row.views.index(member.name.split(".")[1])]
    if (width, height) != wanted:
        yield f"JPEG of {width}x{height}, not {wanted[0]}x{wanted[1]}"


def _check_description(row: Row, data: bytes) -> Iterator[str]:
    """The JSON of a sample against the index."""
    description = decode_description(data)
    yield from faults(row.key, description)
    motion, cameras = description.motion, description.cameras
    for name, stored, indexed in (
        ("frames", len(description.timestamps), row.frames),
        ("views", description.views, row.views),
        ("scene", description.scene, row.scene),
        ("split", description.split, row.split),
        ("origin", description.origin, row.origin),
        ("text", description.text, row.text),
        ("captions", len(description.captions), row.captions),
        ("fit", description.fit, row.fit),
        ("pose", motion.pose is not None, row.has_pose),
        ("speed", motion.speed is not None, row.has_speed),
        ("steering", motion.steering is not None, row.has_steering),
        ("cameras", len(cameras) == len(description.views), row.has_cameras),
        (
            "camera sizes",
            {(camera.view, camera.width, camera.height) for camera in cameras}
            - set(zip(row.views, row.widths, row.heights, strict=True)),
            set(),
        ),
    ):
        if stored != indexed:
            yield f"{name}: {stored!r}, but the index has {indexed!r}"
