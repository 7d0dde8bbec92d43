"""Training the small autoencoder: resume, statistics, refusals."""

from dataclasses import replace

import pytest
import torch
from conftest import SIZE, TINY

from gwm.core import ConfigError, WeightsError
from gwm.core.autoencoder import Autoencoder
from gwm.core.config import preset
from gwm.pipelines import autoencoder as module
from gwm.pipelines.autoencoder import load_autoencoder, train_autoencoder
from gwm.pipelines.checkpoint import Training, load_checkpoint, load_tensors, save_checkpoint
from gwm.pipelines.state import newest_state
from gwm.shards.index import open_dataset
from gwm.shards.reader import read_window


def test_a_resumed_run_repeats_an_unbroken_one(tiny_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_INTERVAL", 0.0)
    result = train_autoencoder(tiny_shards, tmp_path / "whole", 4, SIZE, device="cpu", batch=2)
    assert result.psnr_on == "val"
    assert 0 < result.psnr < 60
    train_autoencoder(tiny_shards, tmp_path / "broken", 4, SIZE, device="cpu", batch=2)
    newest, before = sorted((tmp_path / "broken" / "states").iterdir(), reverse=True)
    newest.unlink()  # as if killed before the last step
    (tmp_path / "broken" / "autoencoder.safetensors").unlink()
    assert before.name == "state-000000003.safetensors"
    again = train_autoencoder(tiny_shards, tmp_path / "broken", 4, SIZE, device="cpu", batch=2)
    assert again.psnr == result.psnr
    whole, broken = (newest_state(tmp_path / name) for name in ("whole", "broken"))
    assert whole is not None
    assert broken is not None
    assert all(torch.equal(tensor, broken[0][name]) for name, tensor in whole[0].items())


def test_latents_come_out_with_unit_variance(tiny_shards, tmp_path):
    train_autoencoder(tiny_shards, tmp_path, 1, SIZE, device="cpu", batch=2)
    config = preset("nano")
    model = Autoencoder(config.channels, config.autoencoder_width)
    load_autoencoder(tmp_path, model)
    frames = module._Frames(open_dataset(tiny_shards), SIZE, torch.device("cpu"))
    images = frames.images([(i, 5 * j) for i in range(4) for j in range(6)])
    latents = model.encode(images)
    assert abs(latents.mean()) < 0.2
    assert abs(latents.std() - 1) < 0.2
    header = load_tensors(tmp_path / "autoencoder.safetensors", "gwm-autoencoder")[1]
    assert header["steps"] == 1


def test_frames_are_read_once_as_far_as_they_fit(tiny_shards, tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(module, "read_window", lambda *a, **k: reads.append(a[1:3]) or read_window(*a, **k))
    monkeypatch.setattr(module, "CACHE_BYTES", 2 * 3 * SIZE[0] * SIZE[1])
    frames = module._Frames(open_dataset(tiny_shards), SIZE, torch.device("cpu"))
    refs = [(0, 0), (0, 3), (1, 2)]
    assert torch.equal(frames.images(refs), frames.images(refs))
    assert reads == [*refs, (1, 2)]


def test_a_decoder_is_trained_further_and_all_else_stays(tiny_shards, tiny_model, tmp_path):
    """The checkpoint with it has the same latents and the same transformer."""
    file = tmp_path / "tiny.safetensors"
    save_checkpoint(file, TINY, tiny_model.state_dict(), Training(SIZE, 6, preset="tiny", guidance=2.5), torch.float16)
    out = tmp_path / "out"
    for _ in range(2):  # the second call finds it finished
        train_autoencoder(tiny_shards, out, 2, SIZE, device="cpu", batch=2, decoder_of=file)
    before, after = load_checkpoint(file), load_checkpoint(out)
    assert after.training == before.training
    assert after.model.config == TINY
    now = after.model.state_dict()
    changed = {name for name, x in before.model.state_dict().items() if not torch.equal(x, now[name])}
    assert changed
    assert all(name.startswith("autoencoder.decoder.") for name in changed)
    alone = Autoencoder(TINY.channels, TINY.autoencoder_width)
    load_autoencoder(out, alone)
    assert all(torch.allclose(x, now[f"autoencoder.{name}"], atol=1e-3) for name, x in alone.state_dict().items())
    with pytest.raises(ConfigError, match="other settings"):
        train_autoencoder(tiny_shards, out, 2, SIZE, device="cpu", batch=2)
    save_checkpoint(file, replace(TINY, encoders="none"), {}, Training(SIZE, 6))
    with pytest.raises(ConfigError, match="it holds no small autoencoder"):
        train_autoencoder(tiny_shards, tmp_path / "none", 2, SIZE, device="cpu", decoder_of=file)
    assert not (tmp_path / "none").exists()


def test_bad_input_leaves_nothing(tiny_shards, tmp_path):
    for steps, size, batch, message in (
        (0, SIZE, 2, "--steps 0"), (1, (60, 32), 2, "multiples of 8"), (1, SIZE, 0, "--batch 0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            train_autoencoder(tiny_shards, tmp_path / "out", steps, size, batch=batch)
    assert not (tmp_path / "out").exists()
    with pytest.raises(WeightsError, match="no checkpoint at"):
        load_autoencoder(tmp_path / "out", Autoencoder(4, 16))
