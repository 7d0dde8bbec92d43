"""Training by two processes, the model whole in each or spread over them: the same step as one, bit-exact resume, a
signal to one stops both."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from conftest import tiny_chunk, tiny_recipe
from torch import Tensor
from toy_shards import write

from gwm.core import ConfigError
from gwm.core.ema import ema_decay, update_ema
from gwm.core.flow import mean_over_predicted
from gwm.pipelines import metrics, train
from gwm.pipelines.autoencoder import load_autoencoder
from gwm.pipelines.checkpoint import load_checkpoint
from gwm.pipelines.datasets import orders
from gwm.pipelines.draws import draw_random
from gwm.pipelines.latents import LatentDataset, encode_dataset
from gwm.pipelines.recipe import Recipe, learning_rate
from gwm.pipelines.run import Learner, make_learner
from gwm.pipelines.sources import Batch, Library
from gwm.pipelines.state import newest_state, restore_state, state_tensors, trainable
from gwm.pipelines.team import Team, join_team
from gwm.pipelines.train import Step
from gwm.shards.index import open_dataset

STEPS = 10
CPU = torch.device("cpu")


def masked_stage() -> Recipe:
    """Stage 1c alone: masks, EMA and two passes a step."""
    recipe = tiny_recipe(STEPS)
    return replace(recipe, stages=(replace(recipe.stages[2], batch=4, accumulate=2),))


def short() -> Recipe:
    """Two stages of three steps."""
    recipe = tiny_recipe(3)
    return replace(recipe, stages=recipe.stages[1:3])


def together(rank: int, port: int, data: Path, encoder: Path, out: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": f"{rank}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    train.train(data, out / "step", masked_stage(), encoder, "cpu")
    train.train(data, out / "whole", short(), encoder, "cpu")
    for last in (2, 5, 6):
        train.train(data, out / "broken", short(), encoder, "cpu", last)
    train.train(data, out / "spread step", masked_stage(), encoder, "cpu", fsdp=True)
    train.train(data, out / "spread whole", short(), encoder, "cpu", fsdp=True)
    for last in (2, 5, 6):
        train.train(data, out / "spread broken", short(), encoder, "cpu", last, showing=train.Showing(2), fsdp=True)
    train.train(data, out / "spread later", short(), encoder, "cpu", 4)
    train.train(data, out / "spread later", short(), encoder, "cpu", fsdp=True)
    calls, errors = iter(range(100)), train.training_errors

    def interrupted(*arguments: object) -> Tensor:
        if rank == 1 and next(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return errors(*arguments)  # type: ignore[arg-type]

    train.training_errors = interrupted
    stopped = train.train(data, out / "signal", short(), encoder, "cpu")
    assert (stopped.steps, stopped.finished) == (2, False), stopped
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, autoencoder: Path) -> tuple[Path, Path]:
    """The data, in four shards, and the folder of what two processes did with them."""
    out = tmp_path_factory.mktemp("team")
    data = write(out / "data", [tiny_chunk(i) for i in range(4)], per_shard=1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(together, (port, data, autoencoder, out), nprocs=2, start_method="spawn")
    return data, out


def state_of(run: Path, recipe: Recipe) -> dict[str, Tensor]:
    """The tensors of a run's newest state, put back into one process."""
    state = newest_state(run)
    assert state is not None
    learner = make_learner(recipe, state[1]["stage"], CPU, None)
    restore_state(state[0], learner.model, learner.optimizer, learner.ema, str(run))
    return state_tensors(learner.model, learner.optimizer, learner.ema)


@dataclass
class Alone:
    """One process that learns from the windows of two."""

    learner: Learner
    recipe: Recipe
    index: int  # of the stage
    library: Library
    latents: LatentDataset

    def learn(self, step: int) -> Step:
        """Forward and backward of a step, all windows in one pass."""
        stage, parts = self.recipe.stages[self.index], []
        for rank in (0, 1):
            order = orders(self.recipe, self.library.datasets, Team(rank, 2))[self.index]
            length, generator = order.begin(step)
            refs = order.refs(step, length)
            parts.append(self.library.batch([self.latents.window(ref.row, ref.start, length, 1) for ref in refs]))
        z_0, actions = (torch.cat([getattr(part, name) for part in parts]) for name in ("z_0", "actions"))
        batch = Batch(z_0, parts[0].texts + parts[1].texts, actions, [])
        for group in self.learner.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, stage, step)
        stage = replace(stage, accumulate=1)
        drawn = draw_random(self.recipe, stage, z_0.shape[1:], generator, Team())
        return train.learn(self.learner, self.recipe, stage, batch, drawn, Team())


def alone(recipe: Recipe, index: int, data: Path, autoencoder: Path, folder: Path) -> Alone:
    dataset, learner = open_dataset(data), make_learner(recipe, index, CPU, None)
    load_autoencoder(autoencoder, learner.model.codec)
    latents = encode_dataset(dataset, learner.model.codec, recipe.size, folder, ("front",))
    return Alone(learner, recipe, index, Library((dataset,), (latents,), CPU, None, None), latents)


