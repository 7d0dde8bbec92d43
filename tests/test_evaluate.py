"""Evaluation: whole on the official formats with the embedded model, and its faults with a tiny one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import TINY
from toy_evaluation import save_tiny, write_waymo
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core import ConfigError
from gwm.core.sampler import Sampling
from gwm.pipelines import eval_clip, evaluate, feature_choice, protocols
from gwm.pipelines.checkpoint import Training
from gwm.pipelines.evaluate import Wanted
from gwm.pipelines.feature_choice import FeatureChoice
from gwm.pipelines.feature_file import Features, read_features
from gwm.pipelines.figures import compute_figures
from gwm.pipelines.protocols import LONG_HORIZON, ZERO_SHOT, list_clips
from gwm.pipelines.team import Team
from gwm.shards import ShardError
from gwm.shards.index import open_dataset
from gwm.shards.schema import Images
from gwm.shards.video import probe

LITE = FeatureChoice(kind="lite")
FEW = Sampling(steps=2, guidance=2.0)


class Colours:
    """Features quick to compute: mean and spread of the three colours."""

    name: ClassVar[str] = "colours-6"
    sha256: ClassVar[str] = "0" * 64
    d: ClassVar[int] = 6

    def __init__(self, device: str) -> None:
        pass

    def __call__(self, images: Images) -> Features:
        pixels = images.reshape(len(images), -1, 3).astype(np.float32)
        return np.concatenate([pixels.mean(1), pixels.std(1)], axis=1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours for the networks, where the test is about the bookkeeping around them."""
    monkeypatch.setattr(feature_choice, "FrameFeatures", Colours)
    monkeypatch.setattr(feature_choice, "VideoFeatures", Colours)
    eval_clip.load_tools.cache_clear()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_waymo(tmp_path_factory.mktemp("evaluate") / "shards")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that gives the checkpoint of a tiny model with what is said of its training."""

    return cache(lambda *data: save_tiny(tmp_path_factory.mktemp("model") / "model.safetensors", *data))


def wanted(shards: Path, checkpoint: Path, **changes: Any) -> Wanted:
    return Wanted("waymo", shards, LITE, FEW, checkpoint, **changes)


def same(a: Any, b: Any) -> bool:
    """Whether two results say the same, but for how long it took."""
    return all(a[name] == b[name] for name in a.keys() | b.keys() if name != "seconds")


def gwm(*arguments: object) -> Any:
    done = CliRunner().invoke(app, [str(x) for x in arguments])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_waymo_as_typed_with_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the official format to the report, in two processes and in one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GWM_DATA", str(tmp_path / "data"))
    eval_clip.load_tools.cache_clear()
    missing = CliRunner().invoke(app, ["eval", "waymo", "--zero-shot"])
    assert missing.exit_code == 1
    assert "gwm world" in missing.output
    gwm("world", "data/waymo", "--as", "waymo", "--scenes", 5, "--frames", 52, "--size", "96x64", "--json")
    gwm("preprocess", "waymo", "--views", "front", "--size", "128x64", "--workers", 1, "--json")
    plain = ("eval", "waymo", "--zero-shot", "--steps", 2, "--json")
    one, two = (gwm(*plain, "-o", f"out{n}", "--workers", n) for n in (1, 2))
    assert one["data"]["clips"] == 2
    assert one["partial"]
    assert any("2 of the protocol's 600 clips" in line for line in one["warnings"])
    assert one["figures"] == two["figures"]  # to the last digit
    assert one["examples"] == two["examples"]
    row = one["figures"][0]
    assert row["n_frames"] == 50
    assert row["frame_frechet"] > 20  # two steps are not the truth
    assert "fid" not in row
    for example in one["examples"]:
        video = probe(tmp_path / "out1" / example["video"])
        assert video.width == 512
        assert video.height == 2 * 256
    page = gwm("report", "out1", "out2", "-o", "page", "--json")
    assert page["results"] == 2
    assert page["videos"] == 4
    again = gwm("score", "--from-features", "out1/features.parquet", "--json")
    assert again["figures"] == one["figures"]


@pytest.mark.parametrize(
    ("kind", "protocol", "frames"),
    [
        ("nuscenes", "maskgwm", 34),
        ("opendv", "ablation", 52),
        pytest.param("opendv", "long-horizon", 252, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("quick")
def test_nuscenes_and_opendv_with_the_embedded_model(
    kind: str, protocol: str, frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GWM_DATA", str(tmp_path / "data"))
    gwm("world", f"data/{kind}", "--as", kind, "--scenes", 5, "--frames", frames, "--size", "96x54", "--json")
    more: tuple[object, ...] = ("--frames", 300)
    if kind == "nuscenes":
        gwm("preprocess", kind, "--split", "val", "--export-vista", "clips.json", "--json")
        more = ("--annotations", "clips.json")
    gwm("preprocess", kind, "--split", "val", *more, "--workers", 1, "--size", "128x64", "--json")
    result = gwm(
        "eval", kind, "--protocol", protocol, "--steps", 1, "--limit", 2, "--workers", 1, "-o", "out", "--json"
    )
    assert result["limit"] == result["data"]["clips"] == 2
    assert result["actions"] is (kind == "nuscenes")
    horizons = [2.5, 5.0, 7.5, 10.0, 12.5] if protocol == "long-horizon" else [2.5]
    assert [row["horizon_s"] for row in result["figures"]] == horizons
    assert all(row["n_frames"] == (12 if protocol == "ablation" else 50) for row in result["figures"])


def test_a_long_horizon_is_scored_along_the_way(tmp_path: Path, quick: None) -> None:
    """125 frames in windows of six; the given frames count at the first horizon alone."""
    shards = write_waymo(tmp_path / "shards", 2, frames=126, source="opendv")
    model = save_tiny(tmp_path / "model.safetensors")
    result = evaluate.evaluate(replace(wanted(shards, model), dataset="opendv"), tmp_path / "out", "cpu")
    assert result is not None
    rows = list(read_features(tmp_path / "out/features.parquet"))
    assert [(row.number, row.segment.horizon) for row in rows] == [
        (number, horizon) for number in range(2) for horizon in (2.5, 5.0, 7.5, 10.0, 12.5)
    ]
    assert [len(row.psnr) for row in rows[:5]] == [22, 25, 25, 25, 25]
    first, *later = result["figures"]
    assert first["frame_frechet"] != first["frame_frechet_without_condition"]
    assert all(row["frame_frechet"] == row["frame_frechet_without_condition"] for row in later)


def test_a_stopped_evaluation_ends_as_an_unbroken_one(
    shards: Path, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    whole = evaluate.evaluate(wanted(shards, model()), tmp_path / "whole", "cpu")
    done = []
    real = eval_clip.do_clip

    def stop_at_the_third(plan: Any, clip: Any) -> int:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(clip.number)
        return real(plan, clip)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "do_clip", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            evaluate.evaluate(wanted(shards, model()), tmp_path / "stopped", "cpu")
    (tmp_path / "stopped/clips/.000002.parquet.1.tmp.parquet").write_bytes(b"half")  # of a killed process
    finished = len(list((tmp_path / "stopped/clips").glob("0*.parquet")))
    assert finished == 2
    monkeypatch.setattr(evaluate, "do_clip", lambda plan, clip: done.append(clip.number) or real(plan, clip))
    resumed = evaluate.evaluate(wanted(shards, model()), tmp_path / "stopped", "cpu")
    assert sorted(done) == list(range(6))  # none twice
    assert whole is not None
    assert same(whole, resumed)
    files = [(tmp_path / name / "features.parquet").read_bytes() for name in ("whole", "stopped")]
    assert files[0] == files[1]
    assert not (tmp_path / "stopped/clips").exists()
    monkeypatch.setattr(evaluate, "do_clip", None)  # of a finished one nothing is done again
    assert evaluate.evaluate(wanted(shards, model()), tmp_path / "stopped", "cpu") == resumed


def test_two_processes_of_torchrun_give_the_figures_of_one(
    shards: Path, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["eval", "waymo", "--data", shards, "--checkpoint", model(), "--steps", "2", "--limit", "4", "--json"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "gwm.cli.main"]
    done = subprocess.run(
        [str(x) for x in [*command, *arguments, "-o", tmp_path / "two"]],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    eval_clip.load_tools.cache_clear()
    one = gwm(*arguments, "--workers", 1, "-o", tmp_path / "one")
    assert json.loads(done.stdout)["figures"] == one["figures"]


def test_the_others_begin_when_the_folder_is_known_and_tidy(
    shards: Path, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """They once began with the leader: into another evaluation's folder, and lost clips went unnamed."""
    out, seen = tmp_path / "out", []

    class Two(Team):
        def any(self, *here: bool) -> tuple[bool, ...]:
            seen.append((self.rank, *here, sorted(file.name for file in (out / "clips").glob("*"))))
            return here if self.leads else (True,)

        def wait(self) -> None:
            pass

    @contextmanager
    def join_as(rank: int, *_: Any, **__: Any) -> Iterator[Team]:
        yield Two(rank, 2)

    monkeypatch.setattr(evaluate, "join_team", partial(join_as, 0))
    (out / "clips").mkdir(parents=True)
    (out / "plan.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds another evaluation"):
        evaluate.evaluate(wanted(shards, model(), limit=4), out, "cpu")
    assert seen == []
    (out / "plan.json").unlink()
    (out / "videos").mkdir()
    for name in ("clips/000001.json", "clips/.000001.parquet.1.tmp.parquet", "videos/.000001.fragments.1.tmp.mp4"):
        (out / name).write_text("{}")  # of a killed run
    do_clip = eval_clip.do_clip
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "do_clip", lambda plan, clip: [do_clip(plan, c) for c in list_clips(ZERO_SHOT, data)])
        data = replace(open_dataset(shards), source="waymo")
        assert evaluate.evaluate(wanted(shards, model(), limit=4), out, "cpu") is not None
    monkeypatch.setattr(evaluate, "do_clip", None)  # of a finished one nothing is done again
    assert evaluate.evaluate(wanted(shards, model(), limit=4), out, "cpu") is not None
    monkeypatch.setattr(evaluate, "join_team", partial(join_as, 1))
    assert evaluate.evaluate(wanted(shards, model(), limit=4), out, "cpu") is None
    assert seen == [(0, False, []), (0, True, []), (1, False, [])]
    assert not (out / "clips").exists()
    assert not list((out / "videos").iterdir())


