"""A student of few steps: the chord it learns, the run that trains it, the checkpoint that comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import SIZE, TINY, tiny_recipe
from test_origin import Words
from toy_sources import dataset, small_autoencoder, with_latents
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core import ConfigError
from gwm.core.distill import TEACHER_STEPS, chord, distillation_errors, on_grid
from gwm.core.dit import Layer
from gwm.core.flow import mean_over_predicted, shift_tau
from gwm.core.sampler import Conditions, Sampling, guided, sample, tau_schedule
from gwm.core.seeds import seeded_generator
from gwm.core.world_model import draw_step
from gwm.pipelines.checkpoint import FORMAT, Training, load_checkpoint, load_tensors, save_checkpoint, save_tensors
from gwm.pipelines.datasets import Reading
from gwm.pipelines.draws import draw_random
from gwm.pipelines.origin import read_origin, student_recipe
from gwm.pipelines.recipe import Stage, distill, override
from gwm.pipelines.recipes import NANO_LONG, NANO_MVIEW
from gwm.pipelines.run import make_learner
from gwm.pipelines.sources import Batch
from gwm.pipelines.state import newest_state
from gwm.pipelines.team import Team
from gwm.pipelines.train import learn, train
from gwm.pipelines.watch import Showing

STEPS, SHIFT, SCALE = 4, 3.0, 2.5
SHAPE = torch.Size((6, 5, 1, TINY.channels, 4, 8))
CPU = torch.device("cpu")


def draws(imagined_share: float = 0.0, config=TINY):
    """Of six samples with two condition frames each."""
    generator = seeded_generator(0)
    draw = draw_step(SHAPE, config, (0.0, 0.0, 1.0), generator, imagined_share=imagined_share)
    return on_grid(draw, STEPS, SHIFT, SHAPE[0], generator)


def conditions(model, texts, actions=None):
    return Conditions(*model.encode_text(texts), actions)


def linear(z, tau, text, pooled, actions):
    """A velocity field that is linear in z, of another slope for each place, τ and text."""
    slope = torch.linspace(-1, 1, z[0].numel(), dtype=z.dtype).view(z[0].shape)
    return z * (slope + tau.view(*tau.shape, 1, 1, 1, 1) + text.view(-1, 1, 1, 1, 1, 1))


def test_steps_are_drawn_from_the_samplers_grid_for_each_sample_alone():
    schedule = tau_schedule(STEPS, SHIFT)
    generator = seeded_generator(0)
    plain = draw_step(torch.Size((400, *SHAPE[1:])), TINY, (0.5, 0.5), generator)
    state = generator.get_state()
    draw = on_grid(plain, STEPS, SHIFT, 400, generator)
    ends = {(a, b) for a, b in zip(draw.tau[:, -1].tolist(), draw.following[:, -1].tolist(), strict=True)}
    assert ends == set(pairwise(schedule.tolist()))
    assert torch.equal(draw.tau == 0, draw.m_c == 0)
    assert (draw.following[draw.m_c == 0] == 0).all()
    assert draw.mask is None
    assert torch.equal(draw.eps, plain.eps)
    generator.set_state(state)
    rows = slice(100, 120)
    part = on_grid(plain.part(rows), STEPS, SHIFT, 400, generator, rows)
    assert torch.equal(part.tau, draw.tau[rows])
    assert torch.equal(part.following, draw.part(rows).following)


def test_one_step_without_guidance_is_the_teachers_velocity(tiny_model):
    draw, z = draws(), torch.randn(SHAPE)
    told, untold = conditions(tiny_model, ["a road"] * 6), conditions(tiny_model, [""] * 6)
    target = chord(guided(tiny_model.dit, told, untold), z, draw.tau, draw.following, 1.0, steps=1)
    with torch.no_grad():  # whose GELU rounds otherwise
        assert torch.equal(target, tiny_model.dit(z, draw.tau, *told))
    assert not target.requires_grad


def test_a_sample_without_conditions_is_not_guided(tiny_model):
    """Its own two branches are the same, whatever the others of the batch have."""
    draw, z, actions = draws(), torch.randn(SHAPE), torch.randn(6, 4, 7)
    actions[0] = torch.nan
    told, untold = conditions(tiny_model, ["", *["road"] * 5], actions), conditions(tiny_model, [""] * 6)
    velocity = guided(tiny_model.dit, told, untold)
    plain, scaled = (chord(velocity, z, draw.tau, draw.following, scale) for scale in (1.0, SCALE))
    assert torch.allclose(plain[0], scaled[0], atol=1e-5)
    assert not torch.allclose(plain[1], scaled[1], atol=1e-2)


@pytest.mark.parametrize("given", [0, 2])
def test_a_perfect_student_ends_where_the_teacher_does(given):
    """Against the teacher's S·M guided Euler steps, written out: linear in z, so the path bends."""
    eps = torch.randn(SHAPE).double()
    condition = torch.randn(6, given, *SHAPE[2:]).double()
    text = torch.rand(6, 1, 1).double()
    told, untold = Conditions(text, text[:, 0], None), Conditions(0 * text, 0 * text[:, 0], None)
    schedule = tau_schedule(STEPS, SHIFT).double()

    end = torch.cat([condition, eps[:, given:]], dim=1)
    for first, last in pairwise(schedule.tolist()):
        for j in range(TEACHER_STEPS):
            tau = torch.zeros(6, SHAPE[1]).double()
            tau[:, given:] = first + (last - first) * j / TEACHER_STEPS
            v_c, v_u = linear(end, tau, *told), linear(end, tau, *untold)
            v = v_u + SCALE * (v_c - v_u)
            end = torch.cat([condition, (end + (last - first) / TEACHER_STEPS * v)[:, given:]], dim=1)

    def student(z, tau, _):
        i = int((schedule - tau[0, -1]).abs().argmin())
        following = schedule[i + 1] * (torch.arange(SHAPE[1]) >= given).expand_as(tau)
        target = chord(guided(linear, told, untold), z, tau, following, SCALE)
        assert torch.equal(z[:, :given], condition)
        return target

    out = sample(student, condition, eps, Sampling(STEPS, 1.0), SHIFT)
    assert torch.allclose(out, end, atol=1e-5)
    other = sample(guided(linear, told, untold), condition, eps, Sampling(STEPS, SCALE), SHIFT)
    assert not torch.allclose(other, end, atol=1e-2)  # the teacher in the student's steps ends elsewhere


