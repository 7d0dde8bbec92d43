"""Training in the paper's stages: one straight loop, resumable by the same command."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gwm.core import ConfigError
from gwm.core.actions import only_modes
from gwm.core.autoencoder import Autoencoder
from gwm.core.ema import ema_decay, update_ema
from gwm.core.seeds import seeded_generator
from gwm.core.world_model import draw_step, training_loss
from gwm.pipelines.autoencoder import load_autoencoder
from gwm.pipelines.checkpoint import load_checkpoint, load_weights
from gwm.pipelines.device import choose_device
from gwm.pipelines.latents import LatentDataset, encode_dataset, weights_hash
from gwm.pipelines.progress import Ticker
from gwm.pipelines.recipe import Recipe, Stage, learning_rate
from gwm.pipelines.run import Learner, Run, make_learner
from gwm.pipelines.state import newest_state, restore_state, trainable
from gwm.shards.index import open_dataset
from gwm.shards.reader import WindowSchedule

SAVE_INTERVAL = 180.0  # s
METRICS_EVERY = 10  # steps


@dataclass(frozen=True)
class TrainResult:
    """Where a run ended."""

    run: str
    steps: int  # done, over all stages
    finished: bool
    seconds: float  # of this call


@dataclass
class Data:
    """What the steps read: the latents and the order of windows."""

    latents: LatentDataset
    schedule: WindowSchedule

    def batch(self, stage: Stage, step: int, generator: torch.Generator) -> tuple[Tensor, list[str], Tensor]:
        """The batch of a step: window length drawn from the stage's, then the schedule's windows of that length."""
        length = stage.frames[int(torch.randint(len(stage.frames), (), generator=generator))]
        return self.latents.batch(self.schedule.batch(step, stage.batch, length), length)


def drop_conditions(
    texts: list[str], actions: Tensor, recipe: Recipe, stage: Stage, generator: torch.Generator
) -> tuple[list[str], Tensor | None]:
    """Empty a share of the texts, and leave each sample one kind of action or none (Vista).

    Not in the paper: a share of the samples loses both, since that is what guidance subtracts.
    """
    b = len(texts)
    empty = torch.rand(b, generator=generator) < recipe.text_dropout
    if not stage.actions:
        return _emptied(texts, empty), None
    first = int(torch.randint(len(recipe.action_modes), (), generator=generator))
    modes = [recipe.action_modes[(first + i) % len(recipe.action_modes)] for i in range(b)]
    none = torch.rand(b, generator=generator) < recipe.action_dropout
    both = torch.rand(b, generator=generator) < recipe.joint_dropout
    modes = ["none" if drop else mode for mode, drop in zip(modes, (none | both).tolist(), strict=True)]
    return _emptied(texts, empty | both), only_modes(actions, modes)


def _emptied(texts: list[str], empty: Tensor) -> list[str]:
    return ["" if drop else text for text, drop in zip(texts, empty.tolist(), strict=True)]


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


def run_stage(run: Run, learner: Learner, index: int, step: int, data: Data, last: float, signals: list[int]) -> int:
    """Train stage `index` from `step` to its end; the state is saved on the way and at the end.

    Returns the steps done: fewer than the stage's if a signal came, or `last` steps over all stages are done.
    """
    recipe, stage = run.recipe, run.recipe.stages[index]
    model, optimizer, device = learner.model, learner.optimizer, next(learner.model.dit.parameters()).device
    before = sum(s.steps for s in recipe.stages[:index])
    saved = measured = time.monotonic()
    first = measured_step = step
    title = f"stage {stage.name}"
    with Ticker(title, stage.steps, step) as ticker:
        while step < stage.steps and not signals and before + step < last:
            generator = seeded_generator(recipe.seed, 0, index, step)
            z_0, texts, actions = data.batch(stage, step, generator)
            texts, kept_actions = drop_conditions(texts, actions, recipe, stage, generator)
            draw = draw_step(z_0.shape, model.config, recipe.condition_probabilities, generator).to(device)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, stage, step)

            # one training step
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                text, pooled = model.encode_text(texts)
                kept_actions = None if kept_actions is None else kept_actions.to(device)
                loss = training_loss(model.dit, z_0.to(device), text, pooled, kept_actions, draw)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(trainable(model).values(), recipe.gradient_clip))
            if not math.isfinite(norm):
                raise ConfigError(
                    f"{title}, step {step}: loss {loss.item()} or its gradient is not finite; not applied"
                )
            optimizer.step()
            update_ema(learner.ema, trainable(model), ema_decay(before + step, recipe.ema))
            step += 1

            if step % METRICS_EVERY == 0 or step == stage.steps:
                now = time.monotonic()
                values = {"loss": loss.item(), "gradient_norm": norm, "lr": optimizer.param_groups[0]["lr"]}
                seconds = (now - measured) / (step - measured_step)
                run.log(stage=stage.name, step=step, position=before + step, **values, seconds_per_step=seconds)
                measured, measured_step = now, step
            ticker.advance(note=f"loss {loss.item():.4f}")
            if time.monotonic() - saved > SAVE_INTERVAL:
                run.save(learner, index, step)
                saved = time.monotonic()
        if step > first:
            run.save(learner, index, step)
    return step


def train(
    data: Path,
    out: Path,
    recipe: Recipe,
    autoencoder: Path | None = None,
    device: str = "auto",
    stop_after: int | None = None,
) -> TrainResult:
    """Run all stages of `recipe` on the shards at `data`, into the folder `out`.

    autoencoder: a file or run of `gwm autoencoder`; the embedded checkpoint's where None. The same call again
    continues a stopped run (on a CPU with as many threads, bit for bit); finished stages are skipped.
    `stop_after` ends after so many steps in all.
    """
    if recipe.model.encoders != "nano":
        raise ConfigError(f"this version trains --preset nano alone; {recipe.preset} is for `gwm info`")
    began = time.monotonic()
    place, dataset = choose_device(device), open_dataset(data)
    schedules = [
        WindowSchedule(dataset, "train", recipe.seed + i, min_length=max(stage.frames))
        for i, stage in enumerate(recipe.stages)
    ]
    encoder = Autoencoder(recipe.model.channels, recipe.model.autoencoder_width).requires_grad_(False).to(place)
    if autoencoder is None:
        embedded = load_checkpoint(None, device)
        load_weights(encoder, embedded.model.codec.state_dict(), embedded.name)
    else:
        load_autoencoder(autoencoder, encoder)
    run = Run(out, recipe, dataset, weights_hash(encoder))
    state = newest_state(out)
    index, step = (0, 0) if state is None else (int(state[1]["stage"]), int(state[1]["step"]))
    learner = make_learner(recipe, index, place, None)
    learner.model.codec.load_state_dict(encoder.state_dict())
    if state is not None:
        restore_state(state[0], learner.model, learner.optimizer, learner.ema, str(out))
    latents = encode_dataset(dataset, encoder, recipe.size, out)
    run.truncate_metrics(0 if state is None else int(state[1]["position"]))

    last = math.inf if stop_after is None else stop_after
    with stop_on_signal() as signals:
        while True:
            step = run_stage(run, learner, index, step, Data(latents, schedules[index]), last, signals)
            if step < recipe.stages[index].steps or index + 1 == len(recipe.stages) or signals:
                break
            index, step = index + 1, 0
            learner = make_learner(recipe, index, place, learner)
    done = sum(s.steps for s in recipe.stages[:index]) + step
    return TrainResult(str(out), done, done == sum(s.steps for s in recipe.stages), time.monotonic() - began)
