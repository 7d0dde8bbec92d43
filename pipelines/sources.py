"""Where training windows come from, and batches of them: image shards, latent shards, or latents in memory.

The same windows come out of each. Latents differ by at most the last bit of float16 where the autoencoder sums in
another order, which on a CPU it does for few images at once; batches of fewer are therefore filled up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gwm.core.autoencoder import Autoencoder
from gwm.core.sd3_autoencoder import SD3Autoencoder
from gwm.pipelines.latents import action_values_of, encode_frames
from gwm.pipelines.windows import Example, Source
from gwm.shards import ShardError
from gwm.shards.index import Dataset
from gwm.shards.latents.index import FOLDER, Embedding, LatentSet
from gwm.shards.latents.read import read_latents
from gwm.shards.reader import read_window
from gwm.shards.schema import Images

IMAGES = 32  # the fewest that the autoencoder is given at once
PIXELS = 8 * 512 * 288  # the most, if they are more images than that


@dataclass(frozen=True)
class ImageShards:
    """Frames of an image dataset, decoded when a window is asked for."""

    dataset: Dataset
    size: tuple[int, int]  # (width, height) of the training frames
    views: tuple[str, ...]  # of the recipe

    def window(self, row: int, start: int, length: int, views: int) -> Example:
        """See `Source`."""
        seen = read_window(self.dataset, row, start, length, self.views[:views], self.size)
        return Example(seen.key, start, seen.frames, seen.text, action_values_of(seen.motion, seen.cameras))


@dataclass(frozen=True)
class LatentShards:
    """Latents, and where there are any the embeddings of texts, that lie beside an image dataset."""

    latents: LatentSet
    views: tuple[str, ...]  # of the recipe

    def window(self, row: int, start: int, length: int, views: int) -> Example:
        """See `Source`."""
        try:
            seen = read_latents(self.latents, row, start, length, self.views[:views])
            values = np.stack([seen.latents[view] for view in self.views[:views]], axis=1)
            if not np.isfinite(values).all():
                raise ShardError("values that are no numbers, which were never written")
        except ShardError as error:
            entry = self.latents.row(row)
            place = f"{FOLDER}/{entry.shard}: {entry.key}"
            raise ShardError(f"{place}: {error}; gwm shards verify lists all damage") from error
        return Example(
            seen.key, start, values, seen.text, action_values_of(seen.motion, seen.cameras), seen.embedding
        )  # fmt: skip


@dataclass(frozen=True)
class EmbeddedTexts:
    """Stands for the text encoder of a model that has none: it knows the texts of a batch, and the empty one."""

    table: Mapping[str, Embedding]
    device: torch.device

    def encode_text(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> tokens (b s e) and pooled text (b e), fp32."""
        pairs = zip(*(self.table[text] for text in texts), strict=True)
        tokens, pooled = (torch.from_numpy(np.stack(part)).to(self.device).float() for part in pairs)
        return tokens, pooled


@dataclass(frozen=True)
class Batch:
    """What this process learns from in a step: its windows of the batch."""

    z_0: Tensor  # (b t k c h w)
    texts: list[str]
    actions: Tensor  # (b waypoints 7)
    keys: list[str]  # which windows they are: sample and first frame
    embedded: EmbeddedTexts | None = None  # where the model has no text encoder


@dataclass
class Damage:
    """What could not be read so far."""

    windows: int = 0  # that others stood in for
    samples: set[tuple[int, int]] = field(default_factory=set)  # they are of: dataset and row


@dataclass(frozen=True)
class Library:
    """All that a run reads: its datasets, where the windows of each come from, and what makes batches of them."""

    datasets: tuple[Dataset, ...]
    sources: tuple[Source, ...]  # one for each dataset
    device: torch.device
    autoencoder: Autoencoder | SD3Autoencoder | None  # None: all windows are latents
    empty_text: Embedding | None  # where texts are embedded
    damage: Damage = field(default_factory=Damage)

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Windows side by side, as latents; those that are frames are encoded here."""
        frames = [x.values for x in examples if x.values.dtype == np.uint8]
        encoded = iter(self._encode(np.stack(frames)) if frames else ())
        place = self.device if frames else torch.device("cpu")
        z = [next(encoded) if x.values.dtype == np.uint8 else torch.from_numpy(x.values).to(place) for x in examples]
        table = {x.text: x.embedding for x in examples if x.embedding is not None}
        empty = self.empty_text
        return Batch(
            torch.stack(z).float(),
            [x.text for x in examples],
            torch.from_numpy(np.stack([x.actions for x in examples])).float(),
            [f"{x.key} from {x.start}" for x in examples],
            None if empty is None else EmbeddedTexts({**table, "": empty}, self.device),
        )

    def _encode(self, frames: Images) -> Tensor:
        """(b t k h w 3) -> latents (b t k c h/8 w/8) fp16, some frames of all windows at a time."""
        assert self.autoencoder is not None
        b, t, k, height, width, _ = frames.shape
        images = frames.reshape(b * t * k, 1, height, width, 3)
        most = max(IMAGES, PIXELS // (height * width))
        parts = []
        for part in (images[at : at + most] for at in range(0, len(images), most)):
            filled = np.concatenate([part, np.zeros((max(0, IMAGES - len(part)), *part.shape[1:]), np.uint8)])
            parts.append(encode_frames(self.autoencoder, filled)[: len(part), 0])
        z = torch.cat(parts)
        return z.reshape(b, t, k, *z.shape[1:])
