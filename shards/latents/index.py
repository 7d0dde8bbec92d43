"""The index of the latents: `index.parquet` (one row per sample) and `dataset.json`, as beside the image shards.

A sample of a latent shard has the key of its image sample and the members `KEY.json` (the same bytes),
`KEY.<view>.latents.npy` (T, c, h, w) for each view and, where SD3's text encoders were given, `KEY.text.tokens.npy`
(n, s, e) and `KEY.text.pooled.npy` (n, p) of its n texts (see `texts_of`). The empty text has a file of its own,
`empty_text.npz`. All are float16: any numpy reads it, at unit variance it is 8 times finer than bfloat16, and what it
cannot hold is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gwm.shards import ShardError
from gwm.shards.index import DATASET_FILE, INDEX_FILE, Dataset, Member, ShardFile, read_index
from gwm.shards.sample import Description, json_name
from gwm.shards.storage import AnyPath

FOLDER = "latents"  # below that of the image shards
EMPTY_TEXT_FILE = "empty_text.npz"
VERSION = "latents 1"  # stands where an image dataset has its schema version
LATENT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # of the sample's first tar header
        ("size", pa.int64()),  # headers, data and padding of all its members
        ("frames", pa.int32()),
        ("views", pa.list_(pa.string())),
        ("widths", pa.list_(pa.int32())),  # of the latents of each view, in places
        ("heights", pa.list_(pa.int32())),
        ("texts", pa.int32()),  # how many are embedded
        ("member_offsets", pa.list_(pa.int64())),  # of the members' data, in the order of their names
        ("member_sizes", pa.list_(pa.int64())),
        ("member_crc32", pa.list_(pa.uint32())),
    ]
)

Halves = npt.NDArray[np.float16]
Embedding = tuple[Halves, Halves]  # tokens (s, e) and pooled text (p,) of one text, or (n, s, e) and (n, p) of n


def latent_name(key: str, view: str) -> str:
    """Member name of a view's latents."""
    return f"{key}.{view}.latents.npy"


def tokens_name(key: str) -> str:
    """Member name of the text tokens."""
    return f"{key}.text.tokens.npy"


def pooled_name(key: str) -> str:
    """Member name of the pooled texts."""
    return f"{key}.text.pooled.npy"


def texts_of(description: Description) -> tuple[str, ...]:
    """The texts of a sample that are embedded, in this order: its own and those of its captions, without empty ones."""
    texts = [description.text, *(caption.text for caption in description.captions)]
    return tuple(dict.fromkeys(text for text in texts if text))


@dataclass(frozen=True)
class LatentRow:
    """One sample in the index; the columns of LATENT_SCHEMA."""

    key: str
    shard: str
    offset: int
    size: int
    frames: int
    views: tuple[str, ...]
    widths: tuple[int, ...]
    heights: tuple[int, ...]
    texts: int
    member_offsets: tuple[int, ...]
    member_sizes: tuple[int, ...]
    member_crc32: tuple[int, ...]

    def members(self) -> list[Member]:
        """In the order they lie in the tar."""
        names = [json_name(self.key), *(latent_name(self.key, view) for view in self.views)]
        names += [tokens_name(self.key), pooled_name(self.key)] if self.texts else []
        columns = zip(sorted(names), self.member_offsets, self.member_sizes, self.member_crc32, strict=True)
        return [Member(*values) for values in columns]

    def member(self, name: str) -> Member:
        """The member of that name."""
        return next(member for member in self.members() if member.name == name)


