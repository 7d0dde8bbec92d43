"""Training: bit-exact resume, stages that grow without a jump, refusals."""

import itertools
import json
import math
import os
import signal
from dataclasses import replace

import cv2
import pytest
import torch
from conftest import SIZE, TINY, tiny_recipe
from torch.nn import Module

from gwm.core import ConfigError, WeightsError, actions
from gwm.core.autoencoder import Autoencoder
from gwm.core.dit import Layer
from gwm.core.mask import TokenMask
from gwm.core.seeds import seeded_generator
from gwm.core.world_model import draw_mask, draw_step, training_errors, training_loss
from gwm.pipelines.checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors
from gwm.pipelines.draws import draw_drops
from gwm.pipelines.latents import encode_dataset
from gwm.pipelines.meter import LossMeter
from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.recipe import RIG, Stage, learning_rate, make_recipe
from gwm.pipelines.recipes import NANO_LONG
from gwm.pipelines.run import make_learner
from gwm.pipelines.state import newest_state, restore_state, state_files
from gwm.pipelines.train import train
from gwm.pipelines.watch import Showing
from gwm.shards import ShardError, motion, schema
from gwm.shards.index import open_dataset
from gwm.shards.sources.world import WorldSource

CPU = torch.device("cpu")


def run(data, out, autoencoder, stop_after=None, steps=3):
    return train(data, out, tiny_recipe(steps), autoencoder, "cpu", stop_after)


@pytest.mark.parametrize("stop", [3, 5, 6])
def test_a_resumed_run_repeats_an_unbroken_one_bit_for_bit(tiny_shards, autoencoder, tmp_path, stop):
    run(tiny_shards, tmp_path / "whole", autoencoder, 6)
    run(tiny_shards, tmp_path / "broken", autoencoder, stop)
    run(tiny_shards, tmp_path / "broken", autoencoder, 6)
    whole, broken = (newest_state(tmp_path / name) for name in ("whole", "broken"))
    assert whole is not None
    assert broken is not None
    assert whole[1]["position"] == broken[1]["position"] == 6
    assert whole[0].keys() == broken[0].keys()
    assert any(name.startswith("adam.exp_avg_sq") for name in whole[0])
    assert all(torch.equal(tensor, broken[0][name]) for name, tensor in whole[0].items())


def test_all_stages_run_in_order_and_a_finished_run_is_left_alone(tiny_shards, autoencoder, tmp_path):
    result = run(tiny_shards, tmp_path / "run", autoencoder, steps=1)
    assert result.finished
    assert result.steps == 4
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [m["stage"] for m in metrics] == ["1a", "1b", "1c", "2"]
    assert all(math.isfinite(m["loss"]) for m in metrics)
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    again = run(tiny_shards, tmp_path / "run", autoencoder, steps=1)
    assert again.finished
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights
    training = load_checkpoint(tmp_path / "run").training
    assert training.stages == {"1a": 1, "1b": 1, "1c": 1, "2": 1}
    assert training.size == SIZE
    assert training.frames == 6
    (data,) = training.data
    assert data.startswith("toy tiny sha256:")


def test_a_new_stage_does_not_make_the_loss_jump():
    """The parts that stages 1b and 2 bring are the identity at first: the same loss on the same batch."""
    recipe = tiny_recipe()
    learner = make_learner(recipe, 0, CPU, None)
    torch.nn.init.normal_(learner.model.dit.patch_out.weight)
    z_0 = torch.randn(2, 6, 1, TINY.channels, 4, 8)
    tokens, pooled = (x.detach() for x in learner.model.encode_text(["day", "night"]))
    generator = seeded_generator(0)
    draw = draw_step(z_0.shape, learner.model.config, (0.5, 0.5), generator)
    losses = []
    for index in range(4):
        learner = make_learner(recipe, index, CPU, learner) if index else learner
        losses.append(training_loss(learner.model.dit, z_0, tokens, pooled, torch.randn(2, 4, 7), draw).item())
    assert losses == [losses[0]] * 4
    assert losses[0] > 0


