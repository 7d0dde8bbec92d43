"""A training run: what a step changes, and the folder that remembers it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from gwm.core import ConfigError
from gwm.core.ema import start_ema
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Training, save_checkpoint
from gwm.pipelines.progress import console
from gwm.pipelines.recipe import Recipe, Stage
from gwm.pipelines.state import save_state, trainable
from gwm.shards.files import make_folder, write_json
from gwm.shards.index import Dataset


@dataclass
class Learner:
    """What a training step changes."""

    model: WorldModel
    ema: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    skipped: int = 0  # steps of the run that were not applied


def make_learner(recipe: Recipe, index: int, device: torch.device, before: Learner | None) -> Learner:
    """The learner at the start of stage `index`, with all weights and averages of the stage before it.

    What the stage brings is initialised from (seed, stage) and zero-gated, so the loss does not jump.
    Not in the paper: Adam starts anew with each stage.
    """
    torch.manual_seed(recipe.seed + 1000 * index)
    model = WorldModel(recipe.stages[index].model(recipe.model)).to(device)
    if before is not None:
        missing, surplus = model.load_state_dict(before.model.state_dict(), strict=False)
        brought = ("temporal", "reconstruction", "action", "view")
        strange = [name for name in missing if not any(word in name for word in brought)] + list(surplus)
        assert not strange, f"the stage before does not fit: {strange}"
    parameters = trainable(model)
    ema = start_ema(parameters) | (before.ema if before else {})
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    return Learner(model, ema, optimizer, before.skipped if before else 0)


class Run:
    """A run's folder: recipe, states, metrics, stage markers and the released checkpoint."""

    def __init__(
        self, folder: Path, recipe: Recipe, data: Dataset, autoencoder: str, skip_nonfinite: int = 0,
        leads: bool = True,
    ) -> None:  # fmt: skip
        """Make the folder, or continue in it; ConfigError if it holds a run of another recipe, data or autoencoder.

        leads: whether this process writes; the others of its team only read.
        """
        self.folder, self.recipe, self.skip_nonfinite = make_folder(folder), recipe, skip_nonfinite
        self.leads = leads
        self.data = f"{data.source} {data.path.name} sha256:{data.index['sha256']}"
        record = {**asdict(recipe), "data": data.index["sha256"], "autoencoder": autoencoder}
        file = folder / "recipe.json"
        if not file.is_file():
            write_json(file, record)
            return
        try:
            old = dict(json.loads(file.read_text()))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{file} is damaged ({error}); choose another -o") from error
        wanted = json.loads(json.dumps(record))
        changed = sorted(k for k in wanted if wanted[k] != old.get(k))
        if changed:
            raise ConfigError(f"{folder} holds a run with other settings ({', '.join(changed)}); choose another -o")

    def skip(self, learner: Learner, what: str, keys: Sequence[str]) -> None:
        """Count a step that was not applied; ConfigError where no more may be skipped."""
        learner.skipped += 1
        message = f"{what}; not applied. Its windows: {', '.join(keys)}"
        if learner.skipped > self.skip_nonfinite:
            raise ConfigError(f"{message}. Lower the learning rate, or allow some with --skip-nonfinite N")
        if self.leads:
            console.print(f"warning: {message}", markup=False, highlight=False)

    def mark_finished(self, stage: Stage) -> None:
        """Leave the marker of a finished stage."""
        if not self.leads:
            return
        make_folder(self.folder / "stages")
        write_json(self.folder / "stages" / f"{stage.name}.done", {"steps": stage.steps})

    def save(self, learner: Learner, index: int, step: int) -> None:
        """Write what `step` steps of stage `index` reached: model.safetensors (EMA weights, fp16), then the state.

        In this order, so that a run whose last state says "finished" has its last model.
        """
        if not self.leads:
            return
        recipe = self.recipe
        done = {s.name: s.steps for s in recipe.stages[:index]} | {recipe.stages[index].name: step}
        frames = max(recipe.stages[index].frames)
        training = Training(
            recipe.size, frames, recipe.variant, recipe.preset, recipe.seed, recipe.guidance, done, (self.data,)
        )
        average = learner.model.state_dict() | learner.ema
        save_checkpoint(self.folder / "model.safetensors", learner.model.config, average, training, torch.float16)
        save_state(
            self.folder,
            sum(done.values()),
            learner.model,
            learner.optimizer,
            learner.ema,
            stage=index,
            step=step,
            skipped=learner.skipped,
        )
