"""The motion that is read from frames: its arithmetic, its training, and that it is motion which is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_shards import write

from gwm.core.inverse_dynamics import (
    HEIGHT,
    STEP,
    WIDTH,
    integrate,
    motion_between,
    motion_loss,
    waypoint_distances,
)
from gwm.pipelines import inverse_dynamics as pipeline
from gwm.pipelines.inverse_dynamics import (
    jitter,
    train_inverse_dynamics,
    true_motion,
)
from gwm.shards import motion as bicycle
from gwm.shards.images import encode_jpeg
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
    for elsewhere in (bicycle.planar_pose(np.array([7.0]), np.array([-9.0]), np.array([2.0])) @ poses,):
        assert np.allclose(motion_between(elsewhere), motion)
    assert np.allclose(true_motion(Motion(poses)), true_motion(Motion(None, speed, steering)))
    assert true_motion(Motion(None, speed)) is None


def test_waypoints_lie_half_a_second_apart():
    true = np.tile([10.0, 0.0], (24, 1))
    assert np.allclose(waypoint_distances(true + [1.0, 0.0], true), [0.5, 1.0, 1.5, 2.0])
    assert len(waypoint_distances(true[:4], true[:4])) == 0
    aside = waypoint_distances(true + [0.0, 0.1], true)
    assert np.allclose(aside, 2 * 100 * np.sin(0.1 * np.arange(1, 5) / 4) - np.array([0, 0, 0, 0]), rtol=0.01)


def test_the_loss_weighs_speed_and_yaw_rate_by_their_scales():
    true = torch.tensor([[8.0, 0.05]])
    assert motion_loss(true, true) == 0
    assert torch.isclose(
        motion_loss(true + torch.tensor([2.0, 0.0]), true), motion_loss(true + torch.tensor([0.0, 0.02]), true)
    )


def test_jitter_keeps_what_moves_how():
    frames = torch.linspace(-0.5, 0.5, WIDTH).expand(64, 4, 3, HEIGHT, WIDTH).clone()
    frames += torch.arange(4.0)[None, :, None, None, None] / 20  # every frame is another
    motion = torch.tensor([7.0, 0.1]).expand(64, 3, 2)
    new, moved = jitter(frames, motion, torch.Generator().manual_seed(0))
    again, _ = jitter(frames, motion, torch.Generator().manual_seed(0))
    assert torch.equal(new, again)
    assert new.shape == frames.shape
    assert new.abs().max() <= 1
    rises = new[..., -20:].mean(dim=(1, 2, 3, 4)) > new[..., :20].mean(dim=(1, 2, 3, 4))
    still = (moved == 0).all(dim=(1, 2))
    assert 0 < still.sum() < 12
    assert 16 < rises.sum() < 48
    assert torch.equal(rises[~still], (moved[:, 0, 1] > 0)[~still])  # a mirrored picture has a mirrored yaw rate
    assert (moved[~still, :, 0] == 7).all()
    assert (moved[~still, :, 1].abs() - 0.1).abs().max() < 1e-6


def toy_chunk(i: int, split: str = "train") -> Chunk:
    """A pattern whose upper half moves sideways with the yaw rate, and whose lower half comes down with the speed."""
    rng = np.random.default_rng(i)
    speed = np.clip(rng.uniform(0, 20) + np.cumsum(rng.normal(0, 1.5, FRAMES)), 0, 20)
    steering = np.clip(np.cumsum(rng.normal(0, 0.3, FRAMES)), -1, 1)
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


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "RUNS", 5)
    monkeypatch.setattr(pipeline, "WARMUP", 10)


def test_it_learns_a_toy_whose_motion_is_known(shards, tmp_path, small_steps):
    result = train_inverse_dynamics(shards, tmp_path / "run", 100, device="cpu")
    print(result)
    assert result.accuracy.measured_on == "val"