def test_condition_frames_stay_clean_and_have_no_loss(tiny_model):
    draw, z_0, seen = draws(), torch.randn(SHAPE), []

    def teacher(z, tau, *rest):
        seen.append((z, tau))
        return tiny_model.dit(z, tau, *rest)

    told, untold = conditions(tiny_model, ["a road"] * 6), conditions(tiny_model, [""] * 6)
    losses, shown = [], []
    for shift in (0.0, 100.0):

        def student(z, *_, shift=shift):
            shown.append(z)
            return torch.where(draw.m_c.view(6, 5, 1, 1, 1, 1) == 0, shift, torch.zeros_like(z))

        errors = distillation_errors(student, teacher, z_0, told, told, untold, SCALE, draw)
        losses.append(mean_over_predicted(errors, draw.m_c).item())
    assert losses[0] == losses[1] > 0
    assert torch.equal(shown[0][:, :2], z_0[:, :2])
    assert len(seen) == 2 * TEACHER_STEPS
    for z, tau in seen:
        assert torch.equal(z[:, :2], z_0[:, :2].repeat(2, 1, 1, 1, 1, 1))
        assert (tau[:, :2] == 0).all()
        assert (tau[:, 2:] > 0).all()


def test_the_student_is_shown_frames_that_the_teacher_imagines_and_the_teacher_the_true_ones(tiny_model):
    draw, z_0, shown, seen = draws(1.0), torch.randn(SHAPE), [], []

    def teacher(z, tau, *rest):
        seen.append(z)
        return tiny_model.dit(z, tau, *rest)

    def student(z, *_):
        shown.append(z)
        return torch.zeros_like(z)

    told, untold = conditions(tiny_model, ["a road"] * 6), conditions(tiny_model, [""] * 6)
    distillation_errors(student, teacher, z_0, told, told, untold, SCALE, draw)
    (z,), chords = shown, [x for x in seen if len(x) == 12]
    assert len(chords) == TEACHER_STEPS
    assert all(torch.equal(x[:6, :2], z_0[:, :2]) for x in chords)
    assert torch.equal(chords[0][:6, 2:], z[:, 2:])
    assert not torch.allclose(z[:, :2], z_0[:, :2], atol=1e-2)


