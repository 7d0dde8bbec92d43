"""A training run: what a step changes, and the folder that remembers it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gwm.core import ConfigError
from gwm.core.ema import start_ema
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Training, save_checkpoint
from gwm.pipelines.recipe import Recipe
from gwm.pipelines.state import save_state, trainable
from gwm.shards.files import make_folder, replacing, write_json
from gwm.shards.index import Dataset


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
        brought = ("temporal", "reconstruction", "action", "view")
        strange = [name for name in missing if not any(word in name for word in brought)] + list(surplus)
        assert not strange, f"the stage before does not fit: {strange}"
    parameters = trainable(model)
    ema = start_ema(parameters) | (before.ema if before else {})
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    return Learner(model, ema, optimizer)


class Run:
    """A run's folder: recipe, states, metrics, stage markers and the released checkpoint."""

    def __init__(self, folder: Path, recipe: Recipe, data: Dataset, autoencoder: str) -> None:
        """Make the folder, or continue in it; ConfigError if it holds a run of another recipe, data or autoencoder."""
        self.folder, self.recipe = make_folder(folder), recipe
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
        """Write what `step` steps of stage `index` reached: model.safetensors (EMA weights, fp16), then the state.

        In this order, so that a run whose last state says "finished" has its last model.
        """
        recipe = self.recipe
        done = {s.name: s.steps for s in recipe.stages[:index]} | {recipe.stages[index].name: step}
        frames = max(recipe.stages[index].frames)
        training = Training(
            recipe.size, frames, recipe.variant, recipe.preset, recipe.seed, recipe.guidance, done, (self.data,)
        )
        average = learner.model.state_dict() | learner.ema
        save_checkpoint(self.folder / "model.safetensors", learner.model.config, average, training, torch.float16)
        save_state(
            self.folder, sum(done.values()), learner.model, learner.optimizer, learner.ema, stage=index, step=step
        )


def _position(line: str) -> int:
    try:
        return int(json.loads(line)["position"])
    except (ValueError, KeyError):
        return 1 << 62  # a line that a kill cut short