def test_compiling_is_of_every_layer_and_changes_results_by_rounding_alone(
    tiny_shards, autoencoder, tmp_path, monkeypatch
):
    compiled = []
    monkeypatch.setattr(Layer, "compile", lambda self: (compiled.append(self), Module.compile(self, backend="eager")))
    for name in (False, True):
        train(tiny_shards, tmp_path / str(name), tiny_recipe(1), autoencoder, "cpu", compiled=name)
    assert len(compiled) == 4 * TINY.depth  # in each stage
    plain, other = (newest_state(tmp_path / name)[0] for name in ("False", "True"))
    assert all(torch.allclose(tensor, other[name], atol=1e-5) for name, tensor in plain.items() if "model." in name)


def test_previews_and_boards_show_the_run_and_do_not_change_it(tiny_shards, autoencoder, tmp_path):
    pytest.importorskip("tensorboard")
    run(tiny_shards, tmp_path / "plain", autoencoder, steps=2)
    showing = Showing(preview_every=2, tensorboard=True)
    train(tiny_shards, tmp_path / "shown", tiny_recipe(2), autoencoder, "cpu", showing=showing)
    plain, shown = (newest_state(tmp_path / name)[0] for name in ("plain", "shown"))
    assert all(torch.equal(tensor, shown[name]) for name, tensor in plain.items())
    assert not (tmp_path / "plain" / "preview.png").exists()
    sheet = cv2.imread(str(tmp_path / "shown" / "preview.png"))
    assert sheet.shape[0] > 4 * SIZE[1]  # two clips, real above generated
    assert list((tmp_path / "shown").rglob("events.out.tfevents*"))


def mview_recipe(steps=2):
    """All five stages, the last with six views."""
    plain = tiny_recipe(steps)
    third = Stage("3", steps, (4,), 2, actions=True, views=6)
    return replace(plain, variant="mview", stages=(*plain.stages, third))


@pytest.fixture(scope="module")
def six_cameras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "world"
    preprocess(WorldSource(3, 0, 24, SIZE, rig="nuscenes"), folder)
    return folder


@pytest.mark.parametrize("stop", [8, 9])
def test_six_camera_training_ends_with_its_views_and_resumes(six_cameras, autoencoder, tmp_path, stop):
    for name, stops in (("whole", (10,)), ("broken", (stop, 10))):
        for last in stops:
            train(six_cameras, tmp_path / name, mview_recipe(), autoencoder, "cpu", last)
    whole, broken = (newest_state(tmp_path / name)[0] for name in ("whole", "broken"))
    assert any(".view" in name for name in whole)
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
    assert load_checkpoint(tmp_path / "whole").model.config.views == 6


def test_view_blocks_enter_without_a_jump(six_cameras, autoencoder, tmp_path):
    """The same loss before and after stage 3 brings its blocks, after some training, on the same six-camera batch."""
    recipe = mview_recipe(3)
    result = train(six_cameras, tmp_path, recipe, autoencoder, "cpu", stop_after=12)
    assert result.steps == 12
    state = newest_state(tmp_path)
    before = make_learner(recipe, 3, CPU, None)
    restore_state(state[0], before.model, before.optimizer, before.ema, "")
    after = make_learner(recipe, 4, CPU, before)
    latents = encode_dataset(open_dataset(six_cameras), before.model.codec, SIZE, tmp_path, RIG)
    z_0 = torch.stack([torch.from_numpy(latents.window(row, 5, 4, 6).values).float() for row in range(2)])
    draw = draw_step(z_0.shape, after.model.config, (0.5, 0.5), seeded_generator(0))
    text, pooled = before.model.encode_text(["day", "night"])
    assert draw.mask is not None
    alone = []
    for k in range(6):  # a model of one view sees the cameras one by one
        ids = (getattr(draw.mask, name)[:, :, k : k + 1] for name in ("ids_keep", "ids_hidden", "ids_restore"))
        one = replace(draw, eps=draw.eps[:, :, k : k + 1], mask=TokenMask(draw.mask.kind, *ids))
        alone.append(training_loss(before.model.dit, z_0[:, :, k : k + 1], text, pooled, None, one).item())
    together = training_loss(after.model.dit, z_0, text, pooled, None, draw).item()
    assert together == pytest.approx(sum(alone) / 6, abs=1e-6)
    assert sum(p.numel() for p in after.model.parameters()) > sum(p.numel() for p in before.model.parameters())


