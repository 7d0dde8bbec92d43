"""Training in the paper's stages: one straight loop, resumable by the same command."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gwm.core import ConfigError
from gwm.core.actions import only_modes
from gwm.core.ema import ema_decay, start_ema, update_ema
from gwm.core.world_model import WorldModel, draw_step, training_loss
from gwm.pipelines.autoencoder import load_autoencoder, step_generator
from gwm.pipelines.checkpoint import Training, choose_device, load_checkpoint, save_checkpoint
from gwm.pipelines.latents import LatentDataset, encode_dataset
from gwm.pipelines.progress import Ticker
from gwm.pipelines.recipe import Recipe, Stage, learning_rate
from gwm.pipelines.state import newest_state, restore_state, save_state, trainable
from gwm.shards.files import make_folder, replacing, write_json
from gwm.shards.index import Dataset, open_dataset
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
    """Empty a share of the texts, and leave each sample one kind of action or none (Vista)."""
    b = len(texts)
    empty = torch.rand(b, generator=generator) < recipe.text_dropout
    texts = ["" if drop else text for text, drop in zip(texts, empty.tolist(), strict=True)]
    if not stage.actions:
        return texts, None
    first = int(torch.randint(len(recipe.action_modes), (), generator=generator))
    modes = [recipe.action_modes[(first + i) % len(recipe.action_modes)] for i in range(b)]
    none = torch.rand(b, generator=generator) < recipe.action_dropout
    modes = ["none" if drop else mode for mode, drop in zip(modes, none.tolist(), strict=True)]
    return texts, only_modes(actions, modes)


@dataclass
class Learner:
    """What a training step changes."""

    model: WorldModel
    ema: dict[str, Tensor]
    optimizer: torch.optim.Optimizer


def make_learner(recipe: Recipe, index: int, device: torch.device, before: Learner | None) -> Learner:
    """The learner at the start of stage `index`, with all weights and averages of the stage before it.

    What the stage brings is initialised from (seed, stage) and zero-gated, so the loss does not jump.
    Not in the paper: Adam starts anew with each stage.
    """
    torch.manual_seed(recipe.seed + 1000 * index)
    model = WorldModel(recipe.stages[index].model(recipe.model)).to(device)
    if before is not None:
        missing, surplus = model.load_state_dict(before.model.state_dict(), strict=False)
        brought = ("temporal", "reconstruction", "action")
        strange = [name for name in missing if not any(word in name for word in brought)] + list(surplus)
        assert not strange, f"the stage before does not fit: {strange}"
    parameters = trainable(model)
    ema = start_ema(parameters) | (before.ema if before else {})
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
    )
    return Learner(model, ema, optimizer)


class Run:
    """A run's folder: recipe, states, metrics, stage markers and the released checkpoint."""

    def __init__(self, folder: Path, recipe: Recipe, data: Dataset) -> None:
        self.folder, self.recipe = make_folder(folder), recipe
        self.data = f"{data.source} {data.path.name} sha256:{data.index['sha256']}"
        record = json.loads(json.dumps({"recipe": asdict(recipe), "data": data.index["sha256"]}))
        file = folder / "recipe.json"
        if file.is_file():
            old = json.loads(file.read_text())
            changed = sorted(k for k in record["recipe"] if record["recipe"][k] != old["recipe"].get(k))
            changed += ["data"] if record["data"] != old["data"] else []
            if changed:
                raise ConfigError(f"{folder} holds a run with other settings ({', '.join(changed)}); choose another -o")
        else:
            write_json(file, record)

    def truncate_metrics(self, done: int) -> None:
        """Forget metrics of steps that a killed run made after its last saved state."""
        file = self.folder / "metrics.jsonl"
        if file.is_file():
            lines = [line for line in file.read_text().splitlines() if _position(line) <= done]
            with replacing(file) as temporary:
                temporary.write_text("".join(line + "\n" for line in lines))

    def log(self, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a") as f:
            f.write(json.dumps(values) + "\n")

    def save(self, learner: Learner, index: int, step: int) -> None:
        """Write the state after `step` steps of stage `index`, and model.safetensors: its EMA weights in fp16."""
        recipe = self.recipe
        done = {s.name: s.steps for s in recipe.stages[:index]} | {recipe.stages[index].name: step}
        save_state(
            self.folder, sum(done.values()), learner.model, learner.optimizer, learner.ema, stage=index, step=step
        )
        frames = max(recipe.stages[index].frames)
        training = Training(
            recipe.size, frames, recipe.variant, recipe.preset, recipe.seed, recipe.guidance, done, (self.data,)
        )
        average = WorldModel(learner.model.config)
        average.load_state_dict(learner.model.state_dict() | learner.ema)
        save_checkpoint(self.folder / "model.safetensors", average, training, torch.float16)


def _position(line: str) -> int:
    try:
        return int(json.loads(line)["position"])
    except (ValueError, KeyError):
        return 1 << 62  # a line that a kill cut short


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


def run_stage(run: Run, learner: Learner, index: int, step: int, data: Data, stop_after: int | None) -> int:
    """Train stage `index` from `step` to its end; the state is saved on the way and at the end.

    Returns the steps done: fewer than the stage's if a signal came, or `stop_after` steps in all are done.
    """
    recipe, stage = run.recipe, run.recipe.stages[index]
    model, optimizer, device = learner.model, learner.optimizer, next(learner.model.dit.parameters()).device
    before = sum(s.steps for s in recipe.stages[:index])
    saved = measured = time.monotonic()
    first, title = step, f"stage {stage.name}"
    with Ticker(title, stage.steps, step) as ticker, stop_on_signal() as signals:
        while step < stage.steps and not signals and (stop_after is None or before + step < stop_after):
            generator = step_generator(recipe.seed, 0, index, step)
            z_0, texts, actions = data.batch(stage, step, generator)
            texts, kept_actions = drop_conditions(texts, actions, recipe, stage, generator)
            draw = draw_step(z_0.shape, model.config, recipe.condition_probabilities, generator).to(device)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, stage, step)

            # one training step
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                text, pooled = model.text.encode(texts)
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
                seconds = (now - measured) / METRICS_EVERY
                run.log(stage=stage.name, step=step, position=before + step, **values, seconds_per_step=seconds)
                measured = now
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
    continues a stopped run, bit for bit; finished stages are skipped. `stop_after` ends after so many steps in all.
    """
    began = time.monotonic()
    place, dataset = choose_device(device), open_dataset(data)
    run = Run(out, recipe, dataset)
    state = newest_state(out)
    index, step = (0, 0) if state is None else (int(state[1]["stage"]), int(state[1]["step"]))
    learner = make_learner(recipe, index, place, None)
    if state is not None:
        restore_state(state[0], learner.model, learner.optimizer, learner.ema, str(out))
    elif autoencoder is not None:
        load_autoencoder(autoencoder, learner.model.autoencoder)
    else:
        learner.model.autoencoder.load_state_dict(load_checkpoint(None, device).model.autoencoder.state_dict())
    latents = encode_dataset(dataset, learner.model.autoencoder, recipe.size, out)
    run.truncate_metrics(0 if state is None else int(state[1]["position"]))

    while True:
        longest = max(recipe.stages[index].frames)
        source = Data(latents, WindowSchedule(dataset, "train", recipe.seed, min_length=longest))
        step = run_stage(run, learner, index, step, source, stop_after)
        if step < recipe.stages[index].steps or index + 1 == len(recipe.stages):
            break
        index, step = index + 1, 0
        learner = make_learner(recipe, index, place, learner)
    done = sum(s.steps for s in recipe.stages[:index]) + step
    return TrainResult(str(out), done, done == sum(s.steps for s in recipe.stages), time.monotonic() - began)
