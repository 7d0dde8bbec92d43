"""Training the small autoencoder: resume, statistics, refusals."""

import pytest
import torch
from conftest import SIZE

from gwm.core import ConfigError, WeightsError
from gwm.core.autoencoder import Autoencoder
from gwm.core.config import preset
from gwm.pipelines import autoencoder as module
from gwm.pipelines.autoencoder import load_autoencoder, train_autoencoder
from gwm.pipelines.checkpoint import load_tensors
from gwm.pipelines.state import newest_state
from gwm.shards.index import open_dataset


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)


def test_a_resumed_run_repeats_an_unbroken_one(tiny_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_INTERVAL", 0.0)
    result = train_autoencoder(tiny_shards, tmp_path / "whole", 4, SIZE, device="cpu")
    assert result.psnr_on == "val"
    assert 0 < result.psnr < 60
    train_autoencoder(tiny_shards, tmp_path / "broken", 4, SIZE, device="cpu")
    newest, before = sorted((tmp_path / "broken" / "states").iterdir(), reverse=True)
    newest.unlink()  # as if killed before the last step
    (tmp_path / "broken" / "autoencoder.safetensors").unlink()
    assert before.name == "state-000000003.safetensors"
    again = train_autoencoder(tiny_shards, tmp_path / "broken", 4, SIZE, device="cpu")
    assert again.psnr == result.psnr
    whole, broken = (newest_state(tmp_path / name) for name in ("whole", "broken"))
    assert whole is not None
    assert broken is not None
    assert all(torch.equal(tensor, broken[0][name]) for name, tensor in whole[0].items())


def test_latents_come_out_with_unit_variance(tiny_shards, tmp_path):
    train_autoencoder(tiny_shards, tmp_path, 1, SIZE, device="cpu")
    config = preset("nano")
    model = Autoencoder(config.channels, config.autoencoder_width)
    load_autoencoder(tmp_path, model)
    images = module._images(
        open_dataset(tiny_shards), [(i, 5 * j) for i in range(4) for j in range(6)], SIZE, torch.device("cpu")
    )
    latents = model.encode(images)
    assert abs(latents.mean()) < 0.2
    assert abs(latents.std() - 1) < 0.2
    header = load_tensors(tmp_path / "autoencoder.safetensors", "gwm-autoencoder")[1]
    assert header["steps"] == 1


def test_bad_input_leaves_nothing(tiny_shards, tmp_path):
    for steps, size, message in ((0, SIZE, "--steps 0"), (1, (60, 32), "multiples of 8")):
        with pytest.raises(ConfigError, match=message):
            train_autoencoder(tiny_shards, tmp_path / "out", steps, size)
    assert not (tmp_path / "out").exists()
    with pytest.raises(WeightsError, match="no checkpoint at"):
        load_autoencoder(tmp_path / "out", Autoencoder(4, 16))
