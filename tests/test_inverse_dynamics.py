"""The motion that is read from frames: its arithmetic, its training, and that it is motion which is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_shards import make_chunk, write

from gwm.cli.inverse import inverse_dynamics
from gwm.core import ConfigError, WeightsError
from gwm.core import inverse_dynamics as core
from gwm.core.inverse_dynamics import HEIGHT, STEP, WIDTH, integrate, motion_between, motion_loss, waypoint_distances
from gwm.pipelines import inverse_dynamics as pipeline
from gwm.pipelines.checkpoint import load_tensors, save_tensors
from gwm.pipelines.inverse_dynamics import (
    InverseDynamicsResult,
    estimate_motion,
    jitter,
    load_inverse_dynamics,
    train_inverse_dynamics,
    true_motion,
)
from gwm.shards import ShardError
from gwm.shards import motion as bicycle
from gwm.shards.images import encode_jpeg
from gwm.shards.index import open_dataset
from gwm.shards.reader import read_chunk
from gwm.shards.schema import Chunk, Motion

FRAMES = 22


def test_a_circle_is_closed_and_a_line_is_straight():
    n, speed = 40, 5.0
    circle = integrate(np.tile([speed, 2 * np.pi / (n * STEP)], (n, 1)))
    assert np.allclose(circle[-1], 0, atol=1e-9)
    assert np.allclose(np.linalg.norm(np.diff(circle, axis=0), axis=1), speed * STEP)
    assert circle[n // 2, 1] > 5  # yaw to the left leads to the left
    assert np.allclose(integrate(np.tile([-2.0, 0.0], (10, 1)))[-1], (-2.0, 0.0))


def test_motion_of_poses_is_what_made_them():
    rng = np.random.default_rng(0)
    speed, steering = rng.uniform(-3, 20, 50), rng.normal(0, 1, 50)
    poses = bicycle.integrate(speed, steering)
    motion = motion_between(poses)
    means = (speed[:-1] + speed[1:]) / 2
    assert np.allclose(motion[:, 0], means)
    assert np.allclose(integrate(motion), poses[:, :2, 3])
    elsewhere = bicycle.planar_pose(np.array([7.0]), np.array([-9.0]), np.array([2.0])) @ poses
    assert np.allclose(motion_between(elsewhere), motion)
    assert np.allclose(true_motion(Motion(poses)), true_motion(Motion(None, speed, steering)))
    assert true_motion(Motion(None, speed)) is None


def test_waypoints_lie_half_a_second_apart():
    true, faster, aside = (np.tile(motion, (24, 1)) for motion in ([10.0, 0.0], [11.0, 0.0], [10.0, 0.1]))
    assert np.allclose(waypoint_distances(faster, true), [0.5, 1.0, 1.5, 2.0])
    assert np.allclose(waypoint_distances(aside, true), 0.1 * 10 * np.array([0.5, 1.0, 1.5, 2.0]) ** 2 / 2, rtol=0.01)
    assert len(waypoint_distances(true[:4], true[:4])) == 0


def test_the_loss_weighs_speed_and_yaw_rate_by_their_scales():
    true = torch.tensor([[8.0, 0.05]])
    assert motion_loss(true, true) == 0
    assert torch.isclose(
        motion_loss(true + torch.tensor([2.0, 0.0]), true), motion_loss(true + torch.tensor([0.0, 0.02]), true)
    )


def test_jitter_keeps_what_moves_how():
    frames = torch.linspace(-0.5, 0.5, WIDTH).expand(48, 3, 3, HEIGHT, WIDTH).clone()
    frames += torch.arange(3.0)[None, :, None, None, None] / 20  # every frame is another
    motion = torch.tensor([7.0, 0.1]).expand(48, 2, 2)
    new, moved = jitter(frames, motion, torch.Generator().manual_seed(0))
    again, _ = jitter(frames, motion, torch.Generator().manual_seed(0))
    assert torch.equal(new, again)
    assert new.shape == frames.shape
    assert new.abs().max() <= 1
    rises = new[..., -20:].mean(dim=(1, 2, 3, 4)) > new[..., :20].mean(dim=(1, 2, 3, 4))
    still = (moved == 0).all(dim=(1, 2))
    assert 0 < still.sum() < 12
    assert 12 < rises.sum() < 36
    assert torch.equal(rises[~still], (moved[:, 0, 1] > 0)[~still])  # a mirrored picture has a mirrored yaw rate
    assert (moved[~still, :, 0] == 7).all()
    assert (moved[~still, :, 1].abs() - 0.1).abs().max() < 1e-6


def toy_chunk(i: int, split: str = "train") -> Chunk:
    """A pattern whose upper half moves sideways with the yaw rate, and whose lower half comes down with the speed."""
    rng = np.random.default_rng(i)
    speed = np.clip(rng.uniform(0, 20) + np.cumsum(rng.normal(0, 1.5, FRAMES)), 0, 20)
    steering = np.clip(np.cumsum(rng.normal(0, 0.2, FRAMES)), -0.5, 0.5)
    poses = bicycle.integrate(speed, steering)
    motion = true_motion(Motion(poses))
    assert motion is not None
    down, aside = np.concatenate([np.zeros((1, 2)), np.cumsum(motion * [0.3, 20.0], axis=0) + rng.uniform(0, 99, 2)]).T
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    waves = 2 * np.pi / np.array([22, 26, 30])
    images = []
    for t in range(FRAMES):
        upper = np.sin(waves * (x - aside[t])[..., None] + np.arange(3))
        lower = np.sin(waves * (y - down[t])[..., None] + np.arange(3))
        images.append(np.round(127 + 90 * np.where((y < HEIGHT // 2)[..., None], upper, lower)).astype(np.uint8))
    return Chunk(
        f"toy-{i:03d}", f"scene-{i}", split, "test", {"front": [encode_jpeg(image) for image in images]},
        np.arange(FRAMES) / 10, Motion(poses, speed, steering),
    )  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chunks = [toy_chunk(i, "val" if i > 15 else "train") for i in range(24)]
    return write(tmp_path_factory.mktemp("shards") / "toy", chunks)


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> InverseDynamicsResult:
    """A network that has had 100 steps of 8 pairs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RUNS": 8, "RUN": 2, "WARMUP": 10, "LEARNING_RATE": 1e-3}.items():
            patch.setattr(pipeline, name, value)
        return train_inverse_dynamics(shards, tmp_path_factory.mktemp("run"), 100, device="cpu")


