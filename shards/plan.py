"""The plan of a dataset: which items of a source go into which shard. It is made once and only ever grows.

A shard is one job: it is read, written and recorded as a whole, by whatever process. So a run that was killed goes on
where it stopped, several processes share the work, and new items of the source come into new shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gwm.shards import ShardError, SourceError
from gwm.shards.files import write_json
from gwm.shards.schema import SCHEMA_VERSION, Chunk, Skipped
from gwm.shards.storage import AnyPath

SHARD_IMAGES = 3200  # about 140 MB at 512x288; large enough for a file system to like, small enough to deal out
PLAN_FILE = "jobs/plan.json"


class Item(Protocol):
    """What a source reads on its own: a scene, a segment, five minutes of a video. Can be pickled."""

    @property
    def name(self) -> str:
        """No other item of the source has it, and it stays the same when others are added."""

    @property
    def images(self) -> int:
        """About how many images it gives."""

    @property
    def stamp(self) -> str:
        """Changes with the source's bytes, such as a file's size. An item whose stamp changed is read anew."""


class Source(Protocol):
    """A dataset to be read: what every file in `shards/sources` provides. Can be pickled."""

    @property
    def name(self) -> str:
        """That of the shards; letters, digits, _ and -."""

    def items(self) -> Sequence[Any]:
        """Its `Item`s in a fixed order, and a `Skipped` for what is missing already.

        SourceError where there are none.
        """

    def chunks(self, item: Any) -> Iterator[Chunk | Skipped]:
        """What an item holds, and what of it is left out. SourceError where it cannot be read (any further)."""

    def files(self, item: Any) -> Iterable[AnyPath]:
        """What an item is read from: where some of it is `Damaged`, a change of these files has it read anew."""

    def settings(self) -> dict[str, object]:
        """What decides the bytes of the shards beside the source's files, as JSON values."""


@dataclass(frozen=True)
class Job:
    """One shard to be written."""

    number: int
    stamps: Mapping[str, str]  # of its items by name, in order

    def shard(self, source: str) -> str:
        """The shard's file name."""
        return f"{source}-{self.number:06d}.tar"


def make_plan(out: AnyPath, source: Source, items: Sequence[Item]) -> list[Job]:
    """The jobs of `items`, those that an earlier run planned first and as they were; written to `out`.

    Raises ShardError where `out` holds a dataset of another source or other settings, SourceError for two items of one
    name.
    """
    names = [item.name for item in items]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise SourceError(f"{len(twice)} items occur more than once, such as {twice[0]}; keep one of each")
    stamps = {item.name: item.stamp for item in items}
    jobs = [
        Job(job.number, {name: stamps.get(name, stamp) for name, stamp in job.stamps.items()})
        for job in _read_plan(out, source)
    ]
    known = {name for job in jobs for name in job.stamps}
    for group in _groups([item for item in items if item.name not in known]):
        jobs.append(Job(len(jobs), {item.name: item.stamp for item in group}))
    fields = {
        "schema_version": SCHEMA_VERSION, "source": source.name, "settings": source.settings(),
        "jobs": [dict(job.stamps) for job in jobs],
    }  # fmt: skip
    write_json(out / PLAN_FILE, fields)
    return jobs


def _groups(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Consecutive items of together at most SHARD_IMAGES images, or one item of more."""
    group: list[Item] = []
    images = 0
    for item in items:
        if group and images + item.images > SHARD_IMAGES:
            yield group
            group, images = [], 0
        group.append(item)
        images += item.images
    if group:
        yield group


def _read_plan(out: AnyPath, source: Source) -> list[Job]:
    file = out / PLAN_FILE
    if not file.is_file():
        return []
    try:
        fields = json.loads(file.read_bytes())
        version, name, settings = fields["schema_version"], fields["source"], fields["settings"]
        jobs = [Job(number, dict(stamps)) for number, stamps in enumerate(fields["jobs"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{file} cannot be read ({error}); delete {out} or choose another folder with -o") from error
    if (version, name) != (SCHEMA_VERSION, source.name):
        raise ShardError(
            f"{out} holds shards of {name!r} in schema version {version}, not of {source.name!r} in {SCHEMA_VERSION}; "
            "choose another folder with -o, or delete it"
        )
    ours = json.loads(json.dumps(source.settings()))
    changed = [
        f"{key} {settings.get(key)} instead of {ours.get(key)}"
        for key in sorted({*settings, *ours})
        if settings.get(key) != ours.get(key)
    ]
    if changed:
        raise ShardError(
            f"{out} holds shards made with other settings: {', '.join(changed)}; "
            "use the same settings to go on, or choose another folder with -o"
        )
    return jobs
