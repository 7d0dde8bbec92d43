"""Recipes: the paper's numbers, what they refuse, `--set`, parts of them, and their command line."""

import json
from dataclasses import asdict, fields, replace

import pytest
import torch
from conftest import tiny_recipe
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core import ConfigError
from gwm.core.config import preset
from gwm.pipelines.checkpoint import load_checkpoint
from gwm.pipelines.info import describe_config
from gwm.pipelines.recipe import Recipe, Stage, finetune_mview, make_recipe, override, pretrain, select
from gwm.pipelines.recipes import NANO_LONG, NANO_MVIEW, RECIPES, SD3_LONG, SD3_MVIEW, SMALL_MVIEW
from gwm.pipelines.train import TrainResult
from gwm.shards.index import open_dataset
from gwm.shards.world import rig_cameras

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def calls(monkeypatch):
    """What the commands pass on to training, which does not run."""
    made = []

    def train(data, out, recipe, autoencoder, device, stop_after, skip_nonfinite, showing, **_):
        made.append((data, out, recipe, stop_after))
        return TrainResult(str(out), stop_after, False, 0.0)

    monkeypatch.setattr("gwm.pipelines.train.train", train)
    return made


def gwm(*arguments, answer=None):
    return CliRunner().invoke(app, [str(a) for a in arguments], input=answer)


def refused(*arguments):
    result = gwm(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.count("error:") == 1
    return result.stderr


def test_the_papers_numbers():
    """Section 7.2."""
    stages = [(s.name, s.steps, s.frames, s.views) for s in SD3_MVIEW.stages]
    mixed = (16, 20, 24)
    assert stages == [
        ("1a", 18_000, (1,), 1), ("1b", 24_000, mixed, 1), ("1c", 20_000, mixed, 1), ("2", 20_000, (25,), 1),
        ("3", 6_000, (8,), 6),
    ]  # fmt: skip
    assert [s.batch for s in SD3_MVIEW.stages[:3]] == [768, 64, 64]
    assert (SD3_LONG.learning_rate, SD3_LONG.warmup, SD3_LONG.size, SD3_LONG.guidance) == (5e-5, 1000, (512, 288), 4.0)
    assert SD3_LONG.condition_probabilities == pytest.approx([1 / 15, 2 / 15, 4 / 15, 8 / 15])
    assert (SD3_LONG.action_dropout, SD3_LONG.model.mask_ratio) == (0.15, 0.25)
    mixtures = [dict(s.data or ()) for s in SD3_MVIEW.stages]
    assert mixtures == [{"opendv": 1}] * 3 + [{"nuscenes": 0.5, "opendv": 0.5}, {"nuscenes": 1}]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=" ".join(map(str, RECIPES)).split(") ("))
def test_every_recipe_has_the_papers_stages(recipe):
    names = ["1a", "1b", "1c", "2", "3"]
    assert [s.name for s in recipe.stages] == (names if recipe.variant == "mview" else names[:-1])
    parts = [(s.temporal, s.reconstruction, s.actions) for s in recipe.stages[:4]]
    assert parts == [(False, False, False), (True, False, False), (True, True, False), (True, True, True)]
    assert [s.frames for s in recipe.stages] == [s.frames for s in SD3_MVIEW.stages][: len(recipe.stages)]
    assert sum(recipe.condition_probabilities) == pytest.approx(1)
    assert recipe.steps == sum(s.steps for s in recipe.stages)
    assert set(recipe.action_modes) == {"motion", "trajectory", "goal", "command"}


def test_nano_mview_goes_on_where_long_ends_with_the_rig_of_nuscenes():
    assert NANO_MVIEW.stages[:-1] == NANO_LONG.stages
    assert (NANO_MVIEW.stages[-1].views, NANO_MVIEW.stages[-1].frames, NANO_MVIEW.size) == (6, (8,), (128, 64))
    assert NANO_MVIEW.view_names == tuple(camera.view for camera in rig_cameras("nuscenes"))


def test_small_has_about_100_million_parameters():
    assert 90e6 < describe_config(preset("small"))["parameters"]["total"] < 110e6
    assert SMALL_MVIEW.model == preset("small")


