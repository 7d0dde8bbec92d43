"""What is in a folder of latents, and whether every byte of it is what was written."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from gwm.shards.files import sha256_of
from gwm.shards.index import Member
from gwm.shards.latents.index import (
    LatentRow,
    LatentSet,
    images_beside,
    latent_name,
    pooled_name,
    read_latent_index,
    stranger,
    texts_of,
    tokens_name,
)
from gwm.shards.sample import decode_description, faults, json_name
from gwm.shards.storage import AnyPath
from gwm.shards.tar_check import VerifyReport, check_dataset


def verify_latents(path: AnyPath) -> VerifyReport:
    """Check every byte of the latents in folder `path`; all that is wrong is reported, not only the first.

    The SHA-256 of the index, of the empty text and of each shard; every member's header, CRC-32, shape, and that its
    values are finite; every JSON against the index; whether they belong to the images beside them, where there are any.
    Raises ShardError where nothing can be checked.
    """
    latents = read_latent_index(path)

    def check_data(row: LatentRow, member: Member, data: bytes) -> Iterator[str]:
        return _check_data(latents, row, member, data)

    return check_dataset(latents, _check_index(latents), check_data)


def latent_info(path: AnyPath) -> dict[str, Any]:
    """A summary of the latents in folder `path`, of JSON values. Raises ShardError."""
    latents = read_latent_index(path)
    images = images_beside(path)
    places = zip(latents.table.column("widths").to_pylist(), latents.table.column("heights").to_pylist(), strict=True)
    sizes = {
        view: (width, height)
        for views, (widths, heights) in zip(latents.table.column("views").to_pylist(), places, strict=True)
        for view, width, height in zip(views, widths, heights, strict=True)
    }
    return {
        "path": str(path),
        "contents": "latents",
        "gwm_version": latents.gwm_version,
        "source": latents.source,
        **latents.settings,
        "samples": latents.counts["samples"],
        "frames": latents.counts["frames"],
        "sizes": {
            view: f"{width}x{height} px, {sizes[view][0]}x{sizes[view][1]} places"
            for view, (width, height) in latents.sizes.items()
        },
        "texts": int(latents.table.column("texts").to_numpy().sum()),
        "shards": len(latents.shards),
        "bytes": sum(shard.bytes for shard in latents.shards),
        "images": latents.images,  # SHA-256 of their index
        "up_to_date": "no images beside them" if images is None else not stranger(latents, images),
    }


def _check_index(latents: LatentSet) -> list[str]:
    """The index, dataset.json, the folder and the images beside it against each other."""
    found = []
    table, images = latents.table, images_beside(latents.path)
    if latents.counts != {"samples": len(latents), "frames": int(table.column("frames").to_numpy().sum())}:
        found.append("dataset.json: counts differ from the index")
    listed = Counter({shard.name: shard.samples for shard in latents.shards})
    if listed != Counter(table.column("shard").to_pylist()):
        found.append("dataset.json: samples per shard differ from the index")
    if images is not None and (problem := stranger(latents, images)):
        found.append(problem)
    if (empty := latents.empty_text) is not None:
        file = latents.path / empty["name"]
        if not file.is_file() or sha256_of(file) != empty["sha256"]:
            found.append(f"{file.name}: {'SHA-256 differs from dataset.json' if file.is_file() else 'missing'}")
    strangers = sorted(file.name for file in latents.path.glob("*.tar") if file.name not in listed)
    return found + [f"{name}: not in dataset.json" for name in strangers]


def _check_data(latents: LatentSet, row: LatentRow, member: Member, data: bytes) -> Iterator[str]:
    if member.name == json_name(row.key):
        description = decode_description(data)
        yield from faults(row.key, description)
        texts = 0 if latents.empty_text is None else len(texts_of(description))
        for name, stored, indexed in (
            ("frames", len(description.timestamps), row.frames),
            ("views", description.views, row.views),
            ("texts", texts, row.texts),
        ):
            if stored != indexed:
                yield f"{name}: {stored!r}, but the index has {indexed!r}"
        return
    wanted: dict[str, tuple[int, ...]] = {latent_name(row.key, view): latents.shape(row, view) for view in row.views}
    if latents.empty_text is not None:
        wanted[tokens_name(row.key)] = (row.texts, *latents.empty_text["tokens"])
        wanted[pooled_name(row.key)] = (row.texts, *latents.empty_text["pooled"])
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        yield f"no array of numpy's ({error})"
        return
    if (values.dtype, values.shape) != (np.dtype("<f2"), wanted.get(member.name)):
        yield f"{values.dtype} {values.shape}, not float16 {wanted.get(member.name)}"
    elif not np.isfinite(values).all():
        yield "values that are not finite"