def test_it_learns_motion_that_is_known(trained):
    accuracy = trained.accuracy
    assert (accuracy.measured_on, accuracy.steps) == ("val", 8 * (FRAMES - 1))
    assert min(accuracy.r2_speed, accuracy.r2_yaw_rate) > 0.5
    assert accuracy.trajectory_difference < 2.5  # the drives are up to 40 m long
    assert accuracy.trajectory_difference_chunk == pytest.approx(accuracy.trajectory_difference)  # 2.1 s


def test_motion_of_another_drive_is_farther_away(shards, trained):
    model, _ = load_inverse_dynamics(Path(trained.path))
    dataset = open_dataset(shards)
    drives = [read_chunk(dataset, row) for row in range(16, 24)]
    estimated = [estimate_motion(model, drive.frames[:, 0]) for drive in drives]
    true = [true_motion(drive.motion) for drive in drives]
    apart = np.array([[waypoint_distances(a, b).mean() for b in true] for a in estimated])
    others = apart[~np.eye(len(apart), dtype=bool)]
    assert np.diag(apart).mean() < others.mean() / 3
    still = estimate_motion(model, np.repeat(drives[-1].frames[:1, 0], 12, axis=0))
    assert np.ptp(still, axis=0).max() < 1e-5  # the same pair again and again


def test_estimates_do_not_depend_on_how_many_are_made_at_once(shards, trained, monkeypatch):
    model, _ = load_inverse_dynamics(Path(trained.path).parent)
    frames = read_chunk(open_dataset(shards), 0).frames[:, 0]
    together = estimate_motion(model, frames)
    assert together.shape == (FRAMES - 1, 2)
    monkeypatch.setattr(pipeline, "PAIRS", 4)
    assert np.allclose(estimate_motion(model, frames), together, atol=1e-4)
    large = frames.repeat(2, axis=1).repeat(2, axis=2)  # is made smaller first
    assert np.allclose(estimate_motion(model, large), together, atol=1e-4)


def test_the_same_seed_gives_the_same_network_through_the_command(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "RUNS", 1)
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        inverse_dynamics(shards, tmp_path / name, 1, seed, "cpu", as_json=True)
        shown = json.loads(capsys.readouterr().out)
        found.append(load_tensors(Path(shown["path"]), pipeline.FORMAT))
    (a, first), (b, again), (c, _) = found
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert first == again
    assert not any(torch.equal(a[name], c[name]) for name in a if name.endswith("weight") and a[name].ndim > 1)
    _, header = load_inverse_dynamics(tmp_path / "c")
    assert header["training"] == {
        "steps": 1, "seed": 1, "data": [f"toy toy sha256:{open_dataset(shards).index['sha256']}"],
    }  # fmt: skip
    assert header["accuracy"] == shown["accuracy"]


def test_mistakes_are_said(tmp_path, shards):
    with pytest.raises(ConfigError, match="--steps 0"):
        train_inverse_dynamics(shards, tmp_path / "run", 0)
    unknown = [replace(make_chunk(i), motion=Motion(speed=np.ones(12))) for i in range(2)]
    with pytest.raises(ShardError, match="no train sample of the front view with poses"):
        train_inverse_dynamics(write(tmp_path / "unknown", unknown), tmp_path / "run", 1, device="cpu")
    with pytest.raises(WeightsError, match=r"no checkpoint at .*inverse-dynamics\.safetensors"):
        load_inverse_dynamics(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    save_tensors(foreign, core.InverseDynamics().state_dict(), {"format": "gwm-autoencoder"})
    with pytest.raises(WeightsError, match="no gwm-inverse-dynamics file but 'gwm-autoencoder'"):
        load_inverse_dynamics(foreign)
    save_tensors(foreign, {"weight": torch.zeros(1)}, {"format": "gwm-inverse-dynamics"})
    with pytest.raises(WeightsError, match="does not fit"):
        load_inverse_dynamics(foreign)


def test_samples_of_unknown_motion_are_left_out(tmp_path):
    known, unknown = toy_chunk(0), replace(toy_chunk(1), motion=Motion())
    dataset = pipeline.with_motion(open_dataset(write(tmp_path / "mixed", [unknown, known])))
    assert dataset.table.column("key").to_pylist() == ["toy-000"]
    assert read_chunk(dataset, 0).motion.pose is not None
