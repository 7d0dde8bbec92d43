"""Training windows of several datasets at once, in given shares: a pure function of the step, like `WindowSchedule`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from gwm.shards import ShardError
from gwm.shards.index import Dataset
from gwm.shards.reader import WindowSchedule

BLOCK = 1000  # windows in which the shares are met exactly
_MIX = 2  # keeps this use of (seed, rank, ...) apart from those of `reader`


@dataclass(frozen=True)
class Ref:
    """Where one window lies."""

    dataset: int  # of the mixture
    row: int
    start: int


class Mixture:
    """Windows of several datasets. Of every 1000 windows each dataset has its share, in a random order.

    To resume at step n is to ask for step n. Ranks read different shards (see `WindowSchedule`).
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float],
        split: str,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        min_length: int = 1,
        views: Sequence[str] = (),
    ) -> None:
        """Of each dataset the samples of `split` with at least `min_length` frames and all of `views` take part.

        Raises ShardError if a dataset has none of these or fewer shards than ranks, and for weights that are no shares.
        """
        if len(weights) != len(datasets) or not datasets or not all(np.isfinite(w) and w > 0 for w in weights):
            raise ShardError(f"{len(datasets)} datasets with the weights {list(weights)}: give each one above 0")
        self.datasets, self.seed, self.rank = tuple(datasets), seed, rank
        self.counts = _shares(weights)
        self._schedules = [
            WindowSchedule(dataset, split, seed + i, rank, world_size, min_length, views)
            for i, dataset in enumerate(datasets)
        ]

    def batch(self, step: int, batch_size: int, length: int) -> list[Ref]:
        """The `batch_size` windows of `length` frames of step `step`; `batch_size` has to be the same at every step."""
        return [self._window(step * batch_size + i, length) for i in range(batch_size)]

    def _window(self, number: int, length: int) -> Ref:
        block, place = divmod(number, BLOCK)
        order, ranks = _block(self.seed, self.rank, block, self.counts)
        at = int(order[place])
        before = block * self.counts[at] + int(ranks[place])
        ((row, start),) = self._schedules[at].batch(before, 1, length)
        return Ref(at, row, start)


def _shares(weights: Sequence[float]) -> tuple[int, ...]:
    """How many of BLOCK windows each dataset has: the whole part of its share, then the largest remainders."""
    exact = np.array(weights, np.float64) / sum(weights) * BLOCK
    counts = np.maximum(np.floor(exact), 1).astype(np.int64)
    while counts.sum() < BLOCK:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > BLOCK:
        counts[np.argmax(counts)] -= 1
    return tuple(counts.tolist())


@lru_cache(maxsize=4)
def _block(
    seed: int, rank: int, block: int, counts: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(BLOCK,) which dataset each window of a block is of, and how many of that dataset come before it there."""
    order = np.random.default_rng([_MIX, seed, rank, block]).permutation(np.repeat(np.arange(len(counts)), counts))
    ranks = np.empty(BLOCK, np.int64)
    for i in range(len(counts)):
        ranks[order == i] = np.arange(counts[i])
    return order, ranks
