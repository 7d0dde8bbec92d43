"""Reading windows of latents: what training needs of a sample, with neither autoencoder nor text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from gwm.shards import ShardError
from gwm.shards.index import Member
from gwm.shards.latents.index import Embedding, Halves, LatentSet, latent_name, pooled_name, texts_of, tokens_name
from gwm.shards.reader import MOTION_AHEAD, check_window, window_text
from gwm.shards.sample import decode_description, json_name
from gwm.shards.schema import Camera, Motion


@dataclass(frozen=True)
class LatentWindow:
    """T frames of one chunk as latents; otherwise as `schema.Window`."""

    key: str
    start: int  # index of the first frame within the chunk
    latents: Mapping[str, Halves]  # view -> (T, c, h, w), normalised
    motion: Motion
    cameras: tuple[Camera, ...]  # at the size of the frames in pixels
    text: str
    embedding: Embedding | None  # tokens (s, e) and pooled (p,) of `text`; None where texts are not embedded


def read_latents(
    latents: LatentSet, row: int, start: int, length: int, views: Sequence[str] | None = None, stride: int = 1
) -> LatentWindow:
    """`length` frames of sample `row` from `start` on, `stride` apart; motion and text are those of `read_window`.

    Only the bytes of the window are read. Raises ShardError for frames or views that the sample lacks and damaged
    bytes.
    """
    entry = latents.row(row)
    span, views = check_window(entry, start, length, views, stride)
    path = latents.path / entry.shard
    try:
        with path.open("rb") as file:
            said = entry.member(json_name(entry.key))
            file.seek(said.offset)
            description = decode_description(file.read(said.size))
            text = window_text(description, start, start + span)
            cut = {}
            for view in views:
                member, shape = entry.member(latent_name(entry.key, view)), latents.shape(entry, view)
                cut[view] = _slice(file, member, shape, start, span)[::stride]
            embedding = None
            if latents.empty_text is not None and text:
                at = texts_of(description).index(text)
                tokens, pooled = (
                    _slice(file, entry.member(name(entry.key)), (entry.texts, *latents.empty_text[kind]), at, 1)[0]
                    for kind, name in (("tokens", tokens_name), ("pooled", pooled_name))
                )
                embedding = (tokens, pooled)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ShardError(f"{path}: sample {entry.key} cannot be read: {reason}") from error
    if latents.empty_text is not None and not text:
        embedding = read_empty_text(latents)
    cameras = {camera.view: camera for camera in description.cameras}
    return LatentWindow(
        entry.key,
        start,
        cut,
        description.motion.window(start, span + MOTION_AHEAD),
        tuple(cameras[view] for view in views if view in cameras),
        text,
        embedding,
    )


def read_empty_text(latents: LatentSet) -> Embedding:
    """Tokens and pooled text of "", for dropped texts and for guidance. ShardError where no texts are embedded."""
    if latents.empty_text is None:
        raise ShardError(f"{latents.path} has no text embeddings: {latents.settings['text']}")
    try:
        with (latents.path / latents.empty_text["name"]).open("rb") as file, np.load(file) as arrays:
            return arrays["tokens"], arrays["pooled"]
    except (OSError, ValueError, KeyError) as error:
        raise ShardError(f"{latents.path / latents.empty_text['name']} cannot be read: {error}") from error


def _slice(file: IO[Any], member: Member, shape: tuple[int, ...], start: int, length: int) -> Halves:
    """`length` entries of the first axis of a float16 array in an npy file; the header is what is left of its size."""
    entry = 2 * int(np.prod(shape[1:]))
    file.seek(member.offset + member.size - shape[0] * entry + start * entry)
    data = bytearray(file.read(length * entry))  # writable, as torch wants it
    return np.frombuffer(data, np.dtype("<f2")).reshape(length, *shape[1:])
