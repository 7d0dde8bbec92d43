"""Rollouts: windows that continue each other, outputs, starts, refusals."""

import json
from dataclasses import asdict, replace
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
import torch
from conftest import SIZE, TINY
from toy_shards import make_chunk, write

from gwm.core import ConfigError
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Checkpoint, Training
from gwm.pipelines.rollout import Drive, RolloutSettings, generate, generate_side_by_side, make_scene, rollout
from gwm.pipelines.rollout_out import even_frames
from gwm.shards import ShardError
from gwm.shards.schema import Motion

WINDOW = 6


@pytest.fixture
def checkpoint(tiny_model):
    return Checkpoint(tiny_model.requires_grad_(False), Training(SIZE, WINDOW, preset="tiny"), "tiny")


def settings(frames=20, **changes):
    return RolloutSettings(**{"frames": frames, "steps": 2, "guidance": 2.0, "condition_frames": 3, **changes})


def latents(model, **changes):
    start = torch.randn(3, 1, model.config.channels, 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return start, torch.cat(
            list(generate(model, Drive(start, "road", Motion(), None), WINDOW, settings(**changes)))
        )


@pytest.mark.parametrize("frames", [1, 3, 4, 6, 7, 20])
def test_exactly_the_frames_asked_for_and_the_start_unchanged(tiny_model, frames):
    start, z = latents(tiny_model, frames=frames)
    assert z.shape == (frames, *start.shape[1:])
    assert torch.equal(z[:3], start[:frames])


def test_views_have_the_order_of_training(tmp_path):
    order = ("front_left", "front", "front_right")
    shards = write(tmp_path / "toy", [make_chunk(1, 30, ("front", "front_right", "front_left"))])
    model = WorldModel(replace(TINY, views=3)).requires_grad_(False)
    for views in (None, 2):
        trained = Checkpoint(model, Training((32, 16), WINDOW, "mview", "tiny", views=order), "three views")
        assert make_scene(trained, settings(), shards, views=views).start.views == order[:views]


def test_a_longer_rollout_begins_with_the_shorter_one(tiny_model):
    assert torch.equal(latents(tiny_model, frames=20)[1][:11], latents(tiny_model, frames=11)[1])


def test_each_window_continues_the_last_and_reads_the_actions_of_its_own_frames(tiny_model, monkeypatch):
    """The condition is the last 3 latents of the window before, the actions begin at its first frame."""
    seen = []

    def record(velocity, condition, eps, sampling, shift):
        z = torch.cat([condition, eps[:, condition.shape[1] :]], dim=1)
        velocity(z, torch.zeros(z.shape[:2]), 1.0)
        seen.append((condition[0], z[0]))
        return z

    speeds = []

    def window_speed(z, tau, tokens, pooled, actions):
        if actions is not None:
            speeds.append(actions[0, :, 1].tolist())
        return torch.zeros_like(z)

    monkeypatch.setattr("gwm.pipelines.rollout.sample", record)
    monkeypatch.setattr(tiny_model.dit, "forward", window_speed)
    start = torch.randn(3, 1, tiny_model.config.channels, 4, 8)
    speed = np.arange(60.0)
    motion = Motion(speed=speed, steering=np.zeros(60))
    with torch.inference_mode():
        z = torch.cat(list(generate(tiny_model, Drive(start, "road", motion, None), WINDOW, settings(frames=12))))
    for (_, before), (condition, _) in pairwise(seen):
        assert torch.equal(condition, before[-3:])
    assert torch.equal(z, torch.cat([seen[0][1], *(window[3:] for _, window in seen[1:])]))
    firsts = [0, 3, 6]  # of the windows' frames: 6 frames, 3 of them repeated
    assert speeds == [[first + waypoint for waypoint in (5, 10, 15, 20)] for first in firsts]


def test_what_was_drawn_before_comes_back_and_the_rest_goes_on_from_it(tiny_model):
    start = torch.randn(2, 1, tiny_model.config.channels, 4, 8, generator=torch.Generator().manual_seed(0))
    arguments = (tiny_model, Drive(start, "road", Motion(), None), WINDOW, settings(frames=20))
    with torch.inference_mode():
        whole = list(generate(*arguments))
        for known in range(len(whole) + 1):
            again = list(generate(*arguments, drawn=[z.clone() for z in whole[:known]]))
            assert len(again) == len(whole) == 6
            assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))