@pytest.fixture
def teacher(tiny_model, tmp_path) -> Path:
    """A checkpoint of guidance 2.5."""
    path = tmp_path / "teacher.safetensors"
    save_checkpoint(path, TINY, tiny_model.state_dict(), Training(SIZE, 6, preset="tiny", guidance=SCALE))
    return path


@pytest.fixture
def tiny_preset(monkeypatch) -> None:
    """The preset of the teacher."""
    monkeypatch.setattr("gwm.pipelines.origin.make_recipe", lambda *_: tiny_recipe())


def recipe(steps: int = 3):
    """Of a student of two steps, learned in `steps`; the last stage of the tiny recipe."""
    return override(replace(distill(tiny_recipe(), 2), guidance=SCALE), f"student.steps={steps}", "warmup=1")


def test_the_view_is_one_stage_of_the_last_ones_data():
    for whole in (NANO_LONG, NANO_MVIEW):
        (stage,), last = distill(whole, 3).stages, whole.stages[-1]
        assert (stage.name, stage.steps, stage.cooldown, stage.student_steps) == ("student", 2000, 0.5, 3)
        assert replace(stage, name=last.name, steps=last.steps, cooldown=last.cooldown, student_steps=None) == last
    assert distill(NANO_LONG).stages[0].student_steps == 4
    assert distill(NANO_LONG).learning_rate == 3e-4
    assert override(distill(NANO_LONG), "learning_rate=1e-4").learning_rate == 1e-4
    with pytest.raises(ConfigError, match=r"student\.student_steps must be a whole number of at least 1, not 0"):
        distill(NANO_LONG, 0)
    with pytest.raises(ConfigError, match="has no 'student_steps' to set"):
        override(NANO_LONG, "2.student_steps=4")
    with pytest.raises(ConfigError, match="stands alone, as in gwm distill"):
        replace(NANO_LONG, stages=(*NANO_LONG.stages, distill(NANO_LONG).stages[0]))


@pytest.mark.usefixtures("tiny_preset")
def test_the_recipe_of_a_student_is_its_teachers(tmp_path):
    """Parts, frames, size, views and guidance are the checkpoint's, of whichever stage it is."""
    config = replace(TINY, actions=False, reconstruction=False, tau_shift=SHIFT)
    training = Training((128, 64), 4, preset="tiny", guidance=1.5, views=("back",))
    save_checkpoint(tmp_path / "model.safetensors", config, {}, training)
    made = student_recipe(tmp_path, 3, 0.01, 7)
    (stage,) = made.stages
    assert stage.model(made.model) == config
    assert (made.size, made.guidance, stage.frames, stage.steps) == ((128, 64), 1.5, (4,), 20)
    assert made.view_names == ("back",)


