"""From the records of all jobs to a dataset: `index.parquet`, then `dataset.json`, which makes it one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gwm import __version__
from gwm.shards import ShardError
from gwm.shards.files import replacing, sha256_of, write_json
from gwm.shards.images import Size
from gwm.shards.index import DATASET_FILE, INDEX_FILE, INDEX_SCHEMA, count
from gwm.shards.schema import FRAME_RATE, SCHEMA_VERSION, VIEWS, Skipped
from gwm.shards.storage import AnyPath
from gwm.shards.writer import Record, named, read_rows, writing


def complete(
    out: AnyPath, source: str, settings: Mapping[str, Any], records: Sequence[Record], skipped: Sequence[Skipped]
) -> None:
    """Write the index and `dataset.json`; the bytes follow from the arguments alone. `skipped` is all that is left out.

    Raises ShardError where there is no sample, a key occurs twice, or a view has two sizes.
    """
    if not any(record.shard.samples for record in records):
        left_out = f"{len(skipped)} skipped: {named(skipped)}" if skipped else "nothing was skipped either"
        raise ShardError(f"no samples for {out}; {left_out}. Check the source and its settings")
    with writing(out):
        with suppress(FileNotFoundError):
            (out / DATASET_FILE).unlink()  # it no longer says what is there
        sizes = _write_index(out, records)
        with (out / INDEX_FILE).open("rb") as file:
            counts = count(pq.read_table(file, columns=["split", "scene", "frames"]))
        fields = {
            "schema_version": SCHEMA_VERSION,
            "gwm_version": __version__,
            "source": source,
            "settings": dict(settings),
            "frame_rate": FRAME_RATE,
            "views": [view for view in VIEWS if view in sizes],
            "sizes": {view: list(sizes[view]) for view in VIEWS if view in sizes},
            "counts": counts,
            "index": {
                "name": INDEX_FILE,
                "bytes": (out / INDEX_FILE).stat().st_size,
                "sha256": sha256_of(out / INDEX_FILE),
            },
            "shards": [vars(record.shard) for record in records],
            "skipped_by_cause": dict(sorted(Counter(skip.cause for skip in skipped).items())),
            "skipped": [vars(skip) for skip in skipped],
        }
        write_json(out / DATASET_FILE, fields)


def _write_index(out: AnyPath, records: Sequence[Record]) -> dict[str, Size]:
    """All rows in the order of the jobs, one job in memory at a time; the size of every view."""
    shard_of: dict[str, str] = {}
    sizes: dict[str, Size] = {}
    with (
        replacing(out / INDEX_FILE) as temporary,
        pq.ParquetWriter(temporary, INDEX_SCHEMA, compression="zstd", write_page_checksum=True) as index,
    ):
        for record in records:
            rows = read_rows(out, record.job)
            _check(rows, record.shard.name, shard_of, sizes)
            if len(rows):
                index.write_table(rows)
    return sizes


def _check(rows: pa.Table, shard: str, shard_of: dict[str, str], sizes: dict[str, Size]) -> None:
    """Add a shard's keys and sizes to those of all; ShardError where they disagree."""
    for key in rows.column("key").to_pylist():
        if key in shard_of:
            raise ShardError(f"sample {key} is in {shard_of[key]} and in {shard}: the source holds something twice")
        shard_of[key] = shard
    columns = (rows.column(name).to_pylist() for name in ("views", "widths", "heights"))
    for views, widths, heights in zip(*columns, strict=True):
        for view, *size in zip(views, widths, heights, strict=True):
            known = sizes.setdefault(view, (size[0], size[1]))
            if known != tuple(size):
                raise ShardError(
                    f"{shard} has {view} frames of {size[0]}x{size[1]}, shards before it {known[0]}x{known[1]}; "
                    "give a --size"
                )
