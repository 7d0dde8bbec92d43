"""Turn a source into shards: items to jobs to tars, on one machine or many, with every loss counted and named.

A job is one shard (see `shards/plan.py`). Whatever process runs it writes the same bytes, and a finished one is not run
again while its source stays as it is, so killing a run loses only the shards that were being written.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

from gwm.pipelines.progress import Ticker
from gwm.pipelines.workers import Workers, in_this_process
from gwm.shards import ShardError, SourceError
from gwm.shards.dataset import complete
from gwm.shards.files import make_folder, remove_temporaries, write_json
from gwm.shards.index import DATASET_FILE, read_dataset_file
from gwm.shards.lock import LOCK_FILE, locked
from gwm.shards.plan import PLAN_FILE, Item, Job, Source, make_plan
from gwm.shards.schema import Chunk, Damaged, Skipped
from gwm.shards.storage import AnyPath, state
from gwm.shards.writer import Record, read_record, read_rows, record_file, write_job, writing

REPORT_FILE = "report.json"


@dataclass
class Report:
    """What a run did, and what the dataset now holds."""

    out: str
    items: int = 0  # of the source: files, segments, scenes
    samples: int = 0
    frames: int = 0  # time steps at 10 Hz
    bytes: int = 0  # of the shards
    shards: int = 0
    new_shards: int = 0  # written by this run
    seconds: float = 0.0  # of this run
    frames_per_second: float = 0.0  # of this run; 0 where it wrote nothing
    skipped_frames: int = 0  # of those in `skipped` whose number is known
    skipped_by_cause: dict[str, int] = field(default_factory=dict)
    skipped: list[dict[str, Any]] = field(default_factory=list)  # item, cause, frames


Task = tuple[Job, Sequence[Item]]


def read_items(
    source: Source, items: Iterable[Item], strict: bool, damaged: dict[str, str]
) -> Iterator[Chunk | Skipped]:
    """The chunks of several items; one that cannot be read ends in a `Damaged`, or with `strict` in SourceError.

    The items of which something was damaged are added to `damaged`, with the state of their files.
    """
    for item in items:
        for part in _parts(source, item):
            if strict and isinstance(part, Skipped):
                raise SourceError(f"{part.item}: {part.cause}")
            if isinstance(part, Damaged) and item.name not in damaged:
                damaged[item.name] = state(source.files(item))
            yield part


def _parts(source: Source, item: Item) -> Iterator[Chunk | Skipped]:
    try:
        yield from source.chunks(item)
    except SourceError as error:
        yield Damaged(item.name, _cause(item, error))


def _cause(item: Item, error: SourceError) -> str:
    """What `error` says, without the item or its path at the head: the same words for the same cause."""
    head, found, rest = str(error).partition(f"{item.name}: ")
    return rest if found and ": " not in head else str(error)


def _do(source: Source, out: AnyPath, strict: bool, task: Task) -> Record:
    """One job, from its items to its shard and record."""
    job, items = task
    gone = sorted(set(job.stamps) - {item.name for item in items})
    lost = [Skipped(name, "no longer in the source") for name in gone]
    damaged: dict[str, str] = {}
    return write_job(out, source.name, job, chain(read_items(source, items, strict, damaged), lost), damaged)


def _kept(source: Source, out: AnyPath, job: Job, items: Mapping[str, Item]) -> Record | None:
    """The record of a finished job, unless what was damaged then may be whole now."""
    record = read_record(out, job)
    changed = record and any(
        name in items and state(source.files(items[name])) != before for name, before in record.damaged.items()
    )
    return None if changed else record


def preprocess(source: Source, out: AnyPath, strict: bool = False, workers: Workers | None = None) -> Report:
    """Write all chunks of `source` as a dataset into the folder `out`, or finish what an earlier run began there.

    Shards that are there already are kept, but those with something damaged whose file has changed since; items that
    the source gained are added in new shards. Items that cannot be read are skipped, counted by cause and named in
    dataset.json and report.json; `strict` raises SourceError at the first instead.
    `workers` do the jobs, this process unless given (`in_processes`, `on_ray`); the bytes of the dataset do not depend
    on it.
    """
    began = time.monotonic()
    found: list[Item] = []
    missing: list[Skipped] = []
    for part in source.items():
        (missing if isinstance(part, Skipped) else found).append(part)
    if strict and missing:
        raise SourceError(f"{missing[0].item}: {missing[0].cause}")
    make_folder(out)
    with writing(out):
        (out / "jobs").mkdir(parents=True, exist_ok=True)
    with locked(out):
        with writing(out):
            remove_leftovers(out)
            jobs = make_plan(out, source, found)
        items = {item.name: item for item in found}
        records = {job.number: record for job in jobs if (record := _kept(source, out, job, items))}
        left = [
            (job, [items[name] for name in job.stamps if name in items]) for job in jobs if job.number not in records
        ]
        report = Report(str(out), len(found), new_shards=len(left))
        frames = 0
        listed = out / DATASET_FILE
        if listed.is_file() and any(record_file(out, job).is_file() for job, _ in left):  # its shards are to change
            with writing(out):
                listed.unlink()
        with Ticker(source.name, len(jobs), len(records)) as ticker:
            for record in (workers or in_this_process)(partial(_do, source, out, strict), left):
                records[record.job.number] = record
                frames += _frames(out, record)
                ticker.advance(note=f"{frames} frames")
        if left:
            with writing(out):
                remove_leftovers(out)  # of processes that died at work and whose jobs ran again
        done = [records[job.number] for job in jobs]
        skipped = [*missing, *(skip for record in done for skip in record.skipped)]
        if not any(record.shard.samples for record in done):
            _discard(out, done)
        if left or _says(out) != [vars(skip) for skip in skipped]:
            complete(out, source.name, source.settings(), done, skipped)
        report.seconds = time.monotonic() - began
        report.frames_per_second = frames / report.seconds
        _fill(report, out, done, skipped)
        with writing(out):
            write_json(out / REPORT_FILE, vars(report))
    return report


def _frames(out: AnyPath, record: Record) -> int:
    return int(sum(read_rows(out, record.job).column("frames").to_pylist()))


def _says(out: AnyPath) -> list[dict[str, Any]] | None:
    """What the dataset says is left out; None where it is not complete."""
    try:
        return list(read_dataset_file(out)["skipped"])
    except (ShardError, KeyError, TypeError):
        return None


def _fill(report: Report, out: AnyPath, records: Sequence[Record], skipped: Sequence[Skipped]) -> None:
    """What all records say together."""
    report.shards = len(records)
    report.samples = sum(record.shard.samples for record in records)
    report.bytes = sum(record.shard.bytes for record in records)
    report.frames = sum(_frames(out, record) for record in records)
    report.skipped = [vars(skip) for skip in skipped]
    report.skipped_frames = sum(skip.frames for skip in skipped)
    report.skipped_by_cause = dict(sorted(Counter(skip.cause for skip in skipped).items()))


def remove_leftovers(out: AnyPath) -> None:
    """Remove the temporary files of killed processes, while no job is at work."""
    for folder in (out, out / "jobs"):
        remove_temporaries(folder)


def _discard(out: AnyPath, records: Sequence[Record]) -> None:
    """Remove what a run without a single sample wrote: nothing is in it, and the next run shall read all again."""
    files = [out / record.shard.name for record in records] + [record_file(out, record.job) for record in records]
    for file in [*files, out / PLAN_FILE, out / LOCK_FILE]:
        with suppress(OSError):
            file.unlink()
    for folder in (out / "jobs", out):
        with suppress(OSError):
            folder.rmdir()
