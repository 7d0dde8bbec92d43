"""`gwm runs`: what the lines of a run's metrics.jsonl add up to, its curves, and what is no run."""

import json
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SIZE, TINY, tiny_recipe
from matplotlib import _pylab_helpers
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core import ConfigError
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Training, save_checkpoint
from gwm.pipelines.metrics import FILE, Metrics, append
from gwm.pipelines.runs import CURVES, RECENT, smoothed, summarize_run, write_curves
from gwm.pipelines.state import save_state
from gwm.pipelines.train import train

STAGES = (("1a", 300), ("1b", 1200), ("1c", 400))


def line(stage, step, position, loss=0.5, **changes):
    masked = stage == "1c"
    values = {
        "loss_tau": (loss, None, *[loss / (1 + i) for i in range(6)]), "loss_visible": loss if masked else None,
        "loss_hidden": 1.2 * loss if masked else None, "loss_frame": (None, loss), "gradient_norm": 0.3, "lr": 1e-3,
        "seconds_per_step": 0.5, "data_wait": 0.1, "tokens_per_second": 1000.0, "memory_bytes": 10**9, "time": 1.7e9,
    }  # fmt: skip
    return Metrics(stage, step, position, loss, **(values | changes))


def begin(folder):
    (folder / "stages").mkdir(parents=True)
    stages = [{"name": name, "steps": steps, "batch": 2} for name, steps in STAGES]
    recipe = {"variant": "long", "preset": "tiny", "stages": stages, "data": "ab12"}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stage 1a is finished, 1b stands at step 1000 of 1200, 1c has not begun; its losses fall from 2 to 0."""
    folder = begin(tmp_path_factory.mktemp("runs") / "mine")
    for step in range(10, 301, 10):
        append(folder / FILE, line("1a", step, step, seconds_per_step=0.1, memory_bytes=step))
    (folder / "stages" / "1a.done").touch()
    for step in range(10, 1001, 10):
        wait = 0.5 if step <= 500 else 0.0
        loss = 2 - step / 500 + 0.001
        append(folder / FILE, line("1b", step, 300 + step, loss, data_wait=wait, tokens_per_second=2.0 * step))
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of it, to change."""
    return Path(shutil.copytree(made, tmp_path / "mine"))


@pytest.fixture
def undrawn(monkeypatch):
    """No curves, which take most of the time."""
    monkeypatch.setattr("gwm.pipelines.runs.write_curves", lambda *_: None)


def test_the_summary_adds_up(run, undrawn):
    summary = summarize_run(run)
    assert (summary.variant, summary.preset, summary.data) == ("long", "tiny", ("sha256:ab12",))
    assert (summary.steps, summary.planned, summary.finished) == (1300, 1900, False)
    assert (summary.states, summary.checkpoint) == ((), None)
    first, second, third = summary.stages.values()
    assert list(summary.stages) == ["1a", "1b", "1c"]
    assert (first.steps, first.finished, first.memory_bytes) == (300, True, 300)
    assert (second.steps, second.planned, second.finished) == (1000, 1200, False)
    assert (third.steps, third.finished, third.loss, third.hours) == (0, False, None, None)
    assert first.hours == pytest.approx(300 * 0.1 / 3600)
    assert second.hours == pytest.approx(1000 * 0.5 / 3600)
    assert summary.hours == pytest.approx(first.hours + second.hours)
    assert first.mean_loss == first.best_mean_loss == pytest.approx(0.5)  # of 30 lines, all there are
    last = [2 - step / 500 + 0.001 for step in range(1010 - 10 * RECENT, 1001, 10)]
    assert second.loss == pytest.approx(last[-1])
    assert second.mean_loss == second.best_mean_loss == pytest.approx(np.mean(last))
    assert second.data_wait == pytest.approx(0.25)
    assert second.tokens_per_second == pytest.approx(np.mean(range(10, 1001, 10)) * 2)


def test_the_best_mean_is_remembered_when_the_loss_rises(run, undrawn):
    before = summarize_run(run).stages["1b"]
    for step in range(1010, 1201, 10):
        append(run / FILE, line("1b", step, 300 + step, 9.0))
    after = summarize_run(run).stages["1b"]
    assert after.best_mean_loss == before.best_mean_loss
    assert after.mean_loss > before.mean_loss + 1


