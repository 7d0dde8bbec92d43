"""Features on disk, and the scores computed from them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gwm.core import ConfigError
from gwm.core.frechet import GaussianStats, frechet_distance
from gwm.core.kernel_distance import kernel_distance
from gwm.pipelines import gathering
from gwm.pipelines.feature_file import FeatureNames, Origin, Scored, read_features, read_origin, write_features
from gwm.pipelines.figures import clip_distance, compute_figures
from gwm.pipelines.protocols import Segment

NAMES = FeatureNames(False, "frames-6", "0" * 64, "clips-5", "1" * 64)
ORIGIN = Origin(NAMES, "toy", 1, condition_frames=2)


def rows(n: int = 40, horizons: Sequence[float] = (1.0,), views: int = 1, frames: int = 7) -> list[Scored]:
    rng = np.random.default_rng(0)
    return [
        Scored(
            number, f"drive-{number}@0", f"scene-{number}", Segment(horizon, view, 0, tuple(range(frames))),
            *(rng.normal(shift, 1 + horizon, (frames, 6)).astype(np.float32) for shift in (0, 0.5)),
            *(rng.normal(shift, 1, 5).astype(np.float32) for shift in (0, 0.5)),
            rng.uniform(10, 30, frames - 2), rng.uniform(0, 1, frames - 2), np.zeros(0),
        )
        for number in range(n) for horizon in horizons for view in range(views)
    ]  # fmt: skip


def written(path: Path, scored: Sequence[Scored], origin: Origin = ORIGIN) -> Path:
    write_features(path, origin, scored)
    return path


def test_what_is_written_is_read_to_the_bit(tmp_path: Path) -> None:
    scored = rows(70, views=2)  # more than two row groups
    scored[3] = replace(scored[3], lpips=np.array([0.25, 0.5]))
    path = written(tmp_path / "features.parquet", scored)
    assert read_origin(path) == ORIGIN
    again = list(read_features(path))
    assert len(again) == len(scored)
    for a, b in zip(again, scored, strict=True):
        assert (a.number, a.key, a.scene, a.segment) == (b.number, b.key, b.scene, b.segment)
        for name in ("real_frames", "generated_frames", "real_clip", "generated_clip", "psnr", "ssim", "lpips"):
            x, y = getattr(a, name), getattr(b, name)
            assert x.dtype == y.dtype and np.array_equal(x, y), name  # noqa: PT018


def test_other_readers_read_it(tmp_path: Path) -> None:
    import pandas  # type: ignore[import-untyped]

    path = written(tmp_path / "features.parquet", rows(3))
    table = pandas.read_parquet(path)
    assert table["key"].tolist() == [f"drive-{i}@0" for i in range(3)]
    assert np.stack(table["real_clip"].tolist()).shape == (3, 5)


def test_scores_are_those_of_all_features_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of a few frames, horizons apart and views together."""
    monkeypatch.setattr(gathering, "BLOCK", 10)
    scored = rows(40, (1.0, 2.0), views=2)
    found = compute_figures(written(tmp_path / "features.parquet", scored))
    for row, horizon in zip(found.rows, (1.0, 2.0), strict=True):
        mine = [s for s in scored if s.segment.horizon == horizon]
        real, made = (np.concatenate([getattr(s, f"{side}_frames") for s in mine]) for side in ("real", "generated"))
        assert (row["horizon_s"], row["n_frames"], row["n_clips"]) == (horizon, len(real), 80)
        whole = frechet_distance(GaussianStats.of(real), GaussianStats.of(made))
        assert row["frame_frechet"] == pytest.approx(whole, rel=1e-9)
        ahead = np.tile(np.arange(7) >= 2, 80)
        part = frechet_distance(GaussianStats.of(real[ahead]), GaussianStats.of(made[ahead]))
        assert row["frame_frechet_without_condition"] == pytest.approx(part, rel=1e-9)
        assert row["frame_kernel"] == pytest.approx(kernel_distance(real, made)[0], rel=1e-9)
        clips = [np.stack([getattr(s, f"{side}_clip") for s in mine]) for side in ("real", "generated")]
        assert row["video_frechet"] == pytest.approx(frechet_distance(*map(GaussianStats.of, clips)), rel=1e-9)
        low, high = row["video_frechet_interval"]  # type: ignore[misc]
        assert low < row["video_frechet"] < high
        assert row["psnr"] == pytest.approx(np.mean([s.psnr.mean() for s in mine]))
        assert row["lpips"] is None


