"""Training in the paper's stages: one straight loop, resumable by the same command."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gwm.core import ConfigError
from gwm.core.distill import distillation_errors
from gwm.core.ema import ema_decay, update_ema
from gwm.core.flow import mean_over_predicted
from gwm.core.sampler import Conditions
from gwm.core.world_model import Draw, training_errors
from gwm.pipelines import metrics
from gwm.pipelines.boards import open_boards
from gwm.pipelines.datasets import AS_FOUND, Reading, choose_reads, open_library, orders
from gwm.pipelines.device import choose_device
from gwm.pipelines.draws import Drawn, drawing
from gwm.pipelines.feed import Feed, Order, feeding
from gwm.pipelines.meter import Clock, LossMeter, peak_memory
from gwm.pipelines.origin import Origin, begin, find_codec, read_origin
from gwm.pipelines.progress import Ticker
from gwm.pipelines.recipe import Recipe, Stage, learning_rate
from gwm.pipelines.run import Learner, Run, alone, make_learner
from gwm.pipelines.sources import Batch, EmbeddedTexts, Library
from gwm.pipelines.state import newest_state, restore_state, trainable
from gwm.pipelines.team import Team, join_team
from gwm.pipelines.watch import Showing, Watch
from gwm.shards.index import open_dataset

SAVE_INTERVAL = 180.0  # s
METRICS_EVERY = 10  # steps
PLAIN = Showing()


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended."""

    run: str
    steps: int  # done, over all stages
    finished: bool
    seconds: float  # of this call
    replaced: int = 0  # windows of this call that were damaged, so that others stood in for them


class Step(NamedTuple):
    """A step before its update."""

    norm: float  # of the gradient, before clipping
    seen: list[tuple[Tensor, Draw]]  # errors (b t k h w) and draws of this process's passes


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying, so that a step can end and be saved."""
    received: list[int] = []
    old = {s: signal.signal(s, lambda number, _: received.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def learn(learner: Learner, recipe: Recipe, stage: Stage, batch: Batch, drawn: Drawn, team: Team) -> Step:
    """Forward and backward of one step, in `stage.accumulate` passes; nothing is updated.

    What is random was drawn for the whole batch, and its loss is a sum over processes and passes: the gradient is that
    of one process in one pass.
    """
    model, device = learner.model, next(learner.model.dit.parameters()).device
    own, whole = team.part_of(stage.batch, stage.accumulate), drawn.draw
    texts, actions = drawn.drops.apply(batch.texts, batch.actions, own)
    predicted = whole.m_c.sum().to(device)
    team.add([predicted])
    learner.optimizer.zero_grad(set_to_none=True)
    seen = []
    size = len(texts) // stage.accumulate
    for rows in (slice(first, first + size) for first in range(0, len(texts), size)):
        draw = whole.part(rows).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            given = None if actions is None else actions[rows].to(device)
            z_0 = batch.z_0[rows].to(device)
            errors = _errors(learner, z_0, texts[rows], given, batch.embedded, recipe.guidance, draw)
        mean_over_predicted(errors, draw.m_c, predicted).backward()
        seen.append((errors.detach(), draw))
    parameters = trainable(model).values()
    team.add_gradients(parameters)
    norm = team.clip_gradients(parameters, recipe.gradient_clip)
    return Step(float(norm), seen)


def _errors(
    learner: Learner, z_0: Tensor, texts: list[str], actions: Tensor | None, embedded: EmbeddedTexts | None,
    guidance: float, draw: Draw,
) -> Tensor:  # fmt: skip
    """Squared errors (b t k h w) against the data's flow, or where there is a teacher against what it does."""
    model, teacher = learner.model, learner.teacher
    given = Conditions(*(embedded or model).encode_text(texts), actions)
    if teacher is None:
        return training_errors(model.dit, z_0, *given, draw)
    encoder = embedded or teacher
    told = Conditions(*encoder.encode_text(texts), actions)
    untold = Conditions(*encoder.encode_text([""] * len(texts)), None)
    return distillation_errors(model.dit, teacher.dit, z_0, given, told, untold, guidance, draw)


