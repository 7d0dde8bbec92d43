"""Writing latents: every shard with its record, then the index and last `dataset.json`; as the image shards are."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gwm import __version__
from gwm.shards import ShardError
from gwm.shards.files import replacing, sha256_of, write_json
from gwm.shards.index import DATASET_FILE, INDEX_FILE, Dataset, Row
from gwm.shards.latents.index import (
    EMPTY_TEXT_FILE,
    LATENT_SCHEMA,
    VERSION,
    Embedding,
    Halves,
    LatentRow,
    latent_name,
    pooled_name,
    tokens_name,
)
from gwm.shards.plan import PLAN_FILE, Job
from gwm.shards.sample import json_name
from gwm.shards.storage import AnyPath
from gwm.shards.tar import OpenShard
from gwm.shards.writer import META, Record, read_record, read_rows, record_file, writing


@dataclass(frozen=True)
class LatentSample:
    """One sample as the shard stores it."""

    key: str
    description: bytes  # the JSON of the image sample
    latents: Mapping[str, Halves]  # view -> (T, c, h, w)
    embedding: Embedding | None  # tokens (n, s, e) and pooled (n, p) of its texts; None where it has none


def latent_jobs(images: Dataset) -> list[Job]:
    """One job for each image shard; its stamp is that shard's SHA-256, so a shard that changed is encoded anew."""
    jobs = [Job(number, {shard.name: shard.sha256}) for number, shard in enumerate(images.shards)]
    assert [job.shard(images.source) for job in jobs] == [shard.name for shard in images.shards], images.path
    return jobs


def settle(out: AnyPath, settings: Mapping[str, Any], deciding: Sequence[str]) -> Mapping[str, Any]:
    """The settings of the latents in the folder `out`: those it has, or `settings`, which are written to it.

    Raises ShardError where it has others in one of the fields `deciding`, which decide the bytes of the shards.
    """
    file = out / PLAN_FILE
    if not file.is_file():
        write_json(file, settings)
        return settings
    try:
        held = dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ShardError(f"{file} cannot be read ({error}); delete {out} to make the latents anew") from error
    changed = [
        f"{name} {held.get(name)}, not {settings[name]}" for name in deciding if held.get(name) != settings[name]
    ]
    if changed:
        raise ShardError(
            f"{out} holds latents of another checkpoint ({held.get('checkpoint')}; {'; '.join(changed)}); "
            "give that one to go on, or delete the folder to make them anew"
        )
    return held


def write_latent_shard(out: AnyPath, source: str, job: Job, samples: Iterable[LatentSample]) -> Record:
    """Write one shard and its record; on an exception neither is there."""
    with writing(out):
        shard = OpenShard(out / job.shard(source))
    try:
        rows = [_append(out, shard, sample) for sample in samples]
    except BaseException as error:
        with suppress(OSError):  # closing writes what was buffered, and the disk may be full
            shard.abandon(error)
        raise
    with writing(out):
        fields = {"stamps": dict(job.stamps), "shard": vars(shard.close()), "skipped": []}
        schema = LATENT_SCHEMA.with_metadata({META: json.dumps(fields).encode()})
        with replacing(record_file(out, job)) as temporary:
            table = pa.Table.from_pylist([vars(row) for row in rows], schema=schema)
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
    record = read_record(out, job)
    if record is None:
        raise ShardError(f"what was written into {out} is not there; does something else write into it?")
    return record


def write_empty_text(out: AnyPath, embedding: Embedding) -> dict[str, Any]:
    """Store the embedding of "", tokens (s, e) and pooled (p,); what `dataset.json` says of it."""
    tokens, pooled = embedding
    file = out / EMPTY_TEXT_FILE
    with writing(out), replacing(file) as temporary:
        np.savez(temporary, tokens=tokens, pooled=pooled)
    shapes = {"tokens": list(tokens.shape), "pooled": list(pooled.shape)}
    return {"name": file.name, "sha256": sha256_of(file), **shapes}


