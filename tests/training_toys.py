"""`gwm train` with tiny recipes in processes of their own: real signals, real limits, real exit codes.

The processes are forked from one that has imported everything and trained nothing, so each starts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import torch
from conftest import tiny_chunk, tiny_recipe
from toy_shards import write

from gwm.cli import main as command_line
from gwm.pipelines import metrics, recipe, train
from gwm.pipelines.recipe import Recipe, Stage
from gwm.pipelines.state import newest_state, state_files

FORKING = multiprocessing.get_context("forkserver")
LATER = ["torch._dynamo", "pandas"]  # which torch and pyarrow import when they are first used
FORKING.set_forkserver_preload(["gwm.cli.main", "gwm.pipelines.train", *LATER])
PATIENCE = 120.0  # s that a loaded machine may take for what takes a second


def nothing() -> None:
    """What is done to most processes before they train."""


@dataclass(frozen=True)
class Job:
    """A tiny training: `gwm train` with these."""

    data: Path
    out: Path
    autoencoder: Path
    recipe: Recipe
    interval: float = 1e9  # s between two states
    prepare: Callable[[], None] = nothing  # what the process does first

    @property
    def arguments(self) -> list[str]:
        given = {"data": self.data, "out": self.out, "autoencoder": self.autoencoder, "device": "cpu"}
        return ["train", *(f"--{name}={value}" for name, value in given.items()), "--preview-every=0"]

    @property
    def log(self) -> Path:
        """What its processes printed."""
        return self.out.with_name(f"{self.out.name}.log")

    def here(self, stop_after: int | None = None) -> train.TrainResult:
        """Train in this process."""
        return train.train(self.data, self.out, self.recipe, self.autoencoder, "cpu", stop_after)


def work(job: Job) -> None:
    """The command, in a process of its own."""
    log = os.open(job.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    torch.set_num_threads(1)
    recipe.make_recipe = lambda *_: job.recipe
    train.SAVE_INTERVAL, train.METRICS_EVERY = job.interval, 1
    sys.argv = ["gwm", *job.arguments]
    job.prepare()
    command_line.main()


@contextmanager
def process(job: Job) -> Iterator[multiprocessing.process.BaseProcess]:
    """The command while it works; killed at the end if it still does."""
    child = FORKING.Process(target=work, args=(job,))
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def finish(job: Job) -> tuple[int | None, str]:
    """The command to its end: exit code, and what it printed."""
    before = job.log.stat().st_size if job.log.exists() else 0
    with process(job) as child:
        child.join(PATIENCE)
        code = child.exitcode
    return code, job.log.read_bytes()[before:].decode()


def position(out: Path) -> int:
    """Of the newest state, by its name; 0 where there is none."""
    return max((int(file.stem.removeprefix("state-")) for file in state_files(out)), default=0)


def wait_for(happened: Callable[[], bool], child: multiprocessing.process.BaseProcess) -> None:
    """Until that is so, while the process works."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert child.is_alive(), f"ended with {child.exitcode}"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


def same_end(out: Path, whole: Path) -> None:
    """Both runs ended with the same weights, averages, moments and steps, and no half-written file is left."""
    (found, header), (wanted, other) = newest_state(out), newest_state(whole)
    assert header == other
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())
    assert {name.partition(".")[0] for name in found} == {"model", "ema", "adam"}
    assert [line.position for line in metrics.read(out / metrics.FILE)][-1] == header["position"]
    assert not leftovers(out)


def leftovers(out: Path) -> list[Path]:
    """Temporary files."""
    return [file for file in out.rglob("*") if ".tmp" in file.name]


def plain(steps: int) -> Recipe:
    """All stages of one view, so many steps each, of a model of two layers."""
    four = tiny_recipe(steps)
    return replace(four, model=replace(four.model, depth=2))


def five_stages(steps: int) -> Recipe:
    """All stages, the last with two views."""
    four = plain(steps)
    third = Stage("3", steps, (4, 6), 2, actions=True, views=2)
    return replace(four, variant="mview", stages=(*four.stages, third), view_names=("front", "back"))


def two_views(out: Path) -> Path:
    """Four training samples of two views."""
    chunks = [tiny_chunk(i, frames=12) for i in range(4)]
    frames = [{"front": c.frames["front"], "back": c.frames["front"][::-1]} for c in chunks]
    return write(out, [replace(c, frames=f) for c, f in zip(chunks, frames, strict=True)])


def die(method: str, name: str) -> None:
    """Let this process be killed just before Path's `method`, replace or unlink, gives or takes a name like `name`."""
    known = getattr(Path, method)

    def deadly(path: Path, *arguments: Path, **options: bool) -> object:
        if fnmatch((path, *arguments)[-1].name, name):
            os.kill(os.getpid(), signal.SIGKILL)
        return known(path, *arguments, **options)

    setattr(Path, method, deadly)


def limit(size: int) -> None:
    """No file may grow beyond `size` bytes, as if the disk were full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def resident() -> int:
    """Resident memory of this process, kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def tell_memory(steps: tuple[int, ...]) -> None:
    """Print the resident memory when these steps have been learned."""
    learn, count = train.learn, 0

    def told(*arguments: object) -> object:
        nonlocal count
        done, count = learn(*arguments), count + 1
        if count in steps:
            print(f"step {count}: {resident()} kB", flush=True)
        return done

    train.learn = told
