"""Batches of decoded windows for training and evaluation: a torch DataLoader over a `Mixture` or an exact list."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from gwm.pipelines.latents import action_values_of
from gwm.shards.index import Dataset
from gwm.shards.mixture import Mixture, Ref
from gwm.shards.reader import iterate_windows, read_window
from gwm.shards.schema import Window

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Windows side by side."""

    frames: Tensor  # (b t k h w 3) uint8 RGB
    actions: Tensor  # (b waypoints 7) fp32 in the order of `core.actions.SCALARS`, NaN where unknown
    texts: list[str]
    keys: list[str]
    starts: list[int]  # index of the first frame within the sample

    def pin_memory(self) -> Batch:
        """For DataLoader's `pin_memory`."""
        return Batch(self.frames.pin_memory(), self.actions.pin_memory(), self.texts, self.keys, self.starts)


@dataclass(frozen=True)
class Shape:
    """What a window looks like."""

    length: int  # frames T
    size: tuple[int, int] | None = None  # width, height; None: as stored
    views: tuple[str, ...] | None = None  # None: those of the sample
    stride: int = 1  # a frame every `stride` steps of 0.1 s


class _Batches(TorchDataset[Batch]):
    """Batch `step` is a pure function of `step`, so a DataLoader may read them in any process."""

    def __init__(self, datasets: Sequence[Dataset], refs: Mixture | Sequence[Sequence[Ref]], shape: Shape, b: int):
        self.datasets, self.refs, self.shape, self.batch_size = datasets, refs, shape, b

    def __getitem__(self, step: int) -> Batch:
        span = (self.shape.length - 1) * self.shape.stride + 1
        refs = self.refs.batch(step, self.batch_size, span) if isinstance(self.refs, Mixture) else self.refs[step]
        return _collate([_read(self.datasets[ref.dataset], ref, self.shape) for ref in refs])


def training_batches(
    mixture: Mixture, shape: Shape, batch_size: int, first_step: int, last_step: int, workers: int = 0
) -> Iterator[Batch]:
    """The batches of the steps first_step .. last_step - 1. To resume is to begin at another step.

    `workers` processes decode ahead; what comes out does not depend on their number.
    """
    dataset = _Batches(mixture.datasets, mixture, shape, batch_size)
    yield from in_order(dataset, range(first_step, last_step), workers, torch.cuda.is_available())


def evaluation_batches(
    dataset: Dataset, split: str, shape: Shape, batch_size: int, every: int, workers: int = 0
) -> Iterator[Batch]:
    """Exactly the windows of `iterate_windows`, `every` frames apart, each once and in its order."""
    span = (shape.length - 1) * shape.stride + 1
    refs = [Ref(0, row, start) for row, start in iterate_windows(dataset, split, span, every, shape.views or ())]
    batches = [refs[at : at + batch_size] for at in range(0, len(refs), batch_size)]
    found = _Batches([dataset], batches, shape, batch_size)
    yield from in_order(found, range(len(batches)), workers, torch.cuda.is_available())


def in_order(dataset: TorchDataset[T], steps: range, workers: int, pin: bool = False) -> Generator[T]:
    """dataset[step] for each of the steps, `workers` processes ahead of what is asked for; in this process for 0.

    The workers do not see SIGINT and SIGTERM, which a terminal or a cluster sends to all: they end with this process.
    """
    loader = DataLoader(
        dataset, batch_size=None, sampler=steps, num_workers=workers, pin_memory=pin,
        multiprocessing_context="spawn" if workers else None, prefetch_factor=2 if workers else None,
        generator=torch.Generator(),  # the global one is left as it is
    )  # fmt: skip
    if workers:
        resource_tracker.ensure_running()  # which would unblock them on its first start
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))  # what a child inherits
    try:
        items = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    yield from items


def _read(dataset: Dataset, ref: Ref, shape: Shape) -> Window:
    return read_window(dataset, ref.row, ref.start, shape.length, shape.views, shape.size, shape.stride)


def _collate(windows: Sequence[Window]) -> Batch:
    actions = [action_values_of(window.motion, window.cameras) for window in windows]
    return Batch(
        torch.from_numpy(np.stack([window.frames for window in windows])),
        torch.from_numpy(np.stack(actions)).float(),
        [window.text for window in windows],
        [window.key for window in windows],
        [window.start for window in windows],
    )
