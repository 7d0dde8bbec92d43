"""What ships inside: the checkpoint and the start clip that `gwm rollout` uses with no other argument."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core.config import preset
from gwm.pipelines.checkpoint import checkpoint_path, load_checkpoint
from gwm.pipelines.start import load_start
from gwm.shards.index import open_dataset
from gwm.shards.verify import verify

ASSETS = Path(__file__).parent.parent / "core" / "assets"


def test_the_checkpoint_is_a_whole_nano_model():
    checkpoint = load_checkpoint()
    assert checkpoint.model.config == replace(preset("nano"), patch=1, depth=5)
    assert list(checkpoint.training.stages) == ["1a", "1b", "1c", "2"]
    assert (checkpoint.training.size, checkpoint.training.frames) == ((128, 64), 25)


def test_the_model_of_three_views_goes_on_from_it():
    checkpoint = load_checkpoint(Path("nano-mview"))
    assert checkpoint.name == "embedded nano-mview"
    assert checkpoint.model.config == replace(load_checkpoint().model.config, views=3)
    assert checkpoint.training.views == ("front_left", "front", "front_right")
    assert list(checkpoint.training.stages) == ["1a", "1b", "1c", "2", "3"]


def test_the_student_is_of_the_same_sizes_and_draws_in_its_own_steps():
    student = load_checkpoint(Path("nano-student"))
    assert student.training.is_student
    assert (student.training.sampling_steps, student.training.guidance) == (4, 1.0)
    assert student.model.config == load_checkpoint().model.config


def test_a_file_or_run_of_an_embedded_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano-mview").mkdir()
    assert checkpoint_path(Path("nano-mview")) == Path("nano-mview/model.safetensors")


def test_the_assets_are_small_and_name_no_machine():
    files = [p for p in ASSETS.rglob("*") if p.is_file()]
    assert max(p.stat().st_size for p in files) < 20e6
    texts = [p.read_bytes()[:200_000] for p in files if p.suffix in (".safetensors", ".json")]
    assert len(texts) == 5
    for text in texts:
        assert not any(word in text for word in (b"/home", b"/root", b"/work", b"/tmp", b"/Users"))


def test_the_start_of_three_views_is_whole():
    assert verify(ASSETS / "start-mview").problems == []
    start = load_start(None, (128, 64), 3, ("front_left", "front", "front_right"))
    assert start.views == ("front_left", "front", "front_right")
    assert start.frames.shape == (3, 3, 64, 128, 3)


def test_the_start_clip_is_whole_and_from_a_town_that_training_has_not_seen():
    assert verify(ASSETS / "start").problems == []
    clip = open_dataset(ASSETS / "start")
    assert clip.row(0).frames >= 221  # 200 frames and the 20 that the last window's actions look ahead
    assert clip.settings["seed"] != load_checkpoint().training.seed
    start = load_start(None, (128, 64), 3)
    assert start.frames.shape == (3, 1, 64, 128, 3)


def test_the_autoencoder_keeps_the_start_clip(tmp_path):
    model = load_checkpoint().model
    frames = load_start(None, (128, 64), 3).frames
    again = model.decode(model.encode(torch.from_numpy(frames)[None]))[0].numpy()
    error = np.square(again.astype(float) - frames).mean()
    assert 10 * np.log10(255**2 / error) > 27  # dB


@pytest.mark.parametrize(
    ("options", "said"),
    [((), False), (("--steps", "2"), True), (("--guidance", "2"), True), (("--solver", "ab2"), True)],
)
def test_a_student_drawn_in_another_way_than_its_own_is_said(tmp_path, options, said):
    arguments = ["rollout", "--checkpoint", "nano-student", "--frames", "4", "-o", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert ("is a student of 4 steps of euler and guidance 1" in result.output) == said


@pytest.mark.parametrize("name", ["nano-long", "nano-student"])
def test_a_commanded_turn_turns_the_picture(name):
    from benchmarks.measures import predict, shown_yaw_rates
    from gwm.pipelines.control import manoeuvre
    from gwm.pipelines.rollout import RolloutSettings
    from gwm.shards.reader import MOTION_AHEAD, read_window

    checkpoint = load_checkpoint(Path(name))
    window = read_window(open_dataset(ASSETS / "start"), 0, 0, 25, size=(128, 64))
    solver = "euler" if checkpoint.training.is_student else "ab2"
    settings = RolloutSettings(frames=25, steps=4, guidance=checkpoint.training.guidance, solver=solver)
    turned = {}
    for turn in ("turn-left", "turn-right"):
        motion = manoeuvre(turn, 25 + MOTION_AHEAD, float(window.motion.speed[0]))
        with torch.inference_mode():
            frames = predict(checkpoint, window, motion, settings)
        turned[turn] = shown_yaw_rates(frames[2:], window.cameras[0]).mean()  # rad/s, left positive; 0.15 is commanded
    assert turned["turn-left"] > 0.02
    assert turned["turn-right"] < -0.02


@pytest.mark.parametrize(("name", "solver", "steps"), [("nano-long", "ab2", 12), ("nano-student", "euler", 4)])
def test_windows_join_without_a_seam(name, solver, steps):
    """Pictures change as much from one window to the next as within one: 1.4 times the median, their most is 2.2.

    If the second window began at the start's frames again, the picture would jump.
    """
    from gwm.pipelines.rollout import RolloutSettings, generate, make_drive, make_scene

    checkpoint = load_checkpoint(Path(name))
    settings = RolloutSettings(47, steps=steps, guidance=checkpoint.training.guidance, solver=solver)
    scene = make_scene(checkpoint, settings, actions="keep")
    model, window = checkpoint.model, checkpoint.training.frames
    with torch.inference_mode():
        drive = make_drive(model, scene.start.frames, scene.text, scene.motion, scene.start.cameras)
        parts = generate(model, drive, window, settings)
        frames = torch.cat([model.decode(part[None])[0, :, 0] for part in parts]).numpy().astype(float)
    changes = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    joint = window - 1
    usual = np.median(np.delete(changes[3:], joint - 3))
    assert changes[joint] < 1.5 * usual, changes[joint] / usual
    assert np.abs(frames[window - 1] - frames[3]).mean() > 1.5 * usual  # such a jump is seen


def test_rollout_works_with_no_other_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["rollout", "--frames", "26", "--steps", "2", "--json"])
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["checkpoint"] == "embedded nano"
    assert record["actions"] == "source"
    assert (tmp_path / record["folder"] / "rollout.mp4").stat().st_size > 1000


def test_several_views_are_those_of_the_embedded_model_of_three(tmp_path):
    arguments = ["rollout", "--views", "3", "--frames", "5", "--steps", "1", "--json", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["checkpoint"] == "embedded nano-mview"
    assert record["views"] == ["front_left", "front", "front_right"]
