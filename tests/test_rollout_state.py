"""Rollouts that are stopped, killed, repeated, mixed up: what they leave, and that they end in the same frames."""

import json
import os
import resource
import signal
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
import torch
from conftest import SIZE, TINY
from toy_shards import make_chunk, write
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core import ConfigError, WeightsError
from gwm.core.sampler import sample
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Checkpoint, Training, save_checkpoint
from gwm.pipelines.rollout import RolloutSettings, make_scene, rollout, rollouts
from gwm.pipelines.rollout_out import Gallery, Outputs
from gwm.pipelines.video_out import write_video
from gwm.shards import ShardError
from gwm.shards.video import read_frames

WINDOW, FRAMES = 6, 20  # the first window shows 6 frames, each other one 3 more
SETTINGS = RolloutSettings(FRAMES, steps=2, guidance=2.0)
SAVED = Outputs(save_frames=True)


@pytest.fixture
def checkpoint(tiny_model):
    return Checkpoint(tiny_model.requires_grad_(False), Training(SIZE, WINDOW, preset="tiny"), "tiny")


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def record(folder):
    return json.loads((folder / "rollout.json").read_text())


def pictures(folder):
    """Every frame as the model drew it, and the video's bytes, which follow from them."""
    return [p.read_bytes() for p in sorted((folder / "frames").iterdir())], (folder / "rollout.mp4").read_bytes()


def videos(folder):
    """How many frames of each video decode."""
    return {p.name: sum(1 for _ in read_frames(p)) for p in folder.glob("*.mp4")}


@pytest.fixture
def whole(checkpoint, tiny_shards, tmp_path):
    """A rollout that nothing disturbed."""
    rollout(checkpoint, tmp_path / "whole", SETTINGS, tiny_shards, outputs=SAVED)
    return tmp_path / "whole"