def run_stage(
    run: Run, learner: Learner, index: int, step: int, feed: Feed, last: float, signals: list[int],
    team: Team, watch: Watch | None,
) -> int:  # fmt: skip
    """Train stage `index` from `step` to its end; the state is saved on the way and at the end.

    Returns the steps done: fewer than the stage's if a signal came, or `last` steps over all stages are done.
    """
    recipe, stage = run.recipe, run.recipe.stages[index]
    model, optimizer, device = learner.model, learner.optimizer, next(learner.model.dit.parameters()).device
    before, first, saved = sum(s.steps for s in recipe.stages[:index]), step, time.monotonic()
    meter, clock = LossMeter(max(stage.frames), device), Clock()
    title, damage = f"stage {stage.name}", feed.library.damage
    replaced, norm = damage.windows, math.nan  # of the last step that was applied
    (stopped,) = team.any(bool(signals))
    with (
        drawing(recipe, feed.order, step, team) as drawn,
        Ticker(title, stage.steps, step, silent=not team.leads) as ticker,
    ):
        while step < stage.steps and before + step < last and not stopped:
            with clock.waiting():
                examples, chance = feed.read(step), next(drawn)
            batch = feed.library.batch(examples)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, stage, step)

            # one training step
            done = learn(learner, recipe, stage, batch, chance, team)
            if math.isfinite(done.norm):
                norm = done.norm
                optimizer.step()
                update_ema(learner.ema, trainable(model), ema_decay(before + step, recipe.ema))
                for errors, draw in done.seen:
                    meter.add(errors, draw, model.config.patch)
            else:
                run.skip(learner, f"{title}, step {step}: the gradient is {done.norm}", team.gather(batch.keys))
            step += 1

            clock.count(team.size * batch.z_0[:, :, :, 0].numel() // model.config.patch**2)
            if (step % METRICS_EVERY == 0 or step == stage.steps) and not meter.empty:
                count = torch.tensor(float(damage.windows - replaced), device=device)
                team.add([*meter.sums.values(), count])
                replaced = damage.windows
                line = _measured(stage, step, before, meter, clock, norm, optimizer, device, int(count))
                if watch is not None:
                    watch.log(line)
                ticker.note = f"loss {line.loss:.4f}"
            ticker.advance()
            if watch is not None:
                watch.step(learner, stage, before + step)
            stopped, due = team.any(bool(signals), time.monotonic() - saved > SAVE_INTERVAL)
            if due:
                run.save(learner, index, step)
                saved = time.monotonic()
        if step > first:
            run.save(learner, index, step)
        if step == stage.steps:
            run.mark_finished(stage)
    return step


def _measured(
    stage: Stage, step: int, before: int, meter: LossMeter, clock: Clock, norm: float,
    optimizer: torch.optim.Optimizer, device: torch.device, replaced: int,
) -> metrics.Metrics:  # fmt: skip
    """What is logged of the steps since the last line."""
    loss, by_tau, by_frame, (visible, hidden) = meter.take()
    seconds, waiting, tokens = clock.take()
    return metrics.Metrics(
        stage.name, step, before + step, loss, by_tau, visible, hidden, by_frame, norm, optimizer.param_groups[0]["lr"],
        seconds, waiting, tokens, peak_memory(device), time.time(), replaced,
    )  # fmt: skip


def train(
    data: Path | Sequence[Path],
    out: Path,
    recipe: Recipe,
    autoencoder: Path | None = None,
    device: str = "auto",
    stop_after: int | None = None,
    skip_nonfinite: int = 0,
    showing: Showing = PLAIN,
    fsdp: bool = False,
    reading: Reading = AS_FOUND,
    start: Path | None = None,
    compiled: bool = False,
) -> TrainResult:
    """Run all stages of `recipe` on the shards at `data`, one dataset or several, into the folder `out`.

    autoencoder: a file or run of `gwm autoencoder`; the embedded checkpoint's where None. start: the checkpoint or run
    whose weights the first stage begins with, and whose autoencoder it keeps; a student learns from it. reading: see
    `choose_reads`. The same call again continues a stopped run (on a CPU with as many threads, bit for bit); finished
    stages are skipped.
    `stop_after` ends after so many steps in all. A step whose gradient is not finite is not applied: the first
    raises ConfigError with the windows it read, unless `skip_nonfinite` allows so many in the whole run.
    Under `torchrun` each process learns from its part of every batch, read from shards of its own; a run may go on
    with another number of processes. `fsdp`: each holds only its part of the weights, averages and moments.
    `compiled`: the blocks by torch.compile, which changes results by rounding. `showing`: previews and boards.
    """
    paths = [data] if isinstance(data, Path) else list(data)
    origin = None if start is None else read_origin(start)
    recipe = begin(recipe, origin)
    if fsdp and recipe.stages[0].student_steps is not None:
        raise ConfigError("--fsdp spreads no teacher: distil without it, every process with the whole of both models")
    with join_team(choose_device(device), fsdp) as team, ExitStack() as held:
        return _train_together(
            paths, out, recipe, autoencoder, origin, stop_after, skip_nonfinite, reading, showing, compiled, team, held
        )


def _train_together(
    paths: Sequence[Path], out: Path, recipe: Recipe, autoencoder: Path | None, origin: Origin | None,
    stop_after: int | None, skip_nonfinite: int, reading: Reading, showing: Showing, compiled: bool, team: Team,
    held: ExitStack,
) -> TrainResult:  # fmt: skip
    """See `train`; every process of the team runs this. `held` keeps the folder's lock to the end."""
    began, datasets, place = time.monotonic(), [open_dataset(path) for path in paths], team.device
    found = orders(recipe, datasets, team)
    codec = find_codec(recipe, autoencoder, origin, datasets, place)
    reads = choose_reads(recipe, datasets, found, codec, reading, team.leads)
    with team.leader_first():
        if team.leads:
            held.enter_context(alone(out))
        run = Run(out, recipe, datasets, codec.sha256, skip_nonfinite, team.leads, origin)
        library = open_library(recipe, datasets, reads, codec, out, place)
    state = newest_state(out)
    index, step = (0, 0) if state is None else (int(state[1]["stage"]), int(state[1]["step"]))
    learner = make_learner(recipe, index, place, None, team.spread, origin, compiled)
    if codec.network is not None:
        learner.model.codec.load_state_dict(codec.network.state_dict())
    position = 0 if state is None else int(state[1]["position"])
    if state is not None:
        restore_state(state[0], learner.model, learner.optimizer, learner.ema, str(out))
        learner.skipped = int(state[1].get("skipped", 0))
        del state  # as large as the model and its moments
    last = math.inf if stop_after is None else stop_after
    with stop_on_signal() as signals, _watching(run, library, found, position, showing, team.spread) as watch:
        while True:
            with feeding(found[index], library, step, reading.workers) as feed:
                step = run_stage(run, learner, index, step, feed, last, signals, team, watch)
            (stopped,) = team.any(bool(signals))
            if step < recipe.stages[index].steps or index + 1 == len(recipe.stages) or stopped:
                break
            index, step = index + 1, 0
            learner = make_learner(recipe, index, place, learner, team.spread, compiled=compiled)
    team.wait()  # for what the leader writes
    done = sum(s.steps for s in recipe.stages[:index]) + step
    replaced = sum(team.gather([library.damage.windows]))
    return TrainResult(str(out), done, done == recipe.steps, time.monotonic() - began, replaced)


@contextmanager
def _watching(
    run: Run, library: Library, found: Sequence[Order], position: int, showing: Showing, spread: bool
) -> Iterator[Watch | None]:
    """What the leader shows of the run from `position` on; the others only help to draw what a spread model sees."""
    if not run.leads:
        board = open_boards(run.folder, tensorboard=False, wandb=False)
        yield (
            Watch(run.folder, run.recipe, library, found, board, showing.preview_every, leads=False) if spread else None
        )
        return
    metrics.truncate(run.folder / metrics.FILE, position)
    board = open_boards(run.folder, showing.tensorboard, showing.wandb, position)
    try:
        yield Watch(run.folder, run.recipe, library, found, board, showing.preview_every)
    finally:
        board.close()
