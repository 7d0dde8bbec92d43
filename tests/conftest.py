"""A tiny world model, a tiny dataset and a tiny recipe: everything real, nothing large."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_shards import write

from gwm.core.autoencoder import Autoencoder
from gwm.core.config import ModelConfig
from gwm.core.dit import VideoDiT
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import save_tensors
from gwm.pipelines.recipe import Recipe, Stage
from gwm.pipelines.recipes import NANO_LONG
from gwm.shards.images import encode_jpeg
from gwm.shards.motion import integrate
from gwm.shards.schema import Chunk, Motion

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other

TINY = ModelConfig(
    width=32, heads=2, depth=3, decoder_depth=1, channels=4, text_tokens=4, text_width=16, pooled_width=16,
    text_vocabulary=32, autoencoder_width=16, unmasked_share=0.0,
)  # fmt: skip
SIZE = (64, 32)  # pixels: a latent of 8x4, tokens of 4x2


def tiny_recipe(steps: int = 1) -> Recipe:
    """All four stages, `steps` steps each."""
    stages = (
        Stage("1a", steps, (1,), 2, temporal=False, reconstruction=False),
        Stage("1b", steps, (4, 6), 2, reconstruction=False),
        Stage("1c", steps, (4, 6), 2),
        Stage("2", steps, (6,), 2, actions=True, cooldown=0.5),
    )
    return replace(NANO_LONG, preset="tiny", model=TINY, size=SIZE, stages=stages)


def tiny_chunk(i: int, frames: int = 30, split: str = "train") -> Chunk:
    """A moving gradient with motion."""
    rng = np.random.default_rng(i)
    ramp = np.linspace(0, 200, SIZE[0])[None, :, None] + rng.uniform(0, 50, 3)
    images = [np.roll(ramp, 2 * t, axis=1).repeat(SIZE[1], axis=0).astype(np.uint8) for t in range(frames)]
    speed, steering = rng.uniform(2, 12) + np.zeros(frames), rng.uniform(-1, 1) + np.zeros(frames)
    return Chunk(
        key=f"tiny-{i:03d}", scene=f"scene-{i}", split=split, origin="test",
        frames={"front": [encode_jpeg(np.ascontiguousarray(image)) for image in images]},
        timestamps=np.arange(frames) / 10, motion=Motion(integrate(speed, steering), speed, steering), text="day road",
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training samples and one for validation."""
    chunks = [tiny_chunk(i, split="val" if i == 4 else "train") for i in range(5)]
    return write(tmp_path_factory.mktemp("shards") / "tiny", chunks)


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("autoencoder") / "autoencoder.safetensors"
    model = Autoencoder(TINY.channels, TINY.autoencoder_width)
    save_tensors(path, model.state_dict(), {"format": "gwm-autoencoder"})
    return path


@pytest.fixture
def tiny_model() -> WorldModel:
    """A world model whose every parameter is random, so that no gate is closed."""
    torch.manual_seed(0)
    model = WorldModel(TINY)
    for parameter in model.dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def random_dit(config: ModelConfig) -> VideoDiT:
    """A transformer with no gate closed; the same weights wherever names and shapes are the same."""
    model = VideoDiT(config)
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default folders lie below the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GWM_DATA", raising=False)