def test_shards_without_the_views_are_refused(tiny_shards, autoencoder, tmp_path):
    with pytest.raises(ShardError, match="no train sample with the views front, front_right"):
        train(tiny_shards, tmp_path / "run", mview_recipe(), autoencoder, "cpu")
    assert not (tmp_path / "run").exists()


def test_training_lowers_the_loss(tiny_shards, autoencoder, tmp_path):
    run(tiny_shards, tmp_path, autoencoder, steps=40)
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = ([m["loss"] for m in metrics if m["stage"] == stage] for stage in ("1a", "2"))
    assert sum(last[-2:]) < 0.9 * sum(first[:2])


def test_another_recipe_in_the_same_folder_is_refused(tiny_shards, autoencoder, tmp_path):
    run(tiny_shards, tmp_path, autoencoder, 1)
    with pytest.raises(ConfigError, match=r"other settings: seed \("):
        train(tiny_shards, tmp_path, replace(tiny_recipe(3), seed=1), autoencoder, "cpu", 1)


def test_a_truncated_state_is_skipped_for_the_one_before(tiny_shards, autoencoder, tmp_path):
    run(tiny_shards, tmp_path, autoencoder, 2)
    run(tiny_shards, tmp_path, autoencoder, 4)
    newest = state_files(tmp_path)[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    state = newest_state(tmp_path)
    assert state is not None
    assert state[1]["position"] < 4
    assert run(tiny_shards, tmp_path, autoencoder, 5).steps == 5


@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_ends_the_step_saves_and_stops(tiny_shards, autoencoder, tmp_path, monkeypatch, at):
    """Also in the last step of a stage, where nothing is left of the stage to stop."""
    steps, handler = 0, signal.getsignal(signal.SIGTERM)

    def interrupted(*arguments):
        nonlocal steps
        steps += 1
        if steps == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_errors(*arguments)

    monkeypatch.setattr("gwm.pipelines.train.training_errors", interrupted)
    result = run(tiny_shards, tmp_path, autoencoder, steps=2)
    assert (result.steps, result.finished) == (at, False)
    state = newest_state(tmp_path)
    assert state is not None
    assert state[1]["position"] == at
    assert signal.getsignal(signal.SIGTERM) == handler


def test_metrics_after_the_last_state_are_forgotten(tiny_shards, autoencoder, tmp_path):
    run(tiny_shards, tmp_path, autoencoder, 3)
    file = tmp_path / "metrics.jsonl"
    lines = file.read_text()
    later = json.dumps(json.loads(lines.splitlines()[0]) | {"position": 4})
    file.write_text(lines + later + '\n{"positi')
    run(tiny_shards, tmp_path, autoencoder, 3)
    assert file.read_text() == lines


def test_another_autoencoder_in_the_same_run_is_refused(tiny_shards, autoencoder, tmp_path):
    run(tiny_shards, tmp_path / "run", autoencoder, 1)
    other = tmp_path / "other.safetensors"
    save_tensors(other, Autoencoder(TINY.channels, TINY.autoencoder_width).state_dict(), {"format": "gwm-autoencoder"})
    with pytest.raises(ConfigError, match=r"other settings: autoencoder \("):
        run(tiny_shards, tmp_path / "run", other, 2)
    wide = tmp_path / "wide.safetensors"
    save_tensors(wide, Autoencoder(TINY.channels, 32).state_dict(), {"format": "gwm-autoencoder"})
    with pytest.raises(WeightsError, match=r"wide\.safetensors does not fit the configuration"):
        run(tiny_shards, tmp_path / "new", wide)
    assert not (tmp_path / "new").exists()


def test_chunks_too_short_for_a_later_stage_are_refused_at_once(tiny_shards, autoencoder, tmp_path):
    recipe = tiny_recipe()
    long = replace(recipe, stages=(*recipe.stages[:3], replace(recipe.stages[3], frames=(31,))))
    with pytest.raises(ShardError, match="30"):
        train(tiny_shards, tmp_path / "run", long, autoencoder, "cpu")
    assert not (tmp_path / "run").exists()


def test_conditions_are_dropped_at_their_rates():
    recipe = replace(tiny_recipe(), text_dropout=0.2, action_dropout=0.3, joint_dropout=0.1)
    stage = recipe.stages[-1]
    drops = draw_drops(5000, recipe, stage, seeded_generator(0))
    texts, actions = drops.apply(["road"] * 5000, torch.zeros(5000, 4, 7))
    assert actions is not None
    no_text = torch.tensor([text == "" for text in texts])
    no_action = actions.isnan().flatten(1).all(1)
    assert no_text.float().mean() == pytest.approx(1 - 0.8 * 0.9, abs=0.02)
    assert no_action.float().mean() == pytest.approx(1 - 0.7 * 0.9, abs=0.02)
    assert (no_text & no_action).float().mean() == pytest.approx(0.1 + 0.9 * 0.06, abs=0.02)
    kinds = {tuple((~row.isnan()).tolist()) for row in actions[~no_action][:, 0]}
    assert len(kinds) == 4  # one kind of action for each sample
    assert draw_drops(1, recipe, recipe.stages[0], seeded_generator(0)).apply(["road"], actions[:1])[1] is None


def diverging(steps):
    """Training errors that are no numbers in the calls of these numbers, from 1."""
    calls = itertools.count(1)

    def errors(*arguments):
        return training_errors(*arguments) * (torch.nan if next(calls) in steps else 1.0)

    return errors


@pytest.mark.parametrize("stop", [None, 3])
def test_so_many_diverged_steps_are_left_out(tiny_shards, autoencoder, tmp_path, monkeypatch, stop):
    """Two of them, one just before a line of the log, also with a stop in between; the third is one too many."""
    monkeypatch.setattr("gwm.pipelines.train.training_errors", diverging({3, 4, 8}))
    recipe = tiny_recipe(3)
    for last in (stop, 7):
        train(tiny_shards, tmp_path, recipe, autoencoder, "cpu", last or 1, skip_nonfinite=2)
    assert newest_state(tmp_path)[1]["skipped"] == 2
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["loss"]) for line in lines)
    with pytest.raises(ConfigError, match="the gradient is nan"):
        train(tiny_shards, tmp_path, recipe, autoencoder, "cpu", 9, skip_nonfinite=2)


