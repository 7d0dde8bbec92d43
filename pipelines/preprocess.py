"""Turn a source into shards: items to chunks to tars, with every loss counted and named."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from gwm.pipelines.progress import Ticker
from gwm.shards import SourceError
from gwm.shards.schema import Chunk, Skipped
from gwm.shards.writer import DatasetWriter


class Source(Protocol):
    """A dataset to be read: what every file in `shards/sources` provides."""

    @property
    def name(self) -> str: ...
    def items(self) -> Sequence[Any]: ...
    def chunks(self, item: Any) -> Iterator[Chunk | Skipped]: ...
    def settings(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class PreprocessResult:
    """What was written and what was left out."""

    out: str
    samples: int
    frames: int
    skipped: list[dict[str, str]]


def read_item(source: Source, item: Any) -> Iterator[Chunk | Skipped]:
    """The chunks of one item; an item that cannot be read ends in a `Skipped`."""
    try:
        yield from source.chunks(item)
    except SourceError as error:
        yield Skipped(str(item), str(error).removeprefix(f"{item}: "))


def _collect(source: Source, item: Any) -> list[Chunk | Skipped]:
    return list(read_item(source, item))


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _in_order(source: Source, items: Sequence[Any], workers: int) -> Iterator[Iterator[Chunk | Skipped]]:
    """The chunks of every item, in the order of the items, whatever the number of processes."""
    if workers == 1:
        yield from (read_item(source, item) for item in items)
        return
    with ProcessPoolExecutor(workers, initializer=_leave_interrupts_to_the_parent) as pool:
        waiting = iter(items)
        futures = [pool.submit(_collect, source, item) for item in islice(waiting, 2 * workers)]
        try:
            while futures:
                done = futures.pop(0).result()
                futures += [pool.submit(_collect, source, item) for item in islice(waiting, 1)]
                yield iter(done)
        except BrokenProcessPool as error:
            raise SourceError("a worker process died (out of memory?); try fewer --workers") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def preprocess(source: Source, out: Path, workers: int = 1, strict: bool = False) -> PreprocessResult:
    """Write all chunks of `source` as a dataset into the folder `out`.

    Items that cannot be read are skipped, counted by cause and named in dataset.json; `strict` raises SourceError
    at the first instead. With several workers the bytes are the same, but each holds a whole item in memory.
    """
    items = source.items()
    frames = samples = 0
    skipped: list[dict[str, str]] = []
    with DatasetWriter(out, source.name, source.settings()) as writer, Ticker(source.name, len(items)) as ticker:
        for chunks in _in_order(source, items, workers):
            for chunk in chunks:
                if isinstance(chunk, Skipped):
                    if strict:
                        raise SourceError(f"{chunk.item}: {chunk.cause}")
                    writer.skip(chunk.item, chunk.cause)
                    skipped.append({"item": chunk.item, "cause": chunk.cause})
                else:
                    writer.add(chunk)
                    samples, frames = samples + 1, frames + chunk.length
            ticker.advance(note=f"{frames} frames")
    return PreprocessResult(str(out), samples, frames, skipped)


def default_workers() -> int:
    """One process for each CPU that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