def test_states_data_and_the_end_of_a_run_are_told(run, undrawn):
    model = WorldModel(TINY)
    optimizer = torch.optim.AdamW(model.dit.parameters())
    for position in (300, 1300):
        save_state(run, position, model, optimizer, {})
    save_checkpoint(run / "model.safetensors", TINY, model.state_dict(), Training(SIZE, 6, data=("toy tiny sha256:1",)))
    append(run / FILE, line("1c", 400, 1900))
    for name, _ in STAGES:
        (run / "stages" / f"{name}.done").touch()
    summary = summarize_run(run)
    assert summary.finished
    assert summary.steps == summary.planned == 1900
    assert summary.data == ("toy tiny sha256:1",)
    assert summary.states == ("state-000001300.safetensors", "state-000000300.safetensors")
    assert summary.checkpoint == str(run / "model.safetensors")


def test_a_line_stands_for_the_steps_since_the_line_before(run, undrawn):
    hours = summarize_run(run).hours
    append(run / FILE, line("1b", 1010, 1310, seconds_per_step=3.6))
    assert summarize_run(run).hours == pytest.approx(hours + 0.01)


def test_a_real_run_is_read(tiny_shards, autoencoder, tmp_path, undrawn):
    """What training leaves in its folder is what is looked for here."""
    out = tmp_path / "real"
    assert train(tiny_shards, out, tiny_recipe(2), autoencoder, "cpu", 5).steps == 5
    summary = summarize_run(out)
    stages = {name: (stage.steps, stage.finished) for name, stage in summary.stages.items()}
    assert stages == {"1a": (2, True), "1b": (2, True), "1c": (0, False), "2": (0, False)}  # 1c has logged nothing
    assert summary.data[0].startswith("toy tiny sha256:")
    assert len(summary.states) == 2
    assert summary.hours > 0


def test_curves_are_drawn(run):
    """One panel for each; a stage's curve begins at its boundary; no window library is touched."""
    summary = summarize_run(run)
    picture = cv2.imread(summary.curves)
    assert picture.shape == (900, 1500, 3)
    for rows in (slice(60, 430), slice(480, 850)):
        for left in (40, 550, 1050):
            colours = picture[rows, left : left + 440].reshape(-1, 3).astype(int)
            coloured = (np.ptp(colours, axis=1) > 60).sum()
            assert coloured > 100 or (rows.start, left) == (60, 1050)  # nothing was masked yet
    assert sorted(p.name for p in run.iterdir()) == [CURVES, FILE, "recipe.json", "stages"]
    before = (run / CURVES).read_bytes()
    append(run / FILE, line("1c", 10, 1510))
    summarize_run(run)
    assert (run / CURVES).read_bytes() != before
    assert not _pylab_helpers.Gcf.figs


def test_a_run_of_one_line_has_curves_too(tmp_path):
    folder = begin(tmp_path / "one")
    append(folder / FILE, line("1a", 1, 1, gradient_norm=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = summarize_run(folder)
    assert summary.stages["1a"].loss == 0.5
    assert cv2.imread(summary.curves) is not None


def test_smoothing_keeps_a_line_and_the_mean():
    ramp = np.arange(400.0)
    assert np.allclose(smoothed(ramp)[10:-10], ramp[10:-10])
    noise = np.random.default_rng(0).normal(size=4000)
    assert smoothed(noise).std() < 0.2
    assert smoothed(np.ones(3)) == pytest.approx(np.ones(3))
    assert len(smoothed(np.ones(1))) == 1


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="no folder at"):
        summarize_run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is no training run"):
        summarize_run(tmp_path)
    with pytest.raises(ConfigError, match="logged no step yet"):
        summarize_run(begin(tmp_path / "empty"))
    (run / "recipe.json").write_text('{"variant": "long"}')
    with pytest.raises(ConfigError, match=r"recipe\.json is damaged"):
        summarize_run(run)
    assert not (tmp_path / "empty" / CURVES).exists()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write .*curves\.png"):
        write_curves(tmp_path / "missing" / CURVES, [line("1a", 1, 1)], "a")


def test_the_command(run, undrawn, tmp_path):
    def gwm(*arguments):
        return CliRunner().invoke(app, ["runs", *[str(a) for a in arguments]])

    result = gwm(run, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(asdict(summarize_run(run))))
    table = gwm(run).stdout
    for text in ("1a: 300 of 300, finished", "1b: 1,000 of 1,200", "1c: 0 of 400", "all: 1,300 of 1,900", "0.00 GB"):
        assert text in table
    refused = gwm(tmp_path)
    assert refused.exit_code == 1
    assert refused.stderr.count("error:") == 1
