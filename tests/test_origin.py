"""What a run starts from: the weights of another, SD3's, and texts that are embedded already."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SIZE, TINY, tiny_chunk, tiny_recipe
from toy_shards import write
from toy_sources import autoencoder_file, dataset, equal, small_autoencoder, state_of, with_latents

from gwm.core import ConfigError
from gwm.core.autoencoder import Autoencoder
from gwm.core.sd3_autoencoder import SD3Autoencoder
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Training, load_checkpoint, load_tensors, save_checkpoint
from gwm.pipelines.datasets import Reading
from gwm.pipelines.origin import begin, read_origin, sized_like
from gwm.pipelines.recipe import RIG, Stage, make_recipe
from gwm.pipelines.run import make_learner
from gwm.pipelines.train import train

HERE = Reading(workers=0)


@pytest.fixture
def network() -> Autoencoder:
    return small_autoencoder()


@pytest.fixture
def file(tmp_path) -> Path:
    return autoencoder_file(tmp_path)


@pytest.fixture
def data(tmp_path) -> Path:
    return dataset(tmp_path / "data")


def test_a_stage_alone_keeps_frame_size_and_views_of_its_start(tiny_model, tmp_path):
    path = tmp_path / "m.safetensors"
    views = ("front_left", "front", "front_right")
    save_checkpoint(path, TINY, tiny_model.state_dict(), Training((64, 32), 6, views=views))
    recipe = sized_like(path, make_recipe("mview", "nano", 1.0, 0))
    assert recipe.size == (64, 32)
    assert recipe.view_names[:3] == views
    assert sorted(recipe.view_names) == sorted(RIG)


def test_a_stage_starts_from_the_weights_of_a_run(data, file, tmp_path):
    """Stage 3 alone from a run of the others: the weights are its, view blocks are new, and the record names it."""
    long = tiny_recipe(2)
    train(data, tmp_path / "long", long, file, "cpu")
    third = Stage("3", 2, (4,), 2, actions=True, views=2)
    recipe = replace(long, variant="mview", stages=(third,), view_names=("front", "back"))
    chunks = [
        replace(c, frames={"front": c.frames["front"], "back": c.frames["front"]}) for c in map(tiny_chunk, (0, 1))
    ]
    pairs = write(tmp_path / "pairs", chunks)
    origin = read_origin(tmp_path / "long")
    learner = make_learner(begin(recipe, origin), 0, torch.device("cpu"), None, origin=origin)
    weights = learner.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in origin.weights.items())
    assert any(".view" in name for name in weights.keys() - origin.weights.keys())
    for last in (1, 2):
        result = train(pairs, tmp_path / "run", recipe, None, "cpu", last, start=tmp_path / "long")
    assert result.finished
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["start"] == origin.sha256
    training = load_checkpoint(tmp_path / "run").training
    assert len(training.data) == 2
    assert training.stages == {"1a": 2, "1b": 2, "1c": 2, "2": 2, "3": 2}
    train(data, tmp_path / "longer", replace(long, stages=long.stages[-1:]), None, "cpu", start=tmp_path / "long")
    training = load_checkpoint(tmp_path / "longer").training
    assert training.stages == {"1a": 2, "1b": 2, "1c": 2, "2": 4}
    assert len(training.data) == 1
    with pytest.raises(ConfigError, match=r"other settings: autoencoder \(.*, start \("):
        train(pairs, tmp_path / "run", recipe, file, "cpu")


def test_a_start_that_does_not_fit_is_refused(data, file, tmp_path):
    train(data, tmp_path / "long", tiny_recipe(1), file, "cpu")
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"does not fit stage 1a of this recipe: .*surplus .* more\. Name"):
        train(data, out, tiny_recipe(1), None, "cpu", start=tmp_path / "long")
    other = replace(tiny_recipe(1), model=replace(TINY, heads=1))
    with pytest.raises(ConfigError, match="heads is 2, not 1"):
        train(data, out, other, None, "cpu", start=tmp_path / "long")
    with pytest.raises(ConfigError, match="has the autoencoder of what it starts from"):
        train(
            data, out, replace(tiny_recipe(1), stages=tiny_recipe(1).stages[3:]), file, "cpu", start=tmp_path / "long"
        )
    assert not out.exists()


class Words:
    """Stands for SD3's text encoders: what it gives says which text it was given."""

    t5 = torch.nn.Linear(1, 1)
    clips = (torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))

    def encode(self, texts):
        marks = [float(len(text)) for text in texts]
        return torch.stack([x * torch.ones(3, TINY.text_width) for x in marks]), torch.stack(
            [x * torch.ones(TINY.pooled_width) for x in marks]
        )