def test_passes_add_up_to_the_whole_batch(tiny_shards, autoencoder, tmp_path):
    states = []
    for accumulate in (1, 2):
        recipe = tiny_recipe(2)
        stages = tuple(replace(stage, accumulate=accumulate) for stage in recipe.stages)
        train(tiny_shards, tmp_path / f"{accumulate}", replace(recipe, stages=stages), autoencoder, "cpu")
        states.append(newest_state(tmp_path / f"{accumulate}")[0])
    whole, parts = states
    assert all(torch.allclose(tensor, parts[name], atol=1e-5) for name, tensor in whole.items() if "model." in name)


def test_logged_losses_are_of_what_they_say():
    config = replace(TINY, mask_ratio=0.5, mask_kinds=("spatial",))
    meter, generator = LossMeter(6, CPU), seeded_generator(3)
    total, weights = 0.0, 0.0
    for t in (4, 6):
        draw = draw_step(torch.Size((8, t, 1, 4, 4, 8)), config, (0.5, 0.5), generator)
        draw = replace(draw, mask=draw_mask(8, t, 1, 4, 8, config, generator))
        frame = torch.arange(t).float()[None, :, None, None, None].expand(8, t, 1, 4, 8)
        tokens = draw.mask.mask.reshape(8, t, 1, 2, 1, 4, 1).expand(8, t, 1, 2, 2, 4, 2).reshape(8, t, 1, 4, 8)
        errors = frame + 100 * tokens
        total, weights = total + (errors.mean((2, 3, 4)) * draw.m_c).sum(), weights + draw.m_c.sum()
        meter.add(errors, draw, 2)
    loss, by_tau, by_frame, (visible, hidden) = meter.take()
    assert loss == pytest.approx(float(total / weights), rel=1e-5)
    assert by_frame == pytest.approx([50 + i for i in range(6)])
    assert hidden - visible == pytest.approx(100, rel=1e-5)
    assert any(value is not None for value in by_tau)
    assert meter.empty


