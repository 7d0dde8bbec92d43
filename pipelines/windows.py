"""A training window as every source gives it, whether its frames are encoded already or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gwm.shards.latents.index import Embedding, Halves
from gwm.shards.schema import Floats, Images


@dataclass(frozen=True)
class Example:
    """T frames of K views, with what conditions them. Arrays alone, so that it travels between processes."""

    key: str  # of the sample
    start: int  # its first frame within the sample
    values: Halves | Images  # latents (t k c h w), float16 and normalised, or RGB frames (t k h w 3), uint8
    text: str
    actions: Floats  # (waypoints, 7) in the order of `core.actions.SCALARS`, NaN where unknown
    embedding: Embedding | None = None  # of the text, where SD3's text encoders gave one


class Source(Protocol):
    """Where the windows of one dataset come from: memory, latent shards or image shards."""

    def window(self, row: int, start: int, length: int, views: int) -> Example:
        """`length` frames of sample `row` from `start` on, the first `views` views of the recipe.

        Raises ShardError, which names shard and sample, where its bytes are damaged.
        """
        ...
