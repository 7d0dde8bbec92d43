"""Vista's annotations of nuScenes: there and back, on a drive whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from toy_nuscenes import SPEED, START, camera, picture, pose, read, recording, without, write

from gwm.pipelines.preprocess import preprocess
from gwm.shards import SourceError
from gwm.shards.motion import TURN_LEFT, project_goal
from gwm.shards.nuscenes.tables import read_scenes
from gwm.shards.nuscenes.vista import clip_starts, read_clips, write_clips
from gwm.shards.nuscenes.write import LIDAR_MOUNT
from gwm.shards.sources.nuscenes import NuScenesSource
from gwm.shards.verify import verify

NATIVE = {"size": None}


def test_vistas_clips_come_back_with_the_truth(tmp_path):
    folder = write(tmp_path / "in", recording(), recording("scene-0061"))
    scenes = list(read_scenes(folder / "v1.0-mini"))
    exported = write_clips(tmp_path / "clips.json", folder, scenes)
    assert (exported.clips, exported.without_lidar) == (10, 0)  # 9 key frames a scene: 5 windows of 5
    clip = next(read_clips(tmp_path / "clips.json"))
    assert len(clip.files) == 25
    assert clip.trajectory[0] == pytest.approx([0, 0])
    lidars = [pose(START + 500_000 * i) @ LIDAR_MOUNT for i in range(5)]
    right, forward = np.array([(np.linalg.inv(lidars[0]) @ lidar)[:2, 3] for lidar in lidars]).T
    assert np.allclose(clip.trajectory, np.stack([forward, -right], axis=1), atol=1e-6)
    assert (clip.trajectory[-1] > 2).all()  # forward, and left
    assert clip.command == TURN_LEFT
    last = np.linalg.inv(pose(START)) @ lidars[4]
    assert np.allclose(clip.goal, project_goal(last[:2, 3], camera("front")), atol=1e-6)
    assert np.allclose(clip.speed, SPEED + 0.5)
    assert np.allclose(clip.angle, np.pi / 2)
    chunks, skipped = read(NuScenesSource(folder, annotations=tmp_path / "clips.json", **NATIVE))
    assert skipped == []
    assert [(c.length, tuple(c.frames)) for c in chunks] == [(25, ("front",))] * 10
    assert chunks[0].extra["clip"]["command"] == TURN_LEFT
    assert np.allclose(chunks[0].motion.steering, np.pi / 2)
    assert [c.frames["front"][0] for c in chunks[:2]] == [picture("front", 0), picture("front", 6)]
    files = [clip.files[0] for clip in read_clips(tmp_path / "clips.json")]
    ordered = sorted(scenes, key=lambda scene: scene.token)  # Vista's order
    assert files == [scene.cameras["front"].shots.file(i) for scene in ordered for i in (0, 6, 12, 18, 24)]
    preprocess(NuScenesSource(folder, annotations=tmp_path / "clips.json", size=(16, 16)), tmp_path / "out")
    assert verify(tmp_path / "out").ok


def test_a_missing_image_rejects_the_clips_that_hold_it(tmp_path):
    (whole,) = read_scenes(write(tmp_path / "whole") / "v1.0-mini")
    assert clip_starts(whole) == [0, 6, 12, 18, 24]
    folder = write(tmp_path / "lost", without(recording(), "front", 0.74, 0.76))
    (scene,) = read_scenes(folder / "v1.0-mini")
    assert len(scene.cameras["front"].shots.files) == 48
    assert clip_starts(scene) == [11, 17, 23]


def test_empty_actions_are_unknown_and_foreign_clips_are_reported(tmp_path):
    folder = write(tmp_path / "in")
    (folder / "can_bus/scene-0103_vehicle_monitor.json").unlink()
    write_clips(tmp_path / "clips.json", folder, read_scenes(folder / "v1.0-mini"))
    rows = json.loads((tmp_path / "clips.json").read_text())
    rows[1]["frames"][0] = "samples/CAM_FRONT/another.jpg"
    rows[2]["frames"][3] = "sweeps/CAM_FRONT/another.jpg"
    (tmp_path / "clips.json").write_text(json.dumps(rows))
    chunks, skipped = read(NuScenesSource(folder, annotations=tmp_path / "clips.json", **NATIVE))
    assert chunks[0].motion.speed is None
    assert chunks[0].extra["clip"]["angle"] is None
    assert sorted(s.cause for s in skipped) == [
        "clip begins with no key frame", "clip has images of no or another scene",
    ]  # fmt: skip
    assert sum(c.length for c in chunks) + sum(s.frames for s in skipped) == 5 * 25
    rows[0]["frames"].pop()
    (tmp_path / "clips.json").write_text(json.dumps(rows))
    with pytest.raises(SourceError, match=r"clips.json: row 1 .*frames are 24, not 25"):
        NuScenesSource(folder, annotations=tmp_path / "clips.json").items()


def test_a_trajectory_without_lidar_is_the_egos(tmp_path):
    folder = write(tmp_path / "in", replace(recording(), lidar=False))
    exported = write_clips(tmp_path / "clips.json", folder, read_scenes(folder / "v1.0-mini"))
    assert (exported.clips, exported.without_lidar) == (5, 5)
    clip = next(read_clips(tmp_path / "clips.json"))
    truth = np.linalg.inv(pose(START)) @ pose(START + 2_000_000)
    assert np.allclose(clip.trajectory[-1], truth[:2, 3], atol=1e-3)
    assert clip.trajectory[-1, 1] > 0
