"""A training run: what a step changes, and the folder that remembers it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gwm.core import ConfigError, WeightsError
from gwm.core.ema import start_ema
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Training, save_checkpoint
from gwm.pipelines.differences import differences
from gwm.pipelines.origin import BROUGHT, Origin
from gwm.pipelines.progress import console
from gwm.pipelines.recipe import Recipe, Stage
from gwm.pipelines.sharding import gathered, is_spread, shard_model, whole
from gwm.pipelines.state import save_state, trainable
from gwm.shards.files import make_folder, remove_temporaries, write_json
from gwm.shards.index import Dataset
from gwm.shards.lock import locked

LOCK_FILE = "lock"


@dataclass
class Learner:
    """What a training step changes."""

    model: WorldModel
    ema: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    skipped: int = 0  # steps of the run that were not applied
    teacher: WorldModel | None = None  # that a student learns from, without its autoencoder; never changed nor saved


def make_learner(
    recipe: Recipe, index: int, device: torch.device, before: Learner | None, spread: bool = False,
    origin: Origin | None = None, compiled: bool = False,
) -> Learner:  # fmt: skip
    """The learner at the start of stage `index`, with all weights and averages of the stage before it.

    Or, where nothing is before it, with the weights of `origin`, which is the teacher of a student too. What the stage
    brings is initialised from (seed, stage) and zero-gated, so the loss does not jump.
    Not in the paper: Adam starts anew with each stage. `spread`: over the processes, all of which call this.
    `compiled`: the blocks by torch.compile.
    """
    torch.manual_seed(recipe.seed + 1000 * index)
    model = WorldModel(recipe.stages[index].model(recipe.model))
    weights = None if origin is None else origin.weights
    if before is not None:
        weights = {name: whole(tensor) for name, tensor in before.model.state_dict().items()}
    if weights is not None:
        missing, surplus = model.load_state_dict(weights, strict=False)
        strange = [name for name in missing if not any(word in name for word in BROUGHT)] + list(surplus)
        assert not strange, f"the stage before does not fit: {strange}"
    teacher = None
    if recipe.stages[index].student_steps is not None:
        assert origin is not None, "a student without a teacher"
        teacher = _make_teacher(origin).to(device)
    if compiled:
        torch.compiler.reset()  # past a number of shapes, those of the stages before included, nothing is compiled
        for layer in (*model.dit.layers, *(() if teacher is None else teacher.dit.layers)):
            layer.compile()
    model = (shard_model(model, device) if spread else model).to(device)
    parameters = trainable(model)
    ema = start_ema(parameters) | (before.ema if before else {})
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    return Learner(model, ema, optimizer, before.skipped if before else 0, teacher)


def _make_teacher(origin: Origin) -> WorldModel:
    """The frozen model of a checkpoint, without the autoencoder, which no step needs."""
    teacher = WorldModel(origin.config)
    teacher.load_state_dict(origin.weights)
    teacher.autoencoder = None
    return teacher.eval().requires_grad_(False)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder of a run, made if there is none; what a killed run left half-written in it is removed.

    ShardError where another run is at work in it, or where it cannot be written to.
    """
    with locked(make_folder(folder), LOCK_FILE):
        for place in (folder, folder / "stages", folder / "states"):
            if place.is_dir():
                remove_temporaries(place)
        for unfinished in (folder / "states").glob(".*.tmp"):
            shutil.rmtree(unfinished)
        yield


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn what the system says of a failed write into one WeightsError that names `file` and what to do."""
    try:
        yield
    except (OSError, WeightsError) as error:
        said = str(error) if isinstance(error, WeightsError) else f"cannot write {file}: {error.strerror or error}"
        remedy = "what was saved before is kept: free some space and run the same command again"
        raise WeightsError(f"{said}; {remedy}") from error


class Run:
    """A run's folder: recipe, states, metrics, stage markers and the released checkpoint."""

    def __init__(
        self, folder: Path, recipe: Recipe, data: Sequence[Dataset], autoencoder: str | None, skip_nonfinite: int = 0,
        leads: bool = True, origin: Origin | None = None,
    ) -> None:  # fmt: skip
        """Make the folder, or continue in it; ConfigError if it holds a run of another recipe, data or autoencoder.

        leads: whether this process writes; the others of its team only read. origin: what the run starts from.
        """
        self.folder, self.recipe, self.skip_nonfinite = make_folder(folder), recipe, skip_nonfinite
        self.leads = leads
        self.earlier = {} if origin is None else origin.training.stages  # steps done before this run
        before = () if origin is None else origin.training.data
        named = [f"{d.source} {d.path.name} sha256:{d.index['sha256']}" for d in data]
        self.data = tuple(dict.fromkeys((*before, *named)))
        hashes = [d.index["sha256"] for d in data]
        record = {**asdict(recipe), "data": hashes if len(hashes) > 1 else hashes[0], "autoencoder": autoencoder}
        record |= {} if origin is None else {"start": origin.sha256}
        file = folder / "recipe.json"
        if not file.exists():
            with writing(file):
                write_json(file, record)
            return
        try:
            old = dict(json.loads(file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{file} is damaged ({error}); choose another -o") from error
        if changed := differences(old, record):
            raise ConfigError(f"{folder} holds a run with other settings: {changed}; choose another -o")

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
        file = self.folder / "stages" / f"{stage.name}.done"
        with writing(file):
            file.parent.mkdir(exist_ok=True)
            write_json(file, {"steps": stage.steps})

    def save(self, learner: Learner, index: int, step: int) -> None:
        """Write what `step` steps of stage `index` reached: model.safetensors (EMA weights, fp16), then the state.

        In this order, so that a run whose last state says "finished" has its last model. The leader writes, and of a
        spread model every process its part.
        """
        average = learner.model.state_dict() | learner.ema
        spread = is_spread(average.values())
        if not (self.leads or spread):
            return
        recipe, stage = self.recipe, self.recipe.stages[index]
        done = {s.name: s.steps for s in recipe.stages[:index]} | {stage.name: step}
        steps = self.earlier | {name: self.earlier.get(name, 0) + n for name, n in done.items()}
        training = Training(
            recipe.size, max(stage.frames), recipe.variant, recipe.preset, recipe.seed, recipe.guidance, steps,
            self.data, views=recipe.view_names[: stage.views],
        )  # fmt: skip
        if stage.student_steps is not None:
            training = replace(training, guidance=1.0, sampling_steps=stage.student_steps)
        if spread:
            average = gathered(average, self.leads)
        file = self.folder / "model.safetensors"
        with writing(self.folder):
            if self.leads:
                save_checkpoint(file, learner.model.config, average, training, torch.float16)
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