def complete_latents(
    out: AnyPath,
    images: Dataset,
    settings: Mapping[str, Any],
    records: Sequence[Record],
    empty_text: Mapping[str, Any] | None,
) -> None:
    """Write the index and `dataset.json`; the bytes follow from the arguments alone."""
    samples = frames = 0
    with writing(out):
        with suppress(FileNotFoundError):
            (out / DATASET_FILE).unlink()  # it no longer says what is there
        with (
            replacing(out / INDEX_FILE) as temporary,
            pq.ParquetWriter(temporary, LATENT_SCHEMA, compression="zstd", write_page_checksum=True) as index,
        ):
            for record in records:
                rows = read_rows(out, record.job)
                samples, frames = samples + len(rows), frames + sum(rows.column("frames").to_pylist())
                if len(rows):
                    index.write_table(rows)
        file = out / INDEX_FILE
        fields = {
            "schema_version": VERSION,
            "gwm_version": __version__,
            "source": images.source,
            "images": images.index["sha256"],
            "settings": dict(settings),
            "sizes": {view: list(images.sizes[view]) for view in images.views},
            "counts": {"samples": samples, "frames": frames},
            "empty_text": empty_text,
            "index": {"name": INDEX_FILE, "bytes": file.stat().st_size, "sha256": sha256_of(file)},
            "shards": [vars(record.shard) for record in records],
        }
        write_json(out / DATASET_FILE, fields)


def read_json_member(images: Dataset, row: Row) -> bytes:
    """The JSON of an image sample as it lies in its shard. Raises ShardError where it is not as it was written."""
    file = images.path / row.shard
    try:
        with file.open("rb") as f:
            f.seek(row.json_offset)
            data: bytes = f.read(row.json_size)
    except OSError as error:
        raise ShardError(f"{file} cannot be read: {error.strerror or error}") from error
    if zlib.crc32(data) != row.json_crc32:
        raise ShardError(f"{row.shard}: {json_name(row.key)}: damaged; gwm shards verify lists all damage")
    return data


def _append(out: AnyPath, shard: OpenShard, sample: LatentSample) -> LatentRow:
    """Write a sample's members, sorted by name as TarWriter does; its row."""
    views, start = tuple(sample.latents), shard.bytes
    members = {json_name(sample.key): sample.description}
    members |= {latent_name(sample.key, view): _npy(sample.key, z) for view, z in sample.latents.items()}
    if sample.embedding is not None:
        tokens, pooled = sample.embedding
        members |= {
            tokens_name(sample.key): _npy(sample.key, tokens),
            pooled_name(sample.key): _npy(sample.key, pooled),
        }
    members = dict(sorted(members.items()))
    with writing(out):
        offsets = tuple(shard.append(name, data) for name, data in members.items())
    shard.samples += 1
    return LatentRow(
        key=sample.key,
        shard=shard.path.name,
        offset=start,
        size=shard.bytes - start,
        frames=len(sample.latents[views[0]]),
        views=views,
        widths=tuple(sample.latents[view].shape[3] for view in views),
        heights=tuple(sample.latents[view].shape[2] for view in views),
        texts=0 if sample.embedding is None else len(sample.embedding[0]),
        member_offsets=offsets,
        member_sizes=tuple(len(data) for data in members.values()),
        member_crc32=tuple(zlib.crc32(data) for data in members.values()),
    )


def _npy(key: str, values: Halves) -> bytes:
    """A float16 array as a file of numpy's. Raises ShardError for values that are no numbers or beyond 65504."""
    if not np.isfinite(values).all():
        raise ShardError(
            f"sample {key}: values that are not finite or beyond float16's 65504; is the checkpoint sound?"
        )
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(values, np.dtype("<f2")), (1, 0), allow_pickle=False)
    return file.getvalue()