def test_lite_and_standard_scores_have_different_names(tmp_path: Path) -> None:
    lite = compute_figures(written(tmp_path / "lite.parquet", rows())).rows[0]
    origin = replace(ORIGIN, features=replace(NAMES, standard=True))
    standard = compute_figures(written(tmp_path / "standard.parquet", rows(), origin)).rows[0]
    shared = {"horizon_s", "n_frames", "n_clips", "psnr", "ssim", "lpips"}
    assert shared == lite.keys() & standard.keys()
    assert {"fid", "fid_without_condition", "kid", "fvd", "fvd_se"} <= standard.keys()
    assert list(lite.values()) == list(standard.values())


def test_few_clips_are_warned_of_once(tmp_path: Path) -> None:
    found = compute_figures(written(tmp_path / "features.parquet", rows(4, (1.0, 2.0), frames=3)))
    assert found.warnings == (
        "video_frechet is biased upward: 4 clips for 5 feature dimensions; compare it only with scores of as many",
    )
    with pytest.raises(ConfigError, match="1 clip cannot be scored, at least 2 are needed; raise --limit"):
        compute_figures(written(tmp_path / "features.parquet", rows(1)))


def test_the_error_of_the_clip_distance_is_that_of_other_draws(tmp_path: Path) -> None:
    """Its standard error, from one draw, is close to the spread over many; views of one drive count as one."""
    rng = np.random.default_rng(1)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(0, 1, (300, 3)).astype(np.float32), rng.normal(1, 1, (300, 3)).astype(np.float32)

    drives = [str(i) for i in range(300)]
    spread = np.std([clip_distance(*draw(), drives)[0] for _ in range(40)])
    errors = [clip_distance(*draw(), drives)[1] for _ in range(5)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.35)
    real, made = draw()
    doubled = clip_distance(np.repeat(real, 2, 0), np.repeat(made, 2, 0), [i for i in drives for _ in "ab"])
    assert doubled[1] == pytest.approx(clip_distance(real, made, drives)[1], rel=1e-2)


def test_the_sample_is_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "SAMPLE", 100)
    sample, again = gathering.Sample(), gathering.Sample()
    for i in range(50):
        block = np.arange(20, dtype=np.float32)[:, None] + 20 * i
        sample.add(block)
        again.add(-block)
    drawn = sample.drawn()
    assert drawn.shape == (100, 1)
    assert len(np.unique(drawn)) == 100
    assert 400 < drawn.mean() < 600
    assert np.array_equal(again.drawn(), -drawn)


def test_the_sample_keeps_nothing_but_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of their rows once kept whole row groups of a feature file in memory, for one feature each."""
    monkeypatch.setattr(gathering, "SAMPLE", 3)
    sample, blocks = gathering.Sample(), [np.full((5, 2), i, np.float32) for i in range(20)]
    alive = [weakref.ref(block) for block in blocks]
    while blocks:
        sample.add(blocks.pop(0))
    assert not any(ref() is not None for ref in alive)
    assert sample.drawn().max() > 0  # some were drawn behind the first three


def test_a_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """pyarrow's buffer ahead of the reader once kept the whole file, 2 GB of a published protocol's FID features."""
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(7, 500)).astype(np.float32) for _ in range(32)]
    scored = [replace(row, real_frames=features[row.number % 32] + np.float32(row.number)) for row in rows(32 * 12)]
    path = written(tmp_path / "features.parquet", scored)
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_features(path)]
    assert 0 < max(held) < path.stat().st_size / 2


def test_what_holds_no_features(tmp_path: Path) -> None:
    path = written(tmp_path / "features.parquet", rows())
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-200])
    (tmp_path / "text.parquet").write_text("no")
    for name in ("cut", "text", "absent"):
        with pytest.raises(ConfigError, match=rf"{name}.parquet holds no features .* of `gwm eval`"):
            compute_figures(tmp_path / f"{name}.parquet")
    flipped = bytearray(path.read_bytes())
    flipped[len(flipped) // 2] ^= 255
    (tmp_path / "flipped.parquet").write_bytes(flipped)
    with pytest.raises(ConfigError, match=r"flipped.parquet (is damaged|holds no features)"):
        compute_figures(tmp_path / "flipped.parquet")
