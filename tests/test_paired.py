"""Videos against the true ones of the same names, and the options of `gwm score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core import ConfigError
from gwm.core.fidelity import psnr, ssim
from gwm.pipelines import paired
from gwm.pipelines.paired import score_paired
from gwm.pipelines.video_out import write_video
from gwm.shards import SourceError
from gwm.shards.schema import Images
from gwm.shards.video import read_frames


def frames(seed: int, count: int = 20, size: tuple[int, int] = (48, 32)) -> Images:
    rng = np.random.default_rng(seed)
    still = rng.uniform(0, 200, (size[1], size[0], 3))
    return np.stack([still + 2 * t for t in range(count)]).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two videos on each side, one of them in a subfolder."""
    for side, shift in (("real", 0), ("made", 10)):
        (tmp_path / side / "sub").mkdir(parents=True)
        for i, name in enumerate(("a.mp4", "sub/b.mp4")):
            write_video(tmp_path / side / name, np.roll(frames(i), shift, axis=2))
    return tmp_path / "real", tmp_path / "made"


def test_means_are_over_all_frames_of_all_pairs(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "TOGETHER", 7)
    result = score_paired(*folders, Path("nowhere"), "cpu")
    assert (result.videos, result.frames, result.size, result.lpips) == (2, 40, (48, 32), None)
    decoded = [
        [np.stack([image for _, image in read_frames(side / name)]) for side in folders]
        for name in ("a.mp4", "sub/b.mp4")
    ]
    for score, value in ((psnr, result.psnr), (ssim, result.ssim)):
        assert value == pytest.approx(np.mean([score(a, b).mean() for a, b in decoded]))
    same = score_paired(folders[0], folders[0], Path("nowhere"), "cpu")
    assert (same.psnr, same.ssim) == (100, pytest.approx(1))
    assert result.psnr < 20


def test_unequal_pairs_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    def refuse(words: str, real: Path, made: Path, error: type[Exception] = ConfigError) -> None:
        with pytest.raises(error, match=words):
            score_paired(real, made, Path("nowhere"), "cpu")

    real, made = folders
    write_video(made / "sub/b.mp4", frames(1, 17))
    refuse(r"b\.mp4 have unequal numbers of frames: .*real/sub/b\.mp4 goes on after 17; cut it", real, made)
    write_video(made / "sub/b.mp4", frames(1, 20, (64, 32)))
    refuse(r"differ in size \(.*48x32.*64x32\); bring all to one with --size", real, made)
    assert score_paired(real, made, Path("nowhere"), "cpu", size=(32, 32)).frames == 40
    (made / "sub/b.mp4").rename(made / "c.mp4")
    refuse(r"2 videos have no partner \(c\.mp4, sub/b\.mp4\): pairs are files of the same name", real, made)
    (made / "c.mp4").rename(made / "sub/b.mp4")
    (made / "sub/b.mp4").write_text("no video")
    refuse("b.mp4", real, made, SourceError)
    refuse("does not exist", real, tmp_path / "none", SourceError)
    refuse(r"1 videos have no partner \(sub/b\.mp4\)", real, made / "a.mp4")


def test_the_folder_here_is_as_good_as_its_name(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = folders
    monkeypatch.chdir(real)
    assert score_paired(Path(), made, Path("nowhere"), "cpu").videos == 2


def gwm(*arguments: object) -> Any:
    done = CliRunner().invoke(app, ["score", *map(str, arguments)])
    return json.loads(done.stdout) if done.exit_code == 0 else done.output


def test_options_that_have_no_effect_together_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    real, made = folders
    assert "give two sets of video" in gwm()
    assert "give two sets of video" in gwm(real)
    assert "leave out" in gwm(real, made, "--paired", "--features", "lite")
    assert "takes all from its file" in gwm(real, made, "--from-features", "x.parquet")
    assert "takes all from its file" in gwm("--from-features", "x.parquet", "--clip-frames", 5)
    assert "takes all from its file" in gwm("--from-features", "x.parquet", "--allow-missing")
    assert "holds no features" in gwm("--from-features", tmp_path / "x.parquet")
    assert "for --features standard" in gwm(real, made, "--features", "lite", "--resize", "clean")
    result = gwm(real, made, "--paired", "-o", tmp_path / "out", "--json")
    assert result["videos"] == 2
    assert json.loads((tmp_path / "out/scores.json").read_text())["psnr"] == result["psnr"]


def test_a_folder_that_cannot_be_written_is_known_before_the_work(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired, "score_paired", None)
    (tmp_path / "file").touch()
    assert "choose another folder with -o" in gwm(*folders, "--paired", "-o", tmp_path / "file" / "out")


def test_standard_features_are_not_replaced_by_others(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GWM_DATA", str(tmp_path))
    said = gwm(*folders, "--features", "standard", "--clip-frames", 10)
    assert "pt_inception-2015-12-05" in said.replace("\n", "")
    assert "gwm weights fetch inception" in said.replace("\n", " ")
    result = gwm(*folders, "--clip-frames", 10, "--json")
    assert result["features"]["standard"] is False
    assert "fid" not in result
    assert result["frame_frechet"] > 0