def test_drives_side_by_side_are_those_alone(tiny_model):
    """Each with its own start, text and actions, also where one has none."""
    turning = Motion(speed=np.full(60, 8.0), steering=np.full(60, 0.5))
    starts = torch.randn(2, 3, 1, tiny_model.config.channels, 4, 8, generator=torch.Generator().manual_seed(0))
    drives = [Drive(starts[0], "road", turning, None), Drive(starts[1], "", Motion(), None)]
    with torch.inference_mode():
        both = torch.cat(list(generate_side_by_side(tiny_model, drives, WINDOW, settings())), dim=1)
        for drive, found in zip(drives, both, strict=True):
            alone = torch.cat(list(generate(tiny_model, drive, WINDOW, settings())))
            assert torch.allclose(found, alone, atol=1e-4)
    assert not torch.allclose(both[0], both[1], atol=0.1)


def test_a_diverged_prediction_is_an_error(tiny_model):
    torch.nn.init.constant_(tiny_model.dit.patch_out.bias, torch.inf)
    with pytest.raises(ConfigError, match="diverged at frame 0"):
        latents(tiny_model)


def test_actions_need_a_model_that_learned_them(checkpoint, tiny_shards, tmp_path):
    config = replace(checkpoint.model.config, actions=False)
    without = Checkpoint(WorldModel(config).eval(), checkpoint.training, "stage 1c")
    with pytest.raises(ConfigError, match="stage 1c has not learned any action"):
        rollout(without, tmp_path / "out", settings(), tiny_shards, "stop")
    assert rollout(without, tmp_path / "out", settings(4), tiny_shards).actions == "none"


def test_seeds_differ_and_one_seed_repeats(tiny_model):
    a, b, c = (latents(tiny_model, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_rollout_writes_a_video_a_sheet_and_a_record(checkpoint, tiny_shards, tmp_path):
    result = rollout(checkpoint, tmp_path / "out", settings(25), tiny_shards)
    with av.open(str(tmp_path / "out" / "rollout.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
        assert sum(1 for _ in video.decode(video=0)) == 25
    assert cv2.imread(str(tmp_path / "out" / "contact.png")) is not None
    record = json.loads((tmp_path / "out" / "rollout.json").read_text())
    assert record["settings"] == json.loads(json.dumps(asdict(settings(25))))
    assert record["start"].endswith("tiny-004")  # the validation sample
    assert record["actions"] == "source"
    assert len(record["speed"]) == len(record["steering"]) == 25
    assert record["seconds_per_frame"] > 0
    assert record["finished"]
    assert record["files"] == ["rollout.mp4", "side-by-side.mp4", "contact.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*record["files"], "rollout.json"])
    assert json.loads(json.dumps(asdict(result))) == record


def test_actions_change_the_video(checkpoint, tiny_shards, tmp_path):
    for name in ("turn-left", "turn-right"):
        rollout(checkpoint, tmp_path / name, settings(8), tiny_shards, name)
    left, right = ((tmp_path / name / "rollout.mp4").read_bytes() for name in ("turn-left", "turn-right"))
    assert left != right


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "--frames 0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"condition_frames": 6}, "between 1 and 5"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(checkpoint, tiny_shards, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        rollout(checkpoint, tmp_path / "out", settings(**changes), tiny_shards)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_output_folder(checkpoint, tiny_shards, tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(ShardError, match="cannot write into"):
        rollout(checkpoint, tmp_path / "out", settings(), tiny_shards)


def test_contact_sheet_columns_reach_from_first_to_last():
    assert even_frames(200) == [0, 22, 44, 66, 88, 111, 133, 155, 177, 199]
    assert even_frames(3) == [0, 1, 2]