def bare_recipe(steps: int = 2):
    """A model that holds neither autoencoder nor text encoder."""
    return replace(tiny_recipe(steps), model=replace(TINY, encoders="none"))


def test_a_model_without_text_encoder_learns_from_embedded_texts(data, network, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"data: a model .* embedded texts; make them with .* --latents"):
        train(data, tmp_path / "run", bare_recipe(), None, "cpu")
    with_latents(data, network, text=Words(), about_text="by words")
    with pytest.raises(ConfigError, match="leave out --stream"):
        train(data, tmp_path / "run", bare_recipe(), None, "cpu", reading=Reading(stream=True))
    seen: list[float] = []
    forward = WorldModel.__init__

    def watched(self, config):
        forward(self, config)
        self.dit.pooled_in.register_forward_pre_hook(lambda _, given: seen.extend(given[0][:, 0].tolist()))

    monkeypatch.setattr(WorldModel, "__init__", watched)
    recipe = replace(bare_recipe(6), text_dropout=0.5)
    result = train(data, tmp_path / "run", recipe, None, "cpu", reading=HERE)
    assert result.finished
    assert set(seen) == {float(len(text)) for text in ("", "day road", "a bend", "a straight road")}
    assert not (tmp_path / "run" / "preview.png").exists()
    config = load_checkpoint(tmp_path / "run").model.config
    assert (config.encoders, config.actions) == ("none", True)
    for last in (8, 24):
        train(data, tmp_path / "broken", recipe, None, "cpu", last, reading=HERE)
    assert equal(state_of(tmp_path / "run"), state_of(tmp_path / "broken"))


def test_sd3_medium_starts_from_imported_weights(data, tmp_path, monkeypatch):
    """Its first stage from a checkpoint as `gwm weights import` makes it, with SD3's autoencoder in small."""
    from gwm.core import sd3_autoencoder

    small = {**sd3_autoencoder.CONFIG, "block_out_channels": [32] * 4, "layers_per_block": 1}
    monkeypatch.setattr("gwm.core.sd3_autoencoder.CONFIG", small)
    torch.manual_seed(4)
    model = replace(TINY, encoders="sd3", channels=16, temporal=False, reconstruction=False, actions=False)
    imported = WorldModel(model)
    for parameter in imported.dit.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    checkpoint = tmp_path / "imported.safetensors"
    said = Training(SIZE, 1, preset="sd3-medium", data=("SD3 weights of there",))
    save_checkpoint(checkpoint, model, imported.state_dict(), said)
    assert isinstance(imported.autoencoder, SD3Autoencoder)
    recipe = replace(tiny_recipe(1), model=replace(TINY, encoders="sd3", channels=16))
    with pytest.raises(ConfigError, match=r"starts from SD3-medium's weights: .*--from"):
        train(data, tmp_path / "run", recipe, None, "cpu", reading=HERE)
    with pytest.raises(ConfigError, match="embedded texts"):
        train(data, tmp_path / "no", recipe, None, "cpu", start=checkpoint)
    with_latents(data, imported.autoencoder, text=Words(), about_text="by words")
    result = train(data, tmp_path / "run", recipe, None, "cpu", start=checkpoint, reading=HERE)
    assert result.finished
    weights, _ = load_tensors(tmp_path / "run" / "model.safetensors", "gwm-world-model")
    for name, tensor in imported.state_dict().items():
        near = 0.0 if name.startswith("autoencoder.") else 0.05
        assert torch.allclose(weights[name].float(), tensor, rtol=1e-3, atol=1e-4 + near), name
    assert load_checkpoint(tmp_path / "run").training.data[0] == "SD3 weights of there"
    torch.manual_seed(5)
    other = WorldModel(model)
    save_checkpoint(tmp_path / "other.safetensors", model, other.state_dict(), said)
    with pytest.raises(ConfigError, match="embedded texts"):  # the latents are of another autoencoder
        train(data, tmp_path / "no", recipe, None, "cpu", start=tmp_path / "other.safetensors")