def test_seeds_and_clips_decide_what_is_drawn(
    shards: Path, model: Callable[..., Path], tmp_path: Path, quick: None
) -> None:
    """A clip's features are the same whichever others are drawn; another seed gives others, of the same truth."""
    every, few, other = (
        evaluate.evaluate(wanted(shards, model(), **more), tmp_path / str(i), "cpu") and
        {row.key: row for row in read_features(tmp_path / str(i) / "features.parquet")}
        for i, more in enumerate(({}, {"limit": 2}, {"seed": 1}))
    )  # fmt: skip
    assert len(few) == 2
    for key, row in few.items():
        assert np.array_equal(row.generated_frames, every[key].generated_frames)
        assert not np.array_equal(row.generated_frames, other[key].generated_frames)
        assert np.array_equal(row.real_frames, other[key].real_frames)


def test_a_damaged_clip_is_named_and_refused(
    shards: Path, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """Then scored without, where that is allowed; the other clips are not drawn again."""
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(shards, broken)
    row = open_dataset(broken).row(2)
    with (broken / row.shard).open("r+b") as file:
        file.seek(int(row.frame_offsets[3]))
        file.write(bytes(64))
    monkeypatch.setitem(protocols.DEFAULTS, "waymo", replace(ZERO_SHOT, clips=6))
    with pytest.raises(ShardError, match=r"1 of 6 clips cannot be read \(tiny-002@0: .*--allow-missing"):
        evaluate.evaluate(wanted(broken, model()), tmp_path / "out", "cpu")
    assert not (tmp_path / "out/result.json").exists()
    result = evaluate.evaluate(wanted(broken, model(), allow_missing=True), tmp_path / "out", "cpu")
    assert result is not None
    assert [loss["key"] for loss in result["missing"]] == ["tiny-002@0"]
    assert result["partial"]  # though the list of clips is whole
    assert result["figures"][0]["n_clips"] == 5
    numbers = [row.number for row in read_features(tmp_path / "out/features.parquet")]
    assert numbers == [0, 1, 3, 4, 5]


def test_what_an_evaluation_refuses(shards: Path, model: Callable[..., Path], tmp_path: Path, quick: None) -> None:
    def refuse(words: str, error: type[Exception] = ConfigError, **changes: Any) -> None:
        values = {"checkpoint": model(), **changes}
        with pytest.raises(error, match=words):
            evaluate.evaluate(wanted(shards, **values), tmp_path / "refused", "cpu")
        assert not (tmp_path / "refused").exists()

    seen = model("waymo shards sha256:00", "world towns sha256:01")
    refuse(r"zero-shot is for models that have not seen waymo, .* trained on it \(waymo shards", checkpoint=seen)
    refuse("--limit 1: at least 2", limit=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "list_clips", lambda *_: ["one"])
        refuse("gives 1 clip of protocol waymo-zero-shot, at least 2")
    refuse("--protocol vista: waymo has zero-shot", protocol="vista")
    with pytest.raises(ConfigError, match=r"drivewm has 6 views, .* has learned 1; give a checkpoint of --variant mv"):
        evaluate.evaluate(
            replace(wanted(shards, model()), dataset="nuscenes", protocol="drivewm"), tmp_path / "refused", "cpu"
        )
    with pytest.raises(ConfigError, match="protocol waymo-zero-shot shows front, run has learned back"):
        evaluate.check_model(ZERO_SHOT, TINY, Training((64, 32), 6, views=("back",)), "run", False)
    with pytest.raises(ConfigError, match="for --features standard"):
        evaluate.evaluate(
            replace(wanted(shards, model()), features=FeatureChoice(kind="lite", resize="clean")), tmp_path / "r", "cpu"
        )
    mixed = model("opendv all sha256:02", "world towns sha256:01")
    with pytest.raises(ConfigError, match="--zero-shot is for models that have not seen opendv"):
        evaluate.evaluate(replace(wanted(shards, mixed, zero_shot=True), dataset="opendv"), tmp_path / "r", "cpu")
    known = evaluate.evaluate(wanted(shards, mixed, limit=2), tmp_path / "out", "cpu")
    assert known is not None
    assert known["checkpoint"]["training_data"] == ["opendv all sha256:02", "world towns sha256:01"]
    assert known["zero_shot"] is True  # the protocol is
    with pytest.raises(ConfigError, match=r"holds another evaluation: .*sampling\."):
        evaluate.evaluate(wanted(shards, mixed, limit=2, seed=3), tmp_path / "out", "cpu")


def test_a_model_without_actions_is_told_none(
    shards: Path, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """Whatever the protocol says; the record must not claim it."""
    monkeypatch.setitem(protocols.DEFAULTS, "waymo", replace(ZERO_SHOT, actions=True))
    deaf = save_tiny(tmp_path / "deaf.safetensors", config=replace(TINY, actions=False))
    told = [evaluate.prepare(wanted(shards, path), tmp_path, torch.device("cpu"))[2] for path in (model(), deaf)]
    assert [record["actions"] for record in told] == [True, False]
    with pytest.raises(
        ConfigError, match=r"--actions: .*deaf\.safetensors has not learned any action \(stage 2 does\)"
    ):
        evaluate.evaluate(wanted(shards, deaf, actions=True), tmp_path / "out", "cpu")


def test_kept_videos_and_a_full_disk(
    shards: Path, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    real = eval_clip.write_features

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(eval_clip, "write_features", full)
        with pytest.raises(ShardError, match="No space left on device; free some space, and the same command goes on"):
            evaluate.evaluate(wanted(shards, model(), limit=2, keep_videos=True), tmp_path, "cpu")
    assert eval_clip.write_features is real
    evaluate.evaluate(wanted(shards, model(), limit=2, keep_videos=True), tmp_path, "cpu")
    videos = sorted((tmp_path / "videos").iterdir())
    assert [video.name for video in videos] == ["000001.mp4", "000004.mp4"]
    assert all(probe(video).duration == pytest.approx(2.5, abs=0.11) for video in videos)


def test_figures_come_from_the_features_alone(
    shards: Path, model: Callable[..., Path], tmp_path: Path, quick: None
) -> None:
    result = evaluate.evaluate(wanted(shards, model()), tmp_path, "cpu")
    assert result is not None
    assert result["protocol"] == json.loads(json.dumps(asdict(ZERO_SHOT)))
    assert list(compute_figures(tmp_path / "features.parquet").rows) == result["figures"]
    assert LONG_HORIZON.version == ZERO_SHOT.version == 1


@pytest.mark.usefixtures("quick")
def test_a_damaged_part_is_made_again(
    shards: Path, model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped byte in the features of one clip, between two runs."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "compute_figures", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate.evaluate(wanted(shards, model(), limit=3), tmp_path, "cpu")
    part = sorted((tmp_path / "clips").glob("*.parquet"))[1]
    data = bytearray(part.read_bytes())
    data[100] ^= 255
    part.write_bytes(data)
    with pytest.raises(ShardError, match=f"{part.name} is damaged .*, and removed; the same command makes it again"):
        evaluate.evaluate(wanted(shards, model(), limit=3), tmp_path, "cpu")
    result = evaluate.evaluate(wanted(shards, model(), limit=3), tmp_path, "cpu")
    assert result is not None
    assert result["figures"][0]["n_clips"] == 3