@pytest.mark.parametrize("run", ["step", "spread step"])
def test_ten_steps_of_two_processes_are_those_of_one(run, runs: tuple[Path, Path], autoencoder: Path, tmp_path: Path):
    data, out = runs
    recipe = masked_stage()
    one = alone(recipe, 0, data, autoencoder, tmp_path)
    learner = one.learner
    for step in range(STEPS):
        one.learn(step)
        learner.optimizer.step()
        update_ema(learner.ema, trainable(learner.model), ema_decay(step, recipe.ema))
    state = state_of(out / run, recipe)
    moved = 0.0
    for name, tensor in {f"model.{k}": t for k, t in learner.model.state_dict().items()}.items():
        assert torch.allclose(tensor, state[name], rtol=0, atol=1e-5), name
    fresh = dict(make_learner(recipe, 0, CPU, None).model.named_parameters())
    for name, tensor in learner.ema.items():
        assert torch.allclose(tensor, state[f"ema.{name}"], rtol=0, atol=1e-5), name
        moved = max(moved, float((tensor - fresh[name].detach()).abs().max()))
    assert moved > 1e-4  # ten times as much as may differ


@pytest.mark.parametrize("run", ["broken", "spread broken"])
def test_one_process_goes_on_with_the_loss_of_two(run, runs: tuple[Path, Path], autoencoder: Path, tmp_path: Path):
    """From the state after five steps, on the windows that the two had in the sixth."""
    data, out = runs
    one = alone(short(), 1, data, autoencoder, tmp_path)
    shutil.copytree(out / run, tmp_path / "run")
    for newest in (tmp_path / "run" / "states").glob("state-000000006*"):
        newest.rename(tmp_path / newest.name)
    state = newest_state(tmp_path / "run")
    assert state is not None
    assert (state[1]["position"], state[1]["stage"], state[1]["step"]) == (5, 1, 2)
    restore_state(state[0], one.learner.model, one.learner.optimizer, one.learner.ema, "")
    ((errors, draw),) = one.learn(2).seen
    assert mean_over_predicted(errors, draw.m_c).item() == pytest.approx(
        metrics.read(out / run / metrics.FILE)[-1].loss, abs=1e-4
    )


def test_two_processes_resume_bit_for_bit_and_one_can_go_on(runs, autoencoder, tmp_path):
    data, out = runs
    whole, broken = (state_of(out / name, short()) for name in ("whole", "broken"))
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
    lines = metrics.read(out / "broken" / metrics.FILE)
    assert [(line.stage, line.step) for line in lines] == [("1b", 3), ("1c", 3)]
    shutil.copytree(out / "signal", tmp_path / "one")
    assert train.train(data, tmp_path / "one", short(), autoencoder, "cpu").finished


def test_a_spread_run_resumes_bit_for_bit_and_previews_change_nothing(runs):
    out = runs[1]
    assert sorted(path.name for path in (out / "spread whole" / "states").iterdir())[-1] == "state-000000006"
    whole, broken = (state_of(out / f"spread {name}", short()) for name in ("whole", "broken"))
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
    assert (out / "spread broken" / "preview.png").is_file()
    assert not (out / "spread whole" / "preview.png").exists()
    averages = [load_checkpoint(out / f"{kind}whole").model.state_dict() for kind in ("", "spread ")]
    for name, tensor in averages[0].items():
        assert torch.allclose(tensor, averages[1][name], rtol=1e-3, atol=1e-4), name  # both in fp16


def test_a_spread_run_goes_on_from_a_whole_one_and_back(runs, autoencoder, tmp_path):
    data, out = runs
    plain, spread = (state_of(out / name, short()) for name in ("whole", "spread later"))
    for name, tensor in plain.items():
        if name.startswith(("model.", "ema.")):
            assert torch.allclose(tensor, spread[name], rtol=0, atol=1e-4), name
    shutil.copytree(out / "spread broken", tmp_path / "one")
    shutil.rmtree(tmp_path / "one" / "states" / "state-000000006")
    assert train.train(data, tmp_path / "one", short(), autoencoder, "cpu").finished


def test_a_damaged_part_of_a_spread_state_is_noticed(runs, tmp_path):
    shutil.copytree(runs[1] / "spread whole", tmp_path / "run")
    part = next((tmp_path / "run" / "states" / "state-000000006").glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:-100])
    state = newest_state(tmp_path / "run")
    assert state is not None
    assert state[1]["position"] == 3


def test_a_single_process_has_nothing_to_spread_over():
    with pytest.raises(ConfigError, match="start several with --nproc"), join_team(CPU, spread=True):
        pass


def test_a_signal_to_one_stops_both_after_the_step(runs: tuple[Path, Path]):
    assert (runs[1] / "signal" / "states" / "state-000000002.safetensors").is_file()


def test_a_batch_has_to_be_shared_evenly():
    assert Team(1, 2).part_of(4) == slice(2, 4)
    with pytest.raises(ConfigError, match="a batch of 3 windows cannot be shared by 2 processes"):
        Team(1, 2).part_of(3)
    with pytest.raises(ConfigError, match="a batch of 4 windows cannot be shared by 2 processes in 4 passes each"):
        Team(1, 2).part_of(4, 4)


def test_one_process_is_a_team_of_its_own():
    tensor = torch.ones(2)
    Team().add([tensor])
    assert tensor.tolist() == [1, 1]
    assert Team().gather([1, 2]) == [1, 2]
