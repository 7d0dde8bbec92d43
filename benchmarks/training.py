"""The shares of a training step of nano in stage 2: from latents in memory, and from JPEG shards with one worker.

    python -m benchmarks.training [--json OUT]

Two trainings of a small rendered world by the product's own loop; the functions that make up a step are timed from
outside. The figures are medians over blocks of ten steps, since every tenth step logs a line. The first block does not
count, nor do saves and previews, which come minutes apart.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from gwm.core.world_model import WorldModel
from gwm.pipelines import train as loop
from gwm.pipelines.datasets import Reading
from gwm.pipelines.feed import Feed
from gwm.pipelines.meter import LossMeter
from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.progress import Ticker
from gwm.pipelines.recipe import Recipe
from gwm.pipelines.recipes import NANO_LONG
from gwm.pipelines.sources import Library
from gwm.pipelines.team import Team
from gwm.pipelines.watch import Showing, Watch
from gwm.shards.files import write_json
from gwm.shards.sources.world import WorldSource

WAIT = "data"
PARTS: dict[str, tuple[tuple[Any, str], ...]] = {  # of a step: where each is done; none is done inside another
    WAIT: ((Feed, "read"),),  # waiting for windows
    "encode": ((Library, "batch"),),  # where windows are latents: putting them side by side
    "forward": ((WorldModel, "encode_text"), (loop, "training_errors")),
    "backward": ((torch.Tensor, "backward"),),
    "optimizer": ((torch.optim.AdamW, "zero_grad"), (Team, "clip_gradients"), (torch.optim.AdamW, "step")),
    "EMA": ((loop, "update_ema"),),
    "logging": ((LossMeter, "add"), (loop, "_measured"), (Watch, "log"), (Watch, "step"), (Ticker, "advance")),
}
OTHER = "other"  # above all the noise
READINGS = {"latents in memory": Reading(), "JPEG shards, 1 worker": Reading(stream=True, workers=1)}
SCENES, FRAMES = 8, 80  # of the world
BLOCK = loop.METRICS_EVERY
BOOKKEEPING, MOST_BOOKKEEPING = ("optimizer", "EMA", "logging"), 0.10  # parts of a step, and the share they may take
MOST_WAIT = 0.05


@dataclass
class Stopwatch:
    """Seconds spent in each part, as they add up over a training."""

    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    marks: list[tuple[float, dict[str, float]]] = field(default_factory=list)  # time and `spent` as each step begins

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with its time added to a part."""

        @wraps(call)
        def measured(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            if part == WAIT:  # what a step begins with
                self.marks.append((began, dict(self.spent)))
            try:
                return call(*args, **kwargs)
            finally:
                self.spent[part] += time.perf_counter() - began

        return measured

    @contextmanager
    def running(self) -> Iterator[None]:
        """All parts are timed inside."""
        with ExitStack() as stack:
            for part, places in PARTS.items():
                for owner, name in places:
                    stack.enter_context(patch.object(owner, name, self.timed(part, getattr(owner, name))))
            yield

    def blocks(self) -> list[dict[str, float]]:
        """Seconds of a step's parts, the mean of each block of steps but the first; together they are the step."""
        found = []
        ends = self.marks[BLOCK::BLOCK]
        for (began, before), (ended, after) in pairwise(ends):
            parts = {part: (after[part] - before[part]) / BLOCK for part in PARTS}
            found.append(parts | {OTHER: (ended - began) / BLOCK - sum(parts.values())})
        return found


def shares(blocks: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over the blocks: seconds of a step, and the share of each part in it."""
    parts = {part: median(block[part] / sum(block.values()) for block in blocks) for part in blocks[0]}
    together = median(sum(block[part] for part in BOOKKEEPING) / sum(block.values()) for block in blocks)
    return {
        "seconds_per_step": median(sum(block.values()) for block in blocks), "blocks": len(blocks), "shares": parts,
        "optimizer_ema_logging": together,
    }  # fmt: skip


def measure(
    data: Path, folder: Path, recipe: Recipe, reading: Reading, autoencoder: Path | None = None
) -> dict[str, Any]:
    """The shares of a step in a training of `recipe`, of one stage of at least 2 blocks of steps and one step more."""
    watch = Stopwatch()
    with watch.running():
        loop.train(data, folder, recipe, autoencoder, "cpu", showing=Showing(preview_every=0), reading=reading)
    return shares(watch.blocks())


def nano(blocks: int) -> Recipe:
    """Stage 2 of nano for a block that does not count, so many that do, and the step that ends the last."""
    return replace(NANO_LONG, stages=(replace(NANO_LONG.stages[-1], steps=(blocks + 1) * BLOCK + 1),))


def table(measured: dict[str, dict[str, Any]]) -> str:
    """A line for each part, a column for each way to read, and the goals below."""
    lines = ["share of a step".ljust(26) + "".join(name.rjust(24) for name in measured)]
    for part in (*PARTS, OTHER):
        lines.append(part.ljust(26) + "".join(f"{100 * m['shares'][part]:.1f} %".rjust(24) for m in measured.values()))
    lines.append("seconds".ljust(26) + "".join(f"{m['seconds_per_step']:.3f}".rjust(24) for m in measured.values()))
    for name, m in measured.items():
        lines.append(
            f"{name}: {', '.join(BOOKKEEPING)} together {100 * m['optimizer_ema_logging']:.1f} % "
            f"(goal: at most {100 * MOST_BOOKKEEPING:.0f} %), waiting for data {100 * m['shares'][WAIT]:.2f} % "
            f"(goal: under {100 * MOST_WAIT:.0f} %)"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, render, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the record")
    parser.add_argument("--blocks", type=int, default=6, help="of ten steps, those that count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe, load = nano(given.blocks), os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        preprocess(WorldSource(SCENES, frames=FRAMES, size=recipe.size), folder / "world")
        measured = {
            title: measure(folder / "world", folder / f"run-{i}", recipe, reading)
            for i, (title, reading) in enumerate(READINGS.items())
        }
    print(table(measured))
    if given.json:
        about = {"threads": given.threads, "torch": torch.__version__, "load_before": load}
        write_json(given.json, {**about, "load_after": os.getloadavg(), "measured": measured})


if __name__ == "__main__":
    main()
