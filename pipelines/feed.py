"""The windows of a stage, step after step: which ones they are, reading them ahead, and others for damaged ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache

import torch
from torch.utils.data import Dataset as TorchDataset

from gwm.core.seeds import seeded_generator
from gwm.pipelines.ahead import one_ahead
from gwm.pipelines.latents import LatentDataset
from gwm.pipelines.loader import in_order
from gwm.pipelines.progress import console
from gwm.pipelines.recipe import Stage
from gwm.pipelines.sources import Library
from gwm.pipelines.windows import Example, Source
from gwm.shards import ShardError
from gwm.shards.mixture import Mixture, Ref
from gwm.shards.reader import WindowSchedule

TRIES = 8  # windows read for one of a batch before the data are given up
ELSEWHERE = 2**40  # steps ahead, where no training comes: whence the windows that stand in for damaged ones


@dataclass(frozen=True)
class Order:
    """Which windows one process reads in a stage: a pure function of the step. Their length is one for a step."""

    schedule: WindowSchedule | Mixture
    datasets: tuple[int, ...]  # of the run, those that the schedule's are
    stage: Stage
    windows: int  # of a step in this process
    seed: int  # of the run
    index: int  # of the stage

    def begin(self, step: int) -> tuple[int, torch.Generator]:
        """The frames of a step's windows, and the generator that they and all else random in the step come from."""
        generator = seeded_generator(self.seed, 0, self.index, step)
        return self.stage.frames[int(torch.randint(len(self.stage.frames), (), generator=generator))], generator

    def refs(self, step: int, length: int, again: int = 0) -> list[Ref]:
        """The windows of a step; with `again` = 1, 2, … others, one for each of them."""
        found = self.schedule.batch(step + again * ELSEWHERE, self.windows, length)
        refs = [ref if isinstance(ref, Ref) else Ref(0, *ref) for ref in found]
        return [Ref(self.datasets[ref.dataset], ref.row, ref.start) for ref in refs]


@dataclass
class Read:
    """What was read for a step."""

    examples: list[Example | int] = field(default_factory=list)  # a number: yet to be read, from that try on
    damage: list[tuple[Ref, str]] = field(default_factory=list)  # the windows that were not to be read, and why
    failure: str = ""  # why a window and all that could stand in for it were not to be read


class Reader(TorchDataset[Read]):
    """Reads the windows of a step; item `step` is a pure function of `step`, in whichever process."""

    def __init__(self, order: Order, sources: Sequence[Source | None]) -> None:
        """`sources`: by dataset of the run; None for those that another process reads."""
        self.order, self.sources = order, sources

    def __getitem__(self, step: int) -> Read:
        read = Read(examples=[0] * self.order.windows)
        self.finish(step, read)
        return read

    def finish(self, step: int, read: Read) -> None:
        """Read what is yet to be read and this process has the sources of."""
        length, _ = self.order.begin(step)
        refs = cache(lambda again: self.order.refs(step, length, again))
        for place, example in enumerate(read.examples):
            if isinstance(example, int) and not read.failure:
                read.examples[place] = self._example(refs, place, length, example, read)

    def _example(
        self, refs: Callable[[int], list[Ref]], place: int, length: int, first: int, read: Read
    ) -> Example | int:
        """The window of a place, or one that stands in for it; a try that another process has the source of."""
        for again in range(first, TRIES):
            ref = refs(again)[place]
            source = self.sources[ref.dataset]
            if source is None:
                return again
            try:
                return source.window(ref.row, ref.start, length, self.order.stage.views)
            except ShardError as error:
                read.damage.append((ref, str(error)))
        read.failure = f"{TRIES} windows could not be read, one after the other; the last: {read.damage[-1][1]}"
        return TRIES


class Feed:
    """The batches of a stage, from a step on."""

    def __init__(self, order: Order, library: Library, reads: Iterator[Read]) -> None:
        """See `feeding`."""
        self.order, self.library, self._reads = order, library, reads
        self._reader = Reader(order, library.sources)

    def read(self, step: int) -> list[Example]:
        """The windows of the next step. Raises ShardError where they and what could stand in for them are damaged."""
        read = next(self._reads)
        self._reader.finish(step, read)
        damage = self.library.damage
        damage.windows += len(read.damage)
        for ref, why in read.damage:
            sample = ref.dataset, ref.row
            if sample not in damage.samples:
                damage.samples.add(sample)
                said = f"warning: other windows stand in for those of a damaged sample: {why}"
                console.print(said, markup=False, highlight=False, soft_wrap=True)
        if read.failure:
            raise ShardError(read.failure)
        return [example for example in read.examples if isinstance(example, Example)]


@contextmanager
def feeding(order: Order, library: Library, first: int, workers: int = 0) -> Iterator[Feed]:
    """The batches of the steps from `first` on, to the stage's end; `workers` processes read ahead, or a thread.

    What comes out does not depend on their number. What is in memory is not copied to them.
    """
    shared = [None if isinstance(source, LatentDataset) else source for source in library.sources]
    read_here = not workers or all(shared[i] is None for i in order.datasets)
    reader = Reader(order, library.sources if read_here else shared)
    with (
        closing(in_order(reader, range(first, order.stage.steps), 0 if read_here else workers)) as items,
        one_ahead(items) if read_here else nullcontext(items) as reads,
    ):
        yield Feed(order, library, reads)