def test_a_run_gives_a_checkpoint_that_samples_in_its_steps_without_guidance(
    teacher, tiny_shards, tmp_path, elsewhere, tiny_preset
):
    result = CliRunner().invoke(
        app,
        [
            "distill", f"--from={teacher}", f"--data={tiny_shards}", "--out=run", "--student-steps=2", "--device=cpu",
            "--set=student.steps=2", "--set=student.batch=4", "--preview-every=2", "--json",
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["finished"]
    assert (tmp_path / "run" / "preview.png").is_file()
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (record["guidance"], record["start"]) == (SCALE, read_origin(teacher).sha256)
    training = load_checkpoint(tmp_path / "run").training
    assert (training.sampling_steps, training.guidance, training.frames) == (2, 1.0, 6)
    assert training.is_student
    before, after = (load_checkpoint(path).model.dit.state_dict() for path in (teacher, tmp_path / "run"))
    changed = {name for name in before if not torch.equal(before[name].half(), after[name].half())}
    assert changed
    assert not any("reconstruction" in name for name in changed)  # which this stage does not use
    rolled = CliRunner().invoke(app, ["rollout", "--checkpoint=run", "--frames=7", f"--from={tiny_shards}", "--json"])
    settings = json.loads(rolled.stdout)["settings"]
    assert (settings["steps"], settings["guidance"]) == (2, 1.0)
    rolled = CliRunner().invoke(
        app, ["rollout", "--checkpoint=run", "--frames=7", "--steps=1", f"--from={tiny_shards}", "--json"]
    )
    assert json.loads(rolled.stdout)["settings"]["steps"] == 1


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_repeats_an_unbroken_one_bit_for_bit(teacher, tiny_shards, tmp_path, stop):
    for name, stops in (("whole", (3,)), ("broken", (stop, 3))):
        for last in stops:
            showing = Showing(preview_every=2 if name == "broken" else 0)
            result = train(tiny_shards, tmp_path / name, recipe(), None, "cpu", last, start=teacher, showing=showing)
    assert result.finished
    whole, broken = (newest_state(tmp_path / name) for name in ("whole", "broken"))
    assert whole[1] == broken[1]
    assert whole[0].keys() == broken[0].keys()
    assert all(torch.equal(tensor, broken[0][name]) for name, tensor in whole[0].items())
    assert not any("teacher" in name for name in whole[0])
    start, end = read_origin(teacher).weights, load_checkpoint(tmp_path / "whole").model.state_dict()
    assert any(not torch.equal(tensor.half(), start[name].half()) for name, tensor in end.items() if "dit" in name)


def drawn(made, batch, seed, team=Team()):  # noqa: B008
    """What is random in a step of the recipe `made`."""
    return draw_random(made, made.stages[0], batch.z_0.shape[1:], seeded_generator(seed), team)


def test_a_step_learns_from_the_teacher_alone_and_leaves_it(teacher):
    """The student begins as the teacher; what is left after training is less, and the teacher is what it was."""
    origin, made = read_origin(teacher), replace(recipe(), learning_rate=1e-3)
    learner = make_learner(made, 0, CPU, None, origin=origin)
    assert learner.teacher.autoencoder is None
    assert not any(p.requires_grad for p in learner.teacher.parameters())
    kept = {name: tensor.clone() for name, tensor in learner.teacher.state_dict().items()}
    z_0 = torch.randn(2, 6, 1, TINY.channels, 4, 8)
    batch, losses = Batch(z_0, ["day road", "a bend"], torch.randn(2, 4, 7), []), []
    for _ in range(30):
        ((errors, draw),) = learn(learner, made, made.stages[0], batch, drawn(made, batch, 5), Team()).seen
        losses.append(mean_over_predicted(errors, draw.m_c).item())
        learner.optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in learner.teacher.state_dict().items())


class Half(Team):
    """One of two processes, which the other tells nothing."""

    def add(self, tensors):
        pass


def test_a_batch_that_is_shared_has_the_same_steps_and_the_teacher_reads_with_its_own_text_encoder(teacher):
    """Also where the student's has changed; guidance subtracts what the teacher says without text and actions."""
    whole = override(distill(tiny_recipe(), 4), "student.batch=4", "warmup=1")
    made, given = override(whole, "text_dropout=0", "joint_dropout=0", "action_dropout=0"), []
    learner = make_learner(made, 0, CPU, None, origin=read_origin(teacher))
    torch.nn.init.normal_(next(learner.model.text.parameters()))
    learner.teacher.dit.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    z_0, texts, actions = torch.randn(4, 6, 1, TINY.channels, 4, 8), ["a", "b", "c", "d"], torch.randn(4, 4, 7)

    def draw_of(team, rows):
        batch = Batch(z_0[rows], texts[rows], actions[rows], [])
        return learn(learner, made, made.stages[0], batch, drawn(made, batch, 1, team), team).seen[0][1]

    whole = draw_of(Team(), slice(None))
    parts = [draw_of(Half(0, 2), slice(0, 2)), draw_of(Half(1, 2), slice(2, 4))]
    assert len(set(whole.tau[:, -1].tolist())) > 1
    for name in ("tau", "following", "eps"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert len(given) == 3 * TEACHER_STEPS
    _, _, text, pooled, told = given[0]
    tokens, vectors = learner.teacher.encode_text([*texts, "", "", "", ""])
    assert torch.equal(text, tokens)
    assert torch.equal(pooled, vectors)
    assert not told[:4].isnan().all(dim=(1, 2)).any()
    assert told[4:].isnan().all()


def test_the_teacher_is_compiled_as_the_student_is(teacher, monkeypatch):
    compiled = []
    monkeypatch.setattr(Layer, "compile", lambda self: compiled.append(self))
    learner = make_learner(recipe(), 0, CPU, None, origin=read_origin(teacher), compiled=True)
    assert compiled == [*learner.model.dit.layers, *learner.teacher.dit.layers]


def test_a_model_without_text_encoder_is_distilled_from_embedded_texts(tmp_path):
    data = dataset(tmp_path / "data")
    with_latents(data, small_autoencoder(), text=Words(), about_text="by words")
    whole = replace(tiny_recipe(1), model=replace(TINY, encoders="none"))
    train(data, tmp_path / "teacher", whole, None, "cpu", reading=Reading(workers=0))
    made = override(distill(whole, 2), "student.steps=2")
    assert train(data, tmp_path / "student", made, None, "cpu", start=tmp_path / "teacher").finished


def test_passes_add_up_to_the_whole_batch(teacher):
    origin, gradients = read_origin(teacher), []
    batch = Batch(torch.randn(4, 6, 1, TINY.channels, 4, 8), ["road", "", "a", "b"], torch.randn(4, 4, 7), [])
    for accumulate in (1, 2):
        made = override(recipe(), "student.batch=4", f"student.accumulate={accumulate}", "imagined_share=0.5")
        learner = make_learner(made, 0, CPU, None, origin=origin)
        learn(learner, made, made.stages[0], batch, drawn(made, batch, 1), Team())
        gradients.append([p.grad for p in learner.model.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*gradients, strict=True))


@pytest.mark.usefixtures("tiny_preset", "elsewhere")
def test_what_can_be_no_teacher_is_refused(teacher, tiny_model, tiny_shards, tmp_path):
    student = tmp_path / "student.safetensors"
    training = Training(SIZE, 6, preset="tiny", guidance=1.0, stages={"student": 3}, sampling_steps=2)
    save_checkpoint(student, TINY, tiny_model.state_dict(), training)
    before = sorted(tmp_path.rglob("*"))
    for call in (
        lambda: student_recipe(student, 4, 1.0, 0),
        lambda: train(tiny_shards, tmp_path / "run", recipe(), None, "cpu", start=student),
        lambda: train(tiny_shards, tmp_path / "run", tiny_recipe(1), None, "cpu", start=student),
    ):
        with pytest.raises(ConfigError, match=r"student\.safetensors is a student, of 2 sampling steps"):
            call()
    with pytest.raises(ConfigError, match="name its checkpoint with --from"):
        train(tiny_shards, tmp_path / "run", recipe(), None, "cpu")
    with pytest.raises(ConfigError, match="--fsdp spreads no teacher"):
        train(tiny_shards, tmp_path / "run", recipe(), None, "cpu", start=teacher, fsdp=True)
    two = Stage("student", 2, (4,), 2, actions=True, views=2, student_steps=2)
    more = replace(recipe(), variant="mview", stages=(two,))
    with pytest.raises(ConfigError, match=r"does not fit stage student of this recipe: missing .*view"):
        train(tiny_shards, tmp_path / "run", more, None, "cpu", start=teacher)
    refused = CliRunner().invoke(app, ["distill"])
    assert refused.exit_code == 1
    assert "name a run or checkpoint with --from" in refused.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_header_without_sampling_steps_is_of_30(teacher, tmp_path):
    tensors, header = load_tensors(teacher, FORMAT)
    assert header["training"].pop("sampling_steps") == 30
    save_tensors(tmp_path / "old.safetensors", tensors, header)
    training = load_checkpoint(tmp_path / "old.safetensors").training
    assert training.sampling_steps == 30
    assert not training.is_student
    assert training == load_checkpoint(teacher).training


def test_the_grid_is_shifted_as_in_sampling():
    draw = draws()
    assert set(draw.tau[:, -1].tolist()) <= set(shift_tau(torch.linspace(1, 0, STEPS + 1), SHIFT).tolist())