@pytest.mark.parametrize(
    ("setting", "place", "field", "value"),
    [
        ("2.steps=77", "2", "steps", 77),
        ("1b.frames=8, 12", "1b", "frames", (8, 12)),
        ("1c.frames=9", "1c", "frames", (9,)),
        ("2.cooldown=1/4", "2", "cooldown", 0.25),
        ("2.reconstruction=true", "2", "reconstruction", True),
        ("2.data=nuscenes:0.5,opendv:0.5", "2", "data", (("nuscenes", 0.5), ("opendv", 0.5))),
        ("2.data=none", "2", "data", None),
        ("1a.accumulate=4", "1a", "accumulate", 4),
        ("learning_rate=3e-4", "", "learning_rate", 3e-4),
        ("warmup=7", "", "warmup", 7),
        ("size=256,128", "", "size", (256, 128)),
        ("condition_probabilities=1/3,2/3", "", "condition_probabilities", (1 / 3, 2 / 3)),
        ("action_modes=goal", "", "action_modes", ("goal",)),
        ("view_names=front,back", "", "view_names", ("front", "back")),
        ("model.mask_ratio=0.5", "model", "mask_ratio", 0.5),
        ("model.checkpointing=true", "model", "checkpointing", True),
        ("model.view_attention=place", "model", "view_attention", "place"),
        ("model.mask_kinds=time", "model", "mask_kinds", ("time",)),
        ("model.mask_kinds=", "model", "mask_kinds", ()),
        ("model.mask_tau=0,0.5", "model", "mask_tau", (0.0, 0.5)),
    ],
)
def test_set_changes_one_field_by_its_type(setting, place, field, value):
    changed = override(NANO_LONG, setting)

    def at(recipe):
        return {"": recipe, "model": recipe.model}.get(place) or next(s for s in recipe.stages if s.name == place)

    got = getattr(at(changed), field)
    assert got == value
    assert type(got) is type(value)
    restored = {field: getattr(at(NANO_LONG), field)}
    if place in ("", "model"):
        back = replace(changed, **restored) if not place else replace(changed, model=replace(changed.model, **restored))
    else:
        back = replace(changed, stages=tuple(replace(s, **restored) if s.name == place else s for s in changed.stages))
    assert back == NANO_LONG