def drawing(monkeypatch, last=10**6, then=lambda: None):
    """Count the windows that are drawn; `then` is done while the one after the `last` is."""
    counted = []

    def draw(*arguments):
        counted.append(1)
        if len(counted) > last:
            then()
        return sample(*arguments)

    monkeypatch.setattr("gwm.pipelines.rollout.sample", draw)
    return counted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_what_plays_and_the_same_call_goes_on(
    checkpoint, tiny_shards, tmp_path, whole, monkeypatch, capsys, number
):
    drawing(monkeypatch, 2, lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        rollout(checkpoint, tmp_path / "out", SETTINGS, tiny_shards, outputs=SAVED)
    assert signal.getsignal(number) is before
    assert videos(tmp_path / "out") == {"rollout.mp4": 9, "side-by-side.mp4": 9}
    assert cv2.imread(str(tmp_path / "out" / "contact.png")) is not None
    stopped = record(tmp_path / "out")
    assert (stopped["finished"], stopped["frames"]) == (False, 9)
    assert "contact.png" in stopped["files"]
    assert "stopped after 9 of 20 frames" in capsys.readouterr().err
    drawn = drawing(monkeypatch)
    result = rollout(checkpoint, tmp_path / "out", SETTINGS, tiny_shards, outputs=SAVED)
    assert len(drawn) == 4  # of 6 windows
    assert (result.finished, result.frames) == (True, FRAMES)
    assert pictures(tmp_path / "out") == pictures(whole)
    assert names(tmp_path / "out") == names(whole)


def test_a_signal_while_files_are_written_waits_for_the_next_window(checkpoint, tiny_shards, tmp_path, monkeypatch):
    add = Gallery.add

    def add_and_stop(self, images):
        if self.done == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        add(self, images)

    monkeypatch.setattr(Gallery, "add", add_and_stop)
    with pytest.raises(KeyboardInterrupt):
        rollout(checkpoint, tmp_path, SETTINGS, tiny_shards)
    assert videos(tmp_path)["rollout.mp4"] == record(tmp_path)["frames"] == 9


def test_a_signal_before_the_first_window_leaves_no_pictures(checkpoint, tiny_shards, tmp_path, monkeypatch):
    drawing(monkeypatch, 0, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        rollout(checkpoint, tmp_path / "out", SETTINGS, tiny_shards)
    assert names(tmp_path / "out") == ["rollout.json", "unfinished"]
    assert record(tmp_path / "out")["files"] == []


def test_what_a_killed_rollout_leaves_is_used_or_removed(checkpoint, tiny_shards, tmp_path, whole, monkeypatch, capsys):
    """Two windows, a damaged one, one after it, half-written files, and a record without any progress."""
    out = tmp_path / "out"
    drawing(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        rollout(checkpoint, out, SETTINGS, tiny_shards, outputs=SAVED)
    for name in ("rollout.mp4", "side-by-side.mp4", "contact.png"):
        (out / name).unlink()
    damaged = out / "unfinished" / "window-00002.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    (out / ".rollout.fragments.99.tmp.mp4").write_bytes(b"half")
    (out / "unfinished" / ".window-00004.safetensors.99.tmp.safetensors").write_bytes(b"half")
    drawn = drawing(monkeypatch)
    rollout(checkpoint, out, SETTINGS, tiny_shards, outputs=SAVED)
    assert len(drawn) == 4
    assert "drawing on from window 2" in capsys.readouterr().err
    assert pictures(out) == pictures(whole)
    assert names(out) == names(whole)


def test_a_finished_rollout_is_not_drawn_again(checkpoint, tiny_shards, whole, monkeypatch, capsys):
    drawn, before = drawing(monkeypatch), {p: p.stat().st_mtime_ns for p in whole.rglob("*")}
    (whole / "unfinished").mkdir()  # killed between the record and this
    result = rollout(checkpoint, whole, SETTINGS, tiny_shards, outputs=SAVED)
    assert drawn == []
    assert json.loads(json.dumps(asdict(result))) == record(whole)
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*")} == before
    assert "holds this rollout already" in capsys.readouterr().err


def test_a_finished_rollout_that_lost_a_file_is_drawn_again(checkpoint, tiny_shards, whole, monkeypatch):
    before = pictures(whole)
    (whole / "rollout.mp4").unlink()
    rollout(checkpoint, whole, SETTINGS, tiny_shards, outputs=SAVED)
    assert (whole / "rollout.mp4").exists()
    assert pictures(whole) == before


def test_the_same_source_by_another_path_is_the_same_rollout(checkpoint, tiny_shards, whole, monkeypatch):
    drawn = drawing(monkeypatch)
    (whole / "again").symlink_to(tiny_shards)
    rollout(checkpoint, whole, SETTINGS, whole / "again", outputs=SAVED)
    assert drawn == []


def test_a_stopped_sample_names_the_folder_of_the_command(checkpoint, tiny_shards, tmp_path, monkeypatch, capsys):
    drawing(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    scene = make_scene(checkpoint, SETTINGS, tiny_shards)
    with pytest.raises(KeyboardInterrupt):
        rollouts(checkpoint, tmp_path / "two", SETTINGS, scene, 2, Outputs())
    assert f"with -o {tmp_path / 'two'} goes on" in capsys.readouterr().err


@pytest.mark.parametrize("finished", [True, False])
def test_another_rollout_is_refused_with_the_difference(checkpoint, tiny_shards, tmp_path, monkeypatch, finished):
    out = tmp_path / "out"
    drawing(monkeypatch, 10 if finished else 1, lambda: os.kill(os.getpid(), signal.SIGINT))
    if finished:
        rollout(checkpoint, out, SETTINGS, tiny_shards)
    else:
        with pytest.raises(KeyboardInterrupt):
            rollout(checkpoint, out, SETTINGS, tiny_shards)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}

    def refused(message, model=checkpoint, settings=SETTINGS, **more):
        with pytest.raises(ConfigError, match=f"holds another rollout: {message}.*another folder with -o"):
            rollout(model, out, settings, tiny_shards, **more)

    refused(r"settings\.steps \(2 there, 3 here\)", settings=replace(SETTINGS, steps=3))
    refused(r"settings\.frames \(20 there, 30 here\)", settings=replace(SETTINGS, frames=30))
    refused(r"settings\.seed \(0 there, 1 here\)", settings=replace(SETTINGS, seed=1))
    refused(r"actions \(source there, stop here\), speed", actions="stop")
    refused(r"text \(day road there, night here\)", prompt="night")
    refused(r"start .*tiny-004 there, .*tiny-000 here\), start_crc32c", key="tiny-000")
    refused(r"outputs\.gif \(False there, True here\)", outputs=Outputs(gif=True))
    other = Checkpoint(WorldModel(TINY), checkpoint.training, "tiny")
    refused("weights_crc32c", other)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    (out / "rollout.json").write_text("{")
    with pytest.raises(ShardError, match=r"rollout\.json cannot be read"):
        rollout(checkpoint, out, SETTINGS, tiny_shards)


def test_two_rollouts_do_not_write_into_one_folder(checkpoint, tiny_shards, tmp_path, monkeypatch):
    refusals = []

    def second():
        with pytest.raises(ShardError, match="another run is writing into"):
            rollout(checkpoint, tmp_path, SETTINGS, tiny_shards)
        refusals.append(1)

    drawing(monkeypatch, 3, second)
    assert rollout(checkpoint, tmp_path, SETTINGS, tiny_shards).finished
    assert refusals


def test_sample_i_is_the_rollout_of_seed_plus_i(checkpoint, tiny_shards, tmp_path, monkeypatch):
    settings = replace(SETTINGS, seed=5)
    scene = make_scene(checkpoint, settings, tiny_shards)
    results = rollouts(checkpoint, tmp_path / "four", settings, scene, 4, SAVED)
    assert [result.settings.seed for result in results] == [5, 6, 7, 8]
    assert names(tmp_path / "four") == ["sample-000", "sample-001", "sample-002", "sample-003"]
    rollout(checkpoint, tmp_path / "alone", replace(SETTINGS, seed=7), tiny_shards, outputs=SAVED)
    assert pictures(tmp_path / "alone") == pictures(tmp_path / "four" / "sample-002")
    assert pictures(tmp_path / "alone") != pictures(tmp_path / "four" / "sample-001")
    drawn = drawing(monkeypatch)
    assert rollouts(checkpoint, tmp_path / "four", settings, scene, 4, SAVED) == results
    assert drawn == []
    with pytest.raises(ConfigError, match="holds several samples"):
        rollout(checkpoint, tmp_path / "four", settings, tiny_shards)
    with pytest.raises(ConfigError, match="holds a single rollout"):
        rollouts(checkpoint, tmp_path / "alone", settings, scene, 2, SAVED)
    with pytest.raises(ConfigError, match="--samples 0"):
        rollouts(checkpoint, tmp_path / "new", settings, scene, 0, SAVED)


def test_a_full_disk_is_one_error_what_was_written_plays_and_it_goes_on(
    checkpoint, tiny_shards, tmp_path, monkeypatch, whole
):
    out = tmp_path / "out"
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))

    drawing(monkeypatch, 3, fill)
    try:
        with pytest.raises((WeightsError, ShardError), match="cannot write") as refusal:
            rollout(checkpoint, out, SETTINGS, tiny_shards, outputs=SAVED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert str(out) in str(refusal.value)
    assert not [name for name in names(out) if "tmp" in name]
    drawing(monkeypatch)
    rollout(checkpoint, out, SETTINGS, tiny_shards, outputs=SAVED)
    assert pictures(out) == pictures(whole)


@pytest.fixture
def three_views():
    """A model of three views, every parameter random, at the size of the toy shards."""
    torch.manual_seed(0)
    model = WorldModel(replace(TINY, views=3)).eval()
    for parameter in model.dit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Checkpoint(model.requires_grad_(False), Training((32, 16), WINDOW, "mview", "tiny"), "three views")


@pytest.mark.parametrize(("views", "shown"), [(None, 3), (2, 2), (1, 1)])
def test_views_are_drawn_together_and_tiled(three_views, tmp_path, views, shown):
    rig = ("front", "front_right", "back_right")
    shards = write(tmp_path / "toy", [make_chunk(1, 30, rig)])
    result = rollout(three_views, tmp_path / "out", SETTINGS, shards, views=views)
    assert result.views == rig[:shown]
    made = ["contact.png", "rollout.json", "rollout.mp4", "side-by-side.mp4"]
    assert names(tmp_path / "out") == sorted(made + ([f"view-{view}.mp4" for view in rig[:shown]] if shown > 1 else []))
    assert set(videos(tmp_path / "out").values()) == {FRAMES}
    _, image = next(read_frames(tmp_path / "out" / "rollout.mp4"))
    assert image.shape[1] >= 512
    assert image.shape[1] / image.shape[0] == {1: 2, 2: 4, 3: 2}[shown]  # back_right lies in a second row
    again = rollout(three_views, tmp_path / "again", SETTINGS, shards, views=views)
    assert asdict(again) | {"seconds_per_frame": 0} == asdict(result) | {"seconds_per_frame": 0}


def test_more_views_than_the_checkpoint_or_the_start_has_are_refused(
    three_views, checkpoint, tiny_shards, tmp_path, capsys
):
    with pytest.raises(ConfigError, match="--views 4: three views has learned 3 views"):
        rollout(three_views, tmp_path / "out", SETTINGS, tiny_shards, views=4)
    with pytest.raises(ConfigError, match=r"--views 2: tiny has learned one view; .*mview"):
        rollout(checkpoint, tmp_path / "out", SETTINGS, tiny_shards, views=2)
    with pytest.raises(ConfigError, match=r"--views 2: .*tiny-004 shows 1 \(front\)"):
        rollout(three_views, tmp_path / "out", SETTINGS, tiny_shards, views=2)
    with pytest.raises(ConfigError, match="--views 0"):
        rollout(checkpoint, tmp_path / "out", SETTINGS, tiny_shards, views=0)
    assert not (tmp_path / "out").exists()
    assert rollout(three_views, tmp_path / "out", replace(SETTINGS, frames=4), tiny_shards).views == ("front",)
    assert "three views has learned 3 views, " in capsys.readouterr().err


def test_what_is_changed_about_the_input_is_said(checkpoint, tmp_path, capsys):
    video, actions = tmp_path / "a.mp4", tmp_path / "a.csv"
    write_video(video, [np.full((40, 100, 3), 10 * i, np.uint8) for i in range(2)])
    actions.write_text("speed,steering\n5,0\n6,0\n")
    result = rollout(checkpoint, tmp_path / "out", SETTINGS, video, str(actions), prompt="snow")
    said = " ".join(capsys.readouterr().err.split())
    assert "a.mp4: 100x40 is cropped to 80x40" in said
    assert "the first window has 2 condition frames" in said
    assert "the actions end after 0.2 of 2.0 s: the last speed and steering are held" in said
    assert result.speed == [5.0] + [6.0] * 19
    assert result.text == "snow"
    assert (result.actions, result.frames) == (str(actions), FRAMES)


def test_an_overlay_without_actions_is_refused(checkpoint, tmp_path):
    write_video(tmp_path / "a.mp4", [np.zeros((32, 64, 3), np.uint8)] * 4)
    with pytest.raises(ConfigError, match=r"--overlay draws speed and steering, and .*a\.mp4 has none: add --actions"):
        rollout(checkpoint, tmp_path / "out", SETTINGS, tmp_path / "a.mp4", outputs=Outputs(overlay=True))
    assert not (tmp_path / "out").exists()


def test_prompt_solver_and_guidance_range_change_what_is_drawn(checkpoint, tiny_shards, tmp_path):
    drawn = set()
    changes = {
        "none": {},
        "solver": {"solver": "ab2"},
        "range": {"guidance_range": (0.0, 0.5)},
        "every": {"guidance_every": 2},
    }
    for name, change in changes.items():
        rollout(checkpoint, tmp_path / name, replace(SETTINGS, frames=8, **change), tiny_shards)
        drawn.add((tmp_path / name / "rollout.mp4").read_bytes())
    for prompt in ("night", ""):
        rollout(checkpoint, tmp_path / f"p{prompt}", replace(SETTINGS, frames=8), tiny_shards, prompt=prompt)
        drawn.add((tmp_path / f"p{prompt}" / "rollout.mp4").read_bytes())
    assert len(drawn) == 6


def test_the_command_line(tiny_model, tiny_shards, tmp_path):
    file = tmp_path / "tiny.safetensors"
    save_checkpoint(file, TINY, tiny_model.state_dict(), Training(SIZE, WINDOW, preset="tiny"))

    def gwm(*arguments):
        given = ["rollout", "--frames", "8", "--steps", "2", "--checkpoint", file, "--from", tiny_shards, "--json"]
        return CliRunner().invoke(app, [str(a) for a in (*given, *arguments)])

    given = "--samples 2 --key tiny-001 --prompt rain --views 1 --solver ab2 --guidance 3 --guidance-range 0.2,0.8"
    wanted = "--guidance-every 2 --gif --save-frames --overlay --actions left:0.3s,stop"
    done = gwm("-o", tmp_path / "out", *given.split(), *wanted.split())
    assert done.exit_code == 0, done.output
    samples = json.loads(done.stdout)["samples"]
    assert [sample["settings"]["seed"] for sample in samples] == [0, 1]
    settings = {
        "solver": "ab2",
        "guidance": 3.0,
        "guidance_range": [0.2, 0.8],
        "guidance_every": 2,
        "steps": 2,
        "frames": 8,
    }
    assert samples[0]["settings"].items() >= settings.items()
    assert (samples[0]["text"], samples[0]["actions"]) == ("rain", "left:0.3s,stop")
    assert samples[0]["start"].endswith("tiny-001")
    assert set(samples[0]["files"]) == {"rollout.mp4", "side-by-side.mp4", "rollout.gif", "contact.png", "frames"}
    for arguments, message in {
        ("--guidance-range", "low"): "write two numbers of 0 to 1",
        ("--guidance-range", "0.8,0.2"): "guidance range 0.8 to 0.2 must be a range",
        ("--guidance-range", "0.2,0.8", "--guidance", "1"): "no effect",
        ("--key", "tiny-9"): "it has tiny-000, tiny-001",
        ("--actions", "left:2s,hop"): "no manoeuvre is called 'hop'",
        ("--views", "2"): "--views 2",
    }.items():
        refused = gwm("-o", tmp_path / "new", *arguments)
        assert refused.exit_code == 1
        assert message in refused.stderr
        assert refused.stderr.count("error:") == 1
    assert not (tmp_path / "new").exists()
