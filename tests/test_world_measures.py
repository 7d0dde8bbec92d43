"""Motion and agreement of views in an evaluation: measured beside the features, stored, and scored from there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluate import FEW, LITE, Colours
from test_figures import ORIGIN, rows
from test_overlap import sky, turned
from toy_evaluation import save_tiny, write_waymo

from gwm.core.inverse_dynamics import InverseDynamics
from gwm.pipelines import eval_clip, evaluate, feature_choice
from gwm.pipelines.checkpoint import save_tensors
from gwm.pipelines.evaluate import Wanted
from gwm.pipelines.feature_choice import Networks
from gwm.pipelines.feature_file import read_features, write_features
from gwm.pipelines.figures import compute_figures
from gwm.pipelines.inverse_dynamics import FORMAT, estimate_motion, load_inverse_dynamics, true_motion
from gwm.pipelines.protocols import DRIVE_WM, LONG_HORIZON, ZERO_SHOT, Clip, Segment
from gwm.pipelines.recipe import RIG
from gwm.pipelines.world_measures import Moved, views_of, with_agreement, with_motion, world_figures
from gwm.shards.files import sha256_of
from gwm.shards.index import open_dataset
from gwm.shards.reader import read_window
from gwm.shards.schema import Camera, Motion, Window

TRUE = np.tile([10.0, 0.0], (24, 1))


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """A random network, which says that it was trained on the rendered world."""
    torch.manual_seed(0)
    path = tmp_path / "reader.safetensors"
    about = {"training": {"steps": 0, "seed": 0, "data": ["world towns sha256:00"]}, "accuracy": {}}
    save_tensors(path, InverseDynamics().state_dict(), {"format": FORMAT, **about})
    return path


def test_figures_are_what_the_stored_motion_says(tmp_path: Path) -> None:
    """A vehicle 1 m/s too fast, seen 0.1 m/s too fast in real frames; two neighbours that agree, one pair that not."""
    plain = rows(4)
    moved = Moved(TRUE + np.array([0.1, 0.0]), TRUE + np.array([1.0, 0.0]), TRUE)
    full = [with_motion(row, moved, ZERO_SHOT) for row in plain]
    full[0] = replace(full[0], real_agreement=np.full(5, 0.8), generated_agreement=np.full(5, 0.2))
    full[1] = replace(full[1], true_motion=None)  # estimated, but nothing to compare with
    path = tmp_path / "features.parquet"
    write_features(path, ORIGIN, full)
    for a, b in zip(read_features(path), full, strict=True):
        for name in ("true_motion", "real_motion", "generated_motion", "real_agreement", "generated_agreement"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None)
            assert x is None or (x.dtype == y.dtype and np.array_equal(x, y))
    (found,) = compute_figures(path).rows
    expected = {
        "speed_error": 1.0, "yaw_rate_error": 0.0, "trajectory_difference": 1.25, "view_agreement": 0.2,
        "speed_error_real": 0.1, "yaw_rate_error_real": 0.0, "trajectory_difference_real": 0.125,
        "view_agreement_real": 0.8,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    write_features(path, ORIGIN, plain)
    assert not expected.keys() & compute_figures(path).rows[0].keys()


def test_only_steps_to_predicted_frames_count() -> None:
    """From the last given frame on, and within a segment that was drawn from a long drive."""
    moved = Moved(*(np.arange(248.0).reshape(124, 2) for _ in range(2)), None)
    row = rows(1)[0]
    start = with_motion(row, moved, LONG_HORIZON)
    assert np.array_equal(start.real_motion, moved.real[2:24])  # frames 0, 1, 2 are given
    later = with_motion(replace(row, segment=Segment(5.0, 0, 20, ())), moved, LONG_HORIZON)
    assert np.array_equal(later.generated_motion, moved.generated[20:44])
    assert not world_figures(later)  # the true motion is not known
    short = with_motion(row, Moved(TRUE + 1, TRUE + 1, TRUE), DRIVE_WM)
    assert len(world_figures(short)["trajectory_difference"]) == 3  # 1.5 s


def test_agreement_is_that_of_predicted_frames() -> None:
    """Generated views that are right at first and then those of two moments; none where cameras are not known."""
    cameras = [turned(0), turned(-40)]
    good, bad = ([sky(c, turn) for c, turn in zip(cameras, turns, strict=True)] for turns in ((0, 0), (0, 0.3)))
    real, made = np.array([good] * 16), np.array([good] * 8 + [bad] * 8)
    row = replace(rows(1)[0], segment=Segment(1.6, 0, 0, ()))
    found = with_agreement(row, tuple(cameras), real, made, DRIVE_WM)
    assert found.real_agreement.shape == (15,)
    assert (found.real_agreement > 0.99).all()
    assert np.array_equal(found.generated_agreement > 0.9, [True] * 7 + [False] * 8)
    apart = with_agreement(row, (cameras[0], turned(180)), real, made, DRIVE_WM)
    assert apart.real_agreement is None
    mounts = [Camera("any", c.width, c.height, c.intrinsics, np.pad(c.rotation, (0, 1))) for c in cameras]
    window = Window("key", 0, real, ("a", "b"), Motion(), tuple(mounts), "")
    assert len(views_of(window)) == 2
    assert views_of(replace(window, cameras=tuple(mounts[:1]))) == ()


def test_six_views_are_measured_together(reader: Path) -> None:
    """Every view with its neighbour where the two overlap, and the motion of the front one alone."""
    turns = (0, -55, -110, 180, 110, 55)
    cameras = [turned(turn, 64, 32, 50.0 if turn != 180 else 90.0) for turn in turns]  # behind, too little is seen
    frames = np.array([[sky(camera, t / 40) for camera in cameras] for t in range(16)])
    mounts = tuple(Camera("any", 64, 32, c.intrinsics, np.pad(c.rotation, (0, 1))) for c in cameras)
    motion = Motion(speed=np.ones(36), steering=np.zeros(36))
    window = Window("key", 0, frames, RIG, motion, mounts, "")
    networks = Networks(False, Colours("cpu"), Colours("cpu"))
    tools = eval_clip.Tools(None, None, networks, load_inverse_dynamics(reader)[0])  # type: ignore[arg-type]
    found = eval_clip.score_clip(tools, DRIVE_WM, Clip(0, 0, 0, "key@0", "scene"), window, frames[::-1])
    assert [row.segment.view for row in found] == list(range(6))
    assert [row.real_agreement is not None for row in found] == [True, True, False, False, True, True]
    for row in found:
        if row.real_agreement is not None:
            assert (row.real_agreement > 0.95).all()
            assert (row.generated_agreement > 0.95).all()
    assert [row.true_motion is not None for row in found] == [True] + [False] * 5
    assert np.array_equal(found[0].true_motion, [[1.0, 0.0]] * 15)


def test_an_evaluation_with_motion(tmp_path: Path, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored motion is the network's and the shards'; the result names network and its doubts."""
    monkeypatch.setattr(feature_choice, "FrameFeatures", Colours)
    monkeypatch.setattr(feature_choice, "VideoFeatures", Colours)
    eval_clip.load_tools.cache_clear()
    shards, model = write_waymo(tmp_path / "shards", 3), save_tiny(tmp_path / "model.safetensors")
    plain = Wanted("waymo", shards, LITE, FEW, model)
    without = evaluate.evaluate(plain, tmp_path / "without", "cpu")
    result = evaluate.evaluate(replace(plain, inverse_dynamics=reader), tmp_path / "out", "cpu")
    assert result is not None
    assert without is not None
    assert result["inverse_dynamics"]["sha256"] == sha256_of(reader)
    assert any("has seen world, not waymo" in line for line in result["warnings"])
    assert without["inverse_dynamics"] is None
    more = result["figures"][0].keys() - without["figures"][0].keys()
    kinds = ("speed_error", "yaw_rate_error", "trajectory_difference")
    assert more == {f"{kind}{frames}" for kind in kinds for frames in ("", "_real")}
    assert list(compute_figures(tmp_path / "out/features.parquet").rows) == result["figures"]
    row = next(iter(read_features(tmp_path / "out/features.parquet")))
    window = read_window(open_dataset(shards), 0, 0, 25, size=(64, 32))
    assert np.array_equal(row.true_motion, true_motion(window.motion.window(0, 25)))
    assert np.allclose(row.real_motion, estimate_motion(load_inverse_dynamics(reader)[0], window.frames[:, 0]))
    assert row.generated_motion.shape == (24, 2)
    assert not np.allclose(row.generated_motion, row.real_motion)
    with pytest.raises(evaluate.ConfigError, match=r"holds another evaluation: inverse_dynamics"):
        evaluate.evaluate(plain, tmp_path / "out", "cpu")