def test_a_diverged_step_is_not_applied(tiny_shards, autoencoder, tmp_path, monkeypatch):
    run(tiny_shards, tmp_path, autoencoder, 1)
    before = state_files(tmp_path)[0].read_bytes()
    monkeypatch.setattr("gwm.pipelines.train.training_errors", diverging({1}))
    with pytest.raises(ConfigError, match=r"stage 1a, step 1: the gradient is nan.*tiny-00\d from \d+"):
        run(tiny_shards, tmp_path, autoencoder, 2)
    assert state_files(tmp_path)[0].read_bytes() == before


def test_latents_are_encoded_once_and_windows_are_cut_from_them(tiny_shards, tmp_path, tiny_model):
    dataset = open_dataset(tiny_shards)
    first = encode_dataset(dataset, tiny_model.autoencoder, SIZE, tmp_path, ("front",))
    (file,) = tmp_path.glob("latents-*.safetensors")
    written = file.stat().st_mtime_ns
    again = encode_dataset(dataset, tiny_model.autoencoder, SIZE, tmp_path, ("front",))
    assert file.stat().st_mtime_ns == written
    z, texts, values = again.batch([(1, 3), (4, 0)], 5, 1)
    assert z.shape == (2, 5, 1, TINY.channels, 4, 8)
    assert torch.equal(z[0], first.latents[33:38].float())
    assert texts == ["day road", "day road"]
    assert values.shape == (2, 4, 7)
    assert torch.allclose(values[0, :, 1], values[0, :1, 1].expand(4))  # constant speed
    assert values[0, 3, 2] > values[0, 0, 2] > 0  # the trajectory leads forward
    assert values[:, :, 4:6].isnan().all()  # no camera, no goal


def test_core_and_shards_agree_on_the_time_of_waypoints():
    """Neither layer may import the other, so each states the numbers."""
    assert actions.FRAME_RATE == schema.FRAME_RATE
    assert actions.WAYPOINT_SPACING == motion.WAYPOINT_SPACING
    assert actions.SCALARS[-1] == "command"


def test_learning_rate_warms_up_holds_and_cools_down():
    stage = NANO_LONG.stages[-1]
    rates = [learning_rate(NANO_LONG, stage, step) for step in range(stage.steps)]
    assert rates[0] == pytest.approx(NANO_LONG.learning_rate / NANO_LONG.warmup)
    assert max(rates) == NANO_LONG.learning_rate == rates[stage.steps // 2]
    assert 0 < rates[-1] < 0.01 * NANO_LONG.learning_rate


def test_recipe_is_scaled_and_refused():
    assert [s.steps for s in make_recipe("long", "nano", 1e-9 + 0.001, 0).stages] == [1, 1, 1, 5]
    with pytest.raises(ConfigError, match="--steps-scale 0"):
        make_recipe("long", "nano", 0, 0)
    with pytest.raises(ConfigError, match="--variant long --preset nano"):
        make_recipe("mview", "huge", 1, 0)


def test_checkpoints_round_trip_and_bad_ones_are_named(tiny_model, tmp_path, tiny_shards, autoencoder):
    run(tiny_shards, tmp_path / "run", autoencoder, 1)
    training = load_checkpoint(tmp_path / "run").training
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, tiny_model.config, tiny_model.state_dict(), training)
    loaded = load_checkpoint(path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.model.state_dict().values(), tiny_model.state_dict().values(), strict=True)
    )
    tensors, header = load_tensors(path, "gwm-world-model")
    extra = tensors | {"strange": torch.zeros(1), "dit.patch_in.bias": torch.zeros(7)}
    del extra["dit.patch_out.weight"]
    save_tensors(path, extra, header)
    with pytest.raises(
        WeightsError, match=r"missing dit.patch_out.weight; surplus strange; dit.patch_in.bias is \(7,\)"
    ):
        load_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(WeightsError, match="not a readable safetensors"):
        load_checkpoint(path)
    with pytest.raises(WeightsError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "nothing.safetensors")
    with pytest.raises(WeightsError, match="is no gwm-world-model file"):
        load_checkpoint(autoencoder)