def test_several_settings_hold_together_and_the_last_one_counts():
    """SD3's autoencoder has 16 channels: neither setting is possible without the other."""
    changed = override(NANO_LONG, "model.encoders=sd3", "model.channels=16", "2.steps=1", "2.steps=2")
    assert (changed.model.encoders, changed.model.channels, changed.stages[-1].steps) == ("sd3", 16, 2)
    assert override(NANO_LONG) == NANO_LONG
    with pytest.raises(ConfigError, match="16 channels, not 12"):
        override(NANO_LONG, "model.encoders=sd3")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("2.steps", "write field=value"),
        ("4.steps=1", "no '4'; there are model, 1a, 1b, 1c, 2"),
        ("2.step=1", "2 has no 'step' to set; it has steps, frames"),
        ("2.name=x", "2 has no 'name' to set"),
        ("lr=1", "the recipe has no 'lr' to set; it has size, learning_rate"),
        ("seed=1", "no 'seed' to set"),
        ("model.views=2", "model has no 'views' to set; it has width"),
        ("2.steps=ten", "2.steps is a whole number, not 'ten'"),
        ("2.steps=1.5", "2.steps is a whole number"),
        ("2.actions=yes", "true or false, not 'yes'"),
        ("learning_rate=fast", "a number or a fraction, not 'fast'"),
        ("2.cooldown=1/0", "a number or a fraction, not '1/0'"),
        ("size=128x64", "2 separated by commas, each a whole number"),
        ("1b.frames=4,,6", "values separated by commas, each a whole number"),
        ("2.data=nuscenes", "name:share, separated by commas, or none"),
        ("model.branches=three", "one of two, shared"),
    ],
)
def test_what_set_cannot_read_is_named_with_what_there_is(setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        override(NANO_LONG, setting)
    assert f"--set {setting}" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("1a.steps=0", "1a.steps must be a whole number of at least 1, not 0"),
        ("1b.batch=-1", "1b.batch must be a whole number of at least 1, not -1"),
        ("1a.frames=4", r"1a.frames \(4,\): without temporal blocks"),
        ("1b.frames=", r"1b.frames \(\): give at least one"),
        ("1b.frames=0", "1b.frames must be a whole number of at least 1"),
        ("1a.actions=true", "1a.actions True: they act in temporal blocks"),
        ("2.views=6", "2.views 6: only --variant mview"),
        ("2.views=0", "2.views must be a whole number of at least 1"),
        ("2.temporal=false", "without temporal blocks"),
        ("2.reconstruction=false", "2.reconstruction False: stage 1c before it has this part already"),
        ("2.cooldown=1.5", "2.cooldown 1.5: a share"),
        ("2.cooldown=nan", "2.cooldown nan: a share"),
        ("2.accumulate=3", "2.accumulate 3: must divide batch 8"),
        ("2.data=a:0.5,b:0.4", "2.data .* sum to 1"),
        ("2.data=a:0.5,a:0.5", "2.data .* different sources"),
        ("2.data=a:1.5,b:-0.5", "2.data .* share above 0"),
        ("2.data=", r"2.data \(\)"),
        ("learning_rate=0", "learning_rate 0.0: must lie above 0"),
        ("learning_rate=nan", "learning_rate nan"),
        ("warmup=0", "warmup must be a whole number of at least 1"),
        ("weight_decay=-0.1", r"weight_decay -0.1: must lie in \[0, 1\]"),
        ("gradient_clip=0", "gradient_clip 0.0"),
        ("ema=1", r"ema 1.0: must lie in \[0, 1\)"),
        ("text_dropout=1.1", "text_dropout 1.1"),
        ("guidance=inf", "guidance inf"),
        ("action_modes=motion,fly", "action_modes .*fly.*: use motion, trajectory, goal, command"),
        ("action_modes=", "action_modes"),
        ("condition_probabilities=0.5,0.4", "condition_probabilities .* sum to 1"),
        ("condition_probabilities=1.5,-0.5", "condition_probabilities"),
        ("view_names=up", "view_names .*up.*: give at least 1 different ones of front"),
        ("size=120,64", "size 120x64: .* multiples of 16"),
        ("size=2048,64", "size 2048x64: at most 1024 pixels"),
        ("model.mask_ratio=0.3", "model.mask_ratio 0.3: hides 9.6 of the 32 tokens of a frame in stage 1c"),
        ("model.mask_ratio=1/16", "hides 0.5 of the 8 tokens of a row"),
        ("model.mask_ratio=1", "mask_ratio 1.0 must lie in"),
        ("model.tau_shift=0", "tau_shift 0.0"),
        ("model.width=130", "width 130"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(NANO_LONG, setting)


def test_stages_that_do_not_follow_are_refused():
    stage = NANO_LONG.stages[-1]
    with pytest.raises(ConfigError, match="with different names"):
        replace(NANO_LONG, stages=(stage, stage))
    with pytest.raises(ConfigError, match="give at least one"):
        replace(NANO_LONG, stages=())
    with pytest.raises(ConfigError, match=r"4.views 1: stage 3 before it has view blocks already"):
        replace(NANO_MVIEW, stages=(*NANO_MVIEW.stages, replace(stage, name="4")))
    with pytest.raises(ConfigError, match=r"view_names .* at least 6 different ones"):
        replace(NANO_MVIEW, view_names=("front", "back"))
    with pytest.raises(ConfigError, match=r"hides 0.5 of the 2 tokens of a row in stage 3"):
        override(NANO_MVIEW, "size=32,64", "model.mask_kinds=spatial")
    with pytest.raises(ConfigError, match="stage name"):
        Stage("a.b", 1, (1,), 1)
    with pytest.raises(ConfigError, match="seed -1"):
        make_recipe("long", "nano", 1, -1)


def test_a_part_is_the_recipe_up_to_a_stage():
    assert select(NANO_MVIEW, "3") == NANO_MVIEW
    assert select(NANO_MVIEW, "2").stages == NANO_LONG.stages
    assert [s.name for s in pretrain(NANO_MVIEW).stages] == ["1a", "1b", "1c"]
    assert [s.name for s in finetune_mview(NANO_MVIEW).stages] == ["3"]
    for part in (select(NANO_LONG, "1b"), pretrain(NANO_LONG)):
        assert replace(part, stages=NANO_LONG.stages) == NANO_LONG
    with pytest.raises(ConfigError, match="no stage 3; long has 1a, 1b, 1c, 2"):
        select(NANO_LONG, "3")
    with pytest.raises(ConfigError, match="recipe long nano has no stage of several views"):
        finetune_mview(NANO_LONG)


def test_the_stages_before_a_selected_one_must_be_finished():
    assert select(NANO_LONG, "1a", finished=()) == select(NANO_LONG, "1a")
    assert select(NANO_LONG, "1c", finished=("1a", "1b")) == select(NANO_LONG, "1c")
    with pytest.raises(ConfigError, match="stage 1c comes after 1b, which is not finished: train that with --stage 1b"):
        select(NANO_LONG, "1c", finished=("1a",))


def test_dry_run_prints_the_resolved_recipe_and_needs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.nn.Module.__init__", lambda *_: pytest.fail("a network was built"))
    options = ("--variant", "mview", "--preset", "sd3-medium", "--steps-scale", 0.5, "--seed", 3, "--dry-run")
    printed = json.loads(gwm("train", *options, "--set", "2.steps=9", "--set", "warmup=5", "--json").stdout)
    wanted = override(make_recipe("mview", "sd3-medium", 0.5, 3), "2.steps=9", "warmup=5")
    assert printed == json.loads(json.dumps(asdict(wanted)))
    table = gwm("train", *options, "--set", "2.steps=9").stdout
    settable = [f.name for f in (*fields(Recipe), *fields(Stage)) if f.name not in ("model", "stages", "name")]
    assert [name for name in settable if name not in table] == []
    assert "9000" in table
    assert "nuscenes" in table
    assert "model.mask_ratio" in table
    names = ["1a", "1b", "1c", "2", "3"]
    for command, expected in ((("train", "--stage", "1b"), names[:2]), (("pretrain",), names[:3])):
        stages = json.loads(gwm(*command, "--dry-run", "--json").stdout)["stages"]
        assert [stage["name"] for stage in stages] == expected
    stages = json.loads(gwm("finetune-mview", "--dry-run", "--json").stdout)["stages"]
    assert [stage["views"] for stage in stages] == [6]
    assert list(tmp_path.iterdir()) == []


def test_stage_3_alone_keeps_the_sizes_of_what_it_starts_from():
    start = load_checkpoint().model.config
    options = ("finetune-mview", "--from", "nano-long", "--dry-run", "--json")
    model = json.loads(gwm(*options, "--set", "model.mask_ratio=0.5").stdout)["model"]
    assert (model["patch"], model["depth"], model["mask_ratio"]) == (start.patch, start.depth, 0.5)
    assert start.depth != preset("nano").depth
    assert "is a model of --preset nano, not small" in refused(*options, "--preset", "small")


def test_one_stage_alone_goes_on_with_a_model_that_is_there(calls):
    options = ("train", "--only", "2", "--data", "somewhere")
    assert gwm(*options, "--from", "nano-long", "--set", "2.steps=7").exit_code == 0
    ((_, out, recipe, stop),) = calls
    assert [(s.name, s.steps) for s in recipe.stages] == [("2", 7)]
    assert (recipe.model, str(out), stop) == (load_checkpoint().model.config, "runs/long-nano-2", 7)
    assert "name its checkpoint with --from" in refused(*options)
    assert "no stage 3; long has" in refused("train", "--only", "3", "--from", "nano-long")


def test_train_and_its_views_are_one_run(calls, tmp_path):
    (tmp_path / "runs" / "long-nano" / "stages").mkdir(parents=True)
    (tmp_path / "runs" / "long-nano" / "stages" / "1a.done").write_text("{}")
    options = ("--data", "somewhere", "--set", "1a.steps=5", "--json")
    for command in (("train",), ("train", "--stage", "1b"), ("pretrain",)):
        assert json.loads(gwm(*command, *options).stdout)["finished"]
    assert {(*map(str, data), str(out)) for data, out, _, _ in calls} == {("somewhere", "runs/long-nano")}
    assert {recipe for _, _, recipe, _ in calls} == {override(NANO_LONG, "1a.steps=5")}
    assert [stop for *_, stop in calls] == [5 + 400 + 400 + 4900, 5 + 400, 5 + 400 + 400]


def test_a_stopped_run_is_not_finished(calls, monkeypatch):
    monkeypatch.setattr("gwm.pipelines.train.train", lambda *_, **__: TrainResult("runs/x", 699, False, 0.0))
    result = gwm("train", "--stage", "1a", "--set", "1a.steps=700", "--data", "somewhere", "--json")
    assert result.exit_code == 1
    assert not json.loads(result.stdout)["finished"]


def test_several_datasets_are_named_or_found_by_the_stages_names(calls, tmp_path):
    for given in (("--data", "a", "--data", "b"), ("--data", "a,b")):
        assert gwm("pretrain", *given).exit_code == 0
    for name in ("opendv", "nuscenes"):
        (tmp_path / "data" / "shards" / name).mkdir(parents=True)
        (tmp_path / "data" / "shards" / name / "dataset.json").write_text("{}")
    assert gwm("train", "--preset", "sd3-medium").exit_code == 0
    assert "several datasets" in refused("train")  # whose stages name none
    found = [[str(path) for path in data] for data, *_ in calls]
    assert found == [["a", "b"], ["a", "b"], ["data/shards/opendv", "data/shards/nuscenes"]]


def test_what_cannot_be_trained_is_refused(calls, tmp_path):
    assert "with --from" in refused("finetune-mview", "--data", "a")
    assert "comes after 1a" in refused("train", "--stage", "1b", "--data", "a")
    assert "no stage 9" in refused("train", "--stage", "9", "--dry-run")
    assert "1a.steps must be" in refused("train", "--set", "1a.steps=0")
    assert calls == []
    assert list(tmp_path.iterdir()) == []


def test_train_with_no_shards_offers_to_render_the_world(calls, tmp_path, monkeypatch):
    monkeypatch.setattr("gwm.cli.train.WORLD_SCENES", 1)
    monkeypatch.setattr("gwm.cli.train.WORLD_FRAMES", 3)
    for answer in ("n\n", None):
        declined = gwm("train", answer=answer)
        assert declined.exit_code == 1
        assert "1 scenes of 3 frames at 128x64 into data/shards/world" in declined.stderr
        assert "gwm preprocess world" in declined.stderr
    assert calls == []
    assert list(tmp_path.iterdir()) == []
    assert gwm("train", "--json", answer="y\n").exit_code == 0
    world = open_dataset(tmp_path / "data" / "shards" / "world")
    assert (world.source, world.counts["frames"], world.row(0).sizes) == ("world", 3, ((128, 64),))
    monkeypatch.setenv("GWM_DATA", "elsewhere")
    assert gwm("pretrain", "--yes").exit_code == 0
    assert "Render" not in gwm("train").stderr  # now there are shards
    assert [str(data) for (data,), *_ in calls] == ["data/shards/world", *["elsewhere/shards/world"] * 2]


def test_a_stage_at_a_time_ends_like_all_at_once(tiny_shards, autoencoder, tmp_path, monkeypatch):
    """Through the command line, with the real training."""
    monkeypatch.setitem(RECIPES, ("long", "tiny"), tiny_recipe(2))
    options = ("--preset", "tiny", "--data", tiny_shards, "--autoencoder", autoencoder, "--device", "cpu", "--json")
    assert gwm("train", *options, "-o", "whole").exit_code == 0
    assert "comes after 1a" in refused("train", *options, "-o", "steps", "--stage", "1b")
    for stage in ("1a", "1b"):
        report = json.loads(gwm("train", *options, "-o", "steps", "--stage", stage).stdout)
        assert (report["finished"], report["steps"]) == (True, 2 if stage == "1a" else 4)
    assert json.loads(gwm("pretrain", *options, "-o", "steps").stdout)["steps"] == 6
    assert json.loads(gwm("train", *options, "-o", "steps").stdout)["steps"] == 8
    whole, steps = (load_checkpoint(tmp_path / run).model.state_dict() for run in ("whole", "steps"))
    assert whole.keys() == steps.keys()
    assert all(torch.equal(tensor, steps[name]) for name, tensor in whole.items())