@dataclass(frozen=True)
class LatentSet:
    """Opened latents: `dataset.json` as fields, `index.parquet` as a table. Row i is row i of the image dataset."""

    path: AnyPath
    source: str
    settings: Mapping[str, Any]  # what encoded them; see `pipelines.latent_shards`
    gwm_version: str
    images: str  # SHA-256 of the index of the image dataset
    sizes: Mapping[str, tuple[int, int]]  # view -> (width, height) of the frames that were encoded, in pixels
    counts: Mapping[str, int]  # samples, frames
    shards: tuple[ShardFile, ...]
    index: Mapping[str, Any]  # name, bytes, sha256 of the index
    empty_text: Mapping[str, Any] | None  # name, sha256, shapes of tokens and pooled; None: no text is embedded
    table: pa.Table

    def __len__(self) -> int:
        """Number of samples."""
        return int(self.table.num_rows)

    def row(self, i: int) -> LatentRow:
        """Row `i` of the index, 0 <= i < len(self)."""
        assert 0 <= i < len(self), f"row {i} of {len(self)}"
        row = {name: self.table.column(name)[i].as_py() for name in LATENT_SCHEMA.names}
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        return LatentRow(**values)

    def shape(self, row: LatentRow, view: str) -> tuple[int, int, int, int]:
        """(T, c, h, w) of the latents of one view."""
        k = row.views.index(view)
        return row.frames, int(self.settings["channels"]), row.heights[k], row.widths[k]


def is_latents(path: AnyPath) -> bool:
    """Whether the folder `path` holds latents, rather than images or nothing."""
    try:
        return bool(json.loads((path / DATASET_FILE).read_bytes())["schema_version"] == VERSION)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_latent_index(path: AnyPath) -> LatentSet:
    """Read `dataset.json` and `index.parquet` of latents without looking for the shards. Raises ShardError."""
    if not is_latents(path):
        raise ShardError(f"no latents at {path}; make them with gwm preprocess … --latents CHECKPOINT")
    try:
        fields = json.loads((path / DATASET_FILE).read_bytes())
        with (path / INDEX_FILE).open("rb") as file:
            table = pq.read_table(file, page_checksum_verification=True)
        if not table.schema.equals(LATENT_SCHEMA):
            raise ShardError(f"{path}: {INDEX_FILE} has other columns than that of latents; make them anew")
        return LatentSet(
            path=path,
            source=fields["source"],
            settings=fields["settings"],
            gwm_version=fields["gwm_version"],
            images=fields["images"],
            sizes={view: (int(size[0]), int(size[1])) for view, size in fields["sizes"].items()},
            counts=fields["counts"],
            shards=tuple(ShardFile(**shard) for shard in fields["shards"]),
            index=dict(fields["index"]),
            empty_text=fields["empty_text"],
            table=table.combine_chunks(),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, pa.ArrowException) as error:
        raise ShardError(f"{path}: {DATASET_FILE} or {INDEX_FILE} is damaged ({error}); copy them again") from error


def open_latents(images: Dataset) -> LatentSet:
    """The latents beside an image dataset, of which only the index is needed: its tars may be elsewhere.

    Raises ShardError where there are none, they belong to another state of the images, or a shard is missing or has
    another size.
    """
    latents = read_latent_index(images.path / FOLDER)
    if problem := stranger(latents, images):
        raise ShardError(problem)
    for shard in latents.shards:
        file = latents.path / shard.name
        if not file.is_file() or file.stat().st_size != shard.bytes:
            found = f"has {file.stat().st_size} bytes instead of {shard.bytes}" if file.is_file() else "is missing"
            raise ShardError(f"{latents.path}: shard {shard.name} {found}; copy it again or make the latents anew")
    return latents


def stranger(latents: LatentSet, images: Dataset) -> str:
    """In words, why the latents are not those of `images`; "" where they are."""
    same = latents.images == images.index["sha256"]
    if same and all(
        latents.table.column(name).equals(images.table.column(name)) for name in ("key", "frames", "views")
    ):
        return ""
    return (
        f"{latents.path} was made from another state of {images.path}; "
        "run gwm preprocess with --latents again to bring it up to date"
    )


def images_beside(path: AnyPath) -> Dataset | None:
    """The image dataset that the latents in folder `path` lie beside, if one is there. Raises ShardError if damaged."""
    return read_index(path.parent) if (path.parent / DATASET_FILE).is_file() else None
