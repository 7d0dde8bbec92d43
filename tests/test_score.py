"""Feature networks and scores, on a few small drawn frames."""

from __future__ import annotations

import json
import random
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torch
from conftest import tiny_chunk
from einops import rearrange
from toy_shards import make_chunk, write

from gwm import __version__
from gwm.core import ConfigError, WeightsError
from gwm.pipelines import feature_choice, features, score
from gwm.pipelines.feature_choice import FeatureChoice
from gwm.pipelines.features import Features, FrameFeatures, VideoFeatures
from gwm.pipelines.score import ScoreResult, score_frames, write_result
from gwm.pipelines.video_out import write_video
from gwm.shards import ShardError, SourceError
from gwm.shards.schema import Images
from gwm.shards.video import read_frames

T = 4  # frames of a clip, to be quick
LITE = FeatureChoice(kind="lite")


def drive(seed: int, frames: int = T, size: tuple[int, int] = (96, 64)) -> Images:
    """(frames, H, W, 3): boxes on a shaded ground that move past, smooth in time."""
    rng = np.random.default_rng(seed)
    width, height = size
    scene = np.linspace(40, 220, height)[:, None, None] + np.zeros((height, 3 * width, 3)) * 1.0
    for _ in range(60):
        x, y, w, h = rng.integers(0, (3 * width, height, width // 3, height // 3))
        scene[y : y + h + 1, x : x + w + 1] = rng.uniform(0, 255, 3)
    steps = np.arange(frames) * int(rng.integers(1, 4)) % (2 * width)
    return np.stack([scene[:, s : s + width] for s in steps]).astype(np.uint8)


def noise(clip: Images, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, clip.shape, dtype=np.uint8)


def jpeg(clip: Images) -> Images:
    return np.stack([cv2.imdecode(cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], 1) for f in clip])


def blur(clip: Images) -> Images:
    return np.stack([cv2.GaussianBlur(f, (0, 0), 2) for f in clip])


@pytest.fixture(scope="module")
def real() -> list[Images]:
    return [drive(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of two and a half clips each, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    write_video(folder / "a.mp4", drive(0, 2 * T + 2))
    write_video(folder / "sub" / "b.mp4", drive(1, 2 * T + 2))
    return folder


def run(real: Path, generated: Path, clip_frames: int = T) -> ScoreResult:
    return score.score(real, generated, LITE, clip_frames, "cpu")


@dataclass(frozen=True)
class Colours:
    """Features quick to compute: mean and spread of the three colours, over a frame or a clip."""

    device: str
    name: ClassVar[str] = "colours-6"
    sha256: ClassVar[str] = "0" * 64
    d: ClassVar[int] = 6

    def __call__(self, frames: Images) -> Features:
        pixels = rearrange(frames, "n ... c -> n (...) c").astype(np.float32)
        return np.concatenate([pixels.mean(1), pixels.std(1)], axis=1)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours for the networks, where the test is about the bookkeeping around them."""
    monkeypatch.setattr(feature_choice, "FrameFeatures", Colours)
    monkeypatch.setattr(feature_choice, "VideoFeatures", Colours)


def test_features_have_their_shape_and_are_repeatable(real: list[Images]) -> None:
    frame_features, video_features = FrameFeatures(), VideoFeatures()
    a, b = frame_features(real[0]), video_features(np.stack(real[:2]))
    assert a.shape == (T, frame_features.d) and a.dtype == np.float32  # noqa: PT018
    assert b.shape == (2, video_features.d) and b.dtype == np.float32  # noqa: PT018
    assert frame_features.name.endswith(str(frame_features.d))
    assert video_features.name.endswith(str(video_features.d))
    np.testing.assert_array_equal(a, frame_features(real[0]))
    np.testing.assert_array_equal(b, video_features(np.stack(real[:2])))
    np.testing.assert_allclose(a[1:3], frame_features(real[0][1:3]), atol=1e-5)  # whatever the batch
    np.testing.assert_array_equal(b[1:], video_features(real[1][None]))


def test_features_of_no_frames() -> None:
    assert FrameFeatures()(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 1280)


def test_video_features_see_the_order_of_frames() -> None:
    clip = drive(3, 12)
    shuffled = clip[np.random.default_rng(0).permutation(12)]
    a, b = VideoFeatures()(np.stack([clip, shuffled]))
    assert np.abs(a - b).max() > 0.01


def test_efficientnet_is_fed_as_it_was_trained() -> None:
    """The first batch norm tells what the mean input was in training: near 0 for (x - 127) / 128 of photographs."""
    network = features._load_efficientnet("cpu")
    kernels = network._conv_stem.weight.sum((2, 3)).double()
    mean = network._bn0.running_mean.double()
    rgb = 127 + 128 * torch.linalg.lstsq(kernels, mean[:, None]).solution[:, 0]
    assert ((rgb > 105) & (rgb < 130)).all()
    assert rgb[0] > rgb[2]  # photographs are redder than blue: the channels are in RGB order
    grey = features._efficientnet_input(torch.full((1, 10, 20, 3), 127, dtype=torch.uint8))
    assert grey.shape == (1, 3, 224, 224)
    assert grey.abs().max() < 1e-6


def test_loading_leaves_the_process_as_it_was() -> None:
    """TransNetV2's constructor seeds every global generator and makes torch deterministic."""
    for load in (features._load_efficientnet, features._checked_transnet, features.load_transnet):
        load.cache_clear()
    before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    features._load_efficientnet("cpu"), features._checked_transnet("cpu")
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()
    assert not torch.are_deterministic_algorithms_enabled()


def test_other_weights_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "weights.pth"
    other.write_bytes(b"other weights")
    with pytest.raises(WeightsError, match=r"weights\.pth has SHA-256 .* would not compare"):
        features._checked(other, features.TRANSNET_SHA256)
    with pytest.raises(WeightsError, match=r"cannot read .*none"):
        features._checked(tmp_path / "none", features.TRANSNET_SHA256)


def test_noise_scores_worse_than_a_damaged_copy(real: list[Images]) -> None:
    """On drawn frames only this much: JPEG's ringing along drawn edges is as strange to the network as a blur."""
    copies = [[damage(clip) for clip in real[:2]] for damage in (jpeg, blur, noise)]
    results = [score_frames(real[:2], copy, LITE, T, "cpu") for copy in copies]
    frames, clips = [r.scores["frame_frechet"] for r in results], [r.scores["video_frechet"] for r in results]
    assert 0 < max(frames[:2]) < frames[2]
    assert 0 < clips[0] < clips[1] < clips[2]


@pytest.mark.slow
def test_more_damage_to_real_driving_scores_worse() -> None:
    video = Path(__file__).parents[2] / "shared" / "data" / "video" / "highway_day.mp4"
    if not video.is_file():
        pytest.skip(f"there is no {video}")
    images = [image for _, image in read_frames(video, (256, 144))]
    clips = [np.stack(images[i : i + 8]) for i in range(0, len(images) - 7, 8)]
    rng = np.random.default_rng(0)

    def blurred(sigma: float) -> list[Images]:
        return [np.stack([cv2.GaussianBlur(f, (0, 0), sigma) for f in clip]) for clip in clips]

    def noisy(sigma: float) -> list[Images]:
        return [(clip + rng.normal(0, sigma, clip.shape)).clip(0, 255).astype(np.uint8) for clip in clips]

    for damaged in (blurred, noisy):
        results = [score_frames(clips, damaged(sigma), LITE, 8, "cpu") for sigma in (2, 8, 32)]
        frames, videos = [r.scores["frame_frechet"] for r in results], [r.scores["video_frechet"] for r in results]
        assert 0 < 2 * frames[0] < frames[1] < frames[2]
        assert 0 < videos[0] < videos[1] < videos[2] / 2  # fine noise averages out at 48x27
    frozen = score_frames(clips, [clip[:1].repeat(8, axis=0) for clip in clips], LITE, 8, "cpu")
    assert frozen.scores["video_frechet"] > 2 * results[0].scores["video_frechet"]


def test_result_says_what_it_depends_on(real: list[Images]) -> None:
    result = score_frames(real[:3], [*real[:2], real[3][:3]], LITE, T, "cpu")
    assert (result.n_frames_real, result.n_frames_generated) == (3 * T, 2 * T + 3)
    assert (result.n_clips_real, result.n_clips_generated) == (3, 2)
    assert (result.clip_frames, result.size, result.gwm_version) == (T, (96, 64), __version__)
    assert (result.features.frames, result.features.clips) == (FrameFeatures.name, VideoFeatures.name)
    biased, biased_too, rest = result.warnings
    assert biased == (
        "frame_frechet is biased upward: 12 real and 11 generated frames for 1280 feature dimensions; "
        "compare it only with scores of as many frames"
    )
    assert biased_too.startswith("video_frechet is biased upward: 3 real and 2 generated clips for 256")
    assert rest == "3 of the generated frames lie in rests shorter than 4 and count in frame_frechet only"


@pytest.mark.usefixtures("quick")
def test_enough_clips_give_no_warning(real: list[Images]) -> None:
    assert score_frames(real * 2, real * 2, LITE, T, "cpu").warnings == ()


@pytest.mark.usefixtures("quick")
def test_long_runs_are_cut_into_clips() -> None:
    runs = [drive(seed, 2 * T + 1) for seed in range(2)]
    cut = [part for r in runs for part in (r[:T], r[T : 2 * T], r[2 * T :])]
    others = [drive(seed, 2 * T) for seed in (7, 8)]
    a, b = score_frames(runs, others, LITE, T, "cpu"), score_frames(cut, others, LITE, T, "cpu")
    assert (a.n_clips_real, a.n_frames_real) == (4, 4 * T + 2)
    assert (a.scores["frame_frechet"], a.scores["video_frechet"]) == (
        b.scores["frame_frechet"],
        b.scores["video_frechet"],
    )


@pytest.mark.usefixtures("quick")
def test_memory_does_not_grow_with_the_number_of_clips() -> None:
    alive: list[weakref.ref[Images]] = []
    most = 0

    def clips() -> Iterator[Images]:
        nonlocal most
        for seed in range(8):
            clip = drive(seed, 2, (16, 8))
            alive.append(weakref.ref(clip))
            most = max(most, sum(ref() is not None for ref in alive))
            yield clip
            del clip

    score_frames(clips(), [drive(0, 2, (16, 8)), drive(1, 2, (16, 8))], LITE, 2, "cpu")
    assert most <= 2


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.usefixtures("quick")
def test_too_few_clips_are_refused_with_the_numbers(real: list[Images], count: int) -> None:
    few = [*real[:count], real[5][:2]]
    clips = "1 clip" if count else "0 clips"
    frames = count * T + 2
    with pytest.raises(ConfigError, match=f"generated: {clips} of 4 frames among {frames} frames at 10 Hz, at least 2"):
        score_frames(real, few, LITE, T, "cpu")
    with pytest.raises(ConfigError, match=f"real: {clips} of 4 frames among {frames} frames"):
        score_frames(few, real[:2], LITE, T, "cpu")


@pytest.mark.usefixtures("quick")
def test_other_impossible_input_is_refused(real: list[Images]) -> None:
    other = [drive(seed, T, (64, 64)) for seed in range(2)]
    with pytest.raises(ConfigError, match="clips of 1 frames show no motion"):
        score_frames(real, real, LITE, 1, "cpu")
    with pytest.raises(ConfigError, match="real and generated frames differ in size, 96x64 and 64x64"):
        score_frames(real[:2], other, LITE, T, "cpu")
    with pytest.raises(ConfigError, match="generated: frames differ in size, 96x64 and 64x64"):
        score_frames(real[:2], [real[0], *other], LITE, T, "cpu")
    with pytest.raises(ConfigError, match="unknown device 'gpu9'"):
        score_frames(real, real, LITE, T, "gpu9")


@pytest.mark.usefixtures("quick")
def test_folder_with_itself_scores_zero(videos: Path) -> None:
    result = run(videos, videos)
    assert result.scores["frame_frechet"] == pytest.approx(0, abs=1e-9)
    assert result.scores["video_frechet"] == pytest.approx(0, abs=1e-9)
    assert (result.n_frames_real, result.n_clips_real) == (4 * T + 4, 4)
    assert result.real == result.generated == f"{videos} (2 videos)"


@pytest.mark.usefixtures("quick")
def test_one_file_against_a_folder(videos: Path) -> None:
    """The two sides are of one size here, so swapping them changes no distance."""
    file = videos / "a.mp4"
    a, b = run(file, videos), run(videos, file)
    assert a.real == f"{file} (1 video)"
    assert a.scores["frame_frechet"] == pytest.approx(b.scores["frame_frechet"], rel=1e-9)
    assert a.scores["video_frechet"] == pytest.approx(b.scores["video_frechet"], rel=1e-9)
    assert a.scores["frame_frechet"] > 0


@pytest.mark.usefixtures("quick")
def test_shards_use_their_validation_split(videos: Path, tmp_path: Path) -> None:
    """And the smaller frames of the two decide the size: 64x32 here."""
    write(tmp_path / "s", [tiny_chunk(0, 30, "train"), tiny_chunk(1, 2 * T + 1, "val")])
    result = run(tmp_path / "s", videos)
    assert result.real == f"{tmp_path / 's'} (val split)"
    assert (result.n_frames_real, result.n_clips_real, result.size) == (2 * T + 1, 2, (64, 32))


@pytest.mark.usefixtures("quick")
def test_shards_without_validation_split_count_whole_and_each_view_is_a_video(tmp_path: Path) -> None:
    shards = write(tmp_path / "s", [make_chunk(i, T, ("front", "back")) for i in range(2)])
    result = run(shards, shards)
    assert result.real == f"{shards} (all samples)"
    assert (result.n_frames_real, result.n_clips_real) == (4 * T, 4)
    assert result.scores["frame_frechet"] == pytest.approx(0, abs=1e-9)


def test_no_clip_spans_a_gap_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    ticks = [0, 1, 2, 3, 4, 20, 21, 22]
    monkeypatch.setattr(score, "read_frames", lambda *_, **__: ((tick / 10, image) for tick in ticks))
    side = score._Videos(Path("x"), (Path("x.mp4"),))
    assert [len(r) for r in side.clips((8, 8), T, [])] == [4, 1, 3]


@pytest.mark.usefixtures("quick")
def test_damaged_videos_are_refused_or_named(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is cut, and one that is none at all: among whole ones."""
    (tmp_path / "made").mkdir()
    whole, cut = tmp_path / "made/whole.mp4", tmp_path / "made/cut.mp4"
    write_video(whole, [noise(drive(0, 1)[0], i) for i in range(5 * T)])
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    (tmp_path / "made/a-text.mp4").write_text("no video")
    with pytest.raises(SourceError, match=r"2 videos are damaged \(.*a-text.mp4.*cut.mp4.*--allow-missing"):
        run(videos, tmp_path / "made")
    result = score.score(videos, tmp_path / "made", LITE, T, "cpu", allow_missing=True)
    assert 7 * T <= result.n_frames_generated < 10 * T
    assert "a-text.mp4" in result.warnings[0]
    assert str(cut) in result.warnings[1]

    def interrupted(_: Any, generated: Iterator[Images], *__: Any) -> None:
        list(generated)
        raise KeyboardInterrupt

    monkeypatch.setattr(score, "score_frames", interrupted)
    with pytest.raises(KeyboardInterrupt):  # which is not the videos' fault
        run(videos, tmp_path / "made")


@pytest.mark.usefixtures("quick")
def test_unreadable_paths_are_refused(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    text = tmp_path / "bad" / "text.mp4"
    text.write_text("no video")
    with pytest.raises(SourceError, match=r"none.* does not exist"):
        run(videos, tmp_path / "none")
    with pytest.raises(SourceError, match=r"no video in .*empty"):
        run(tmp_path / "empty", videos)
    with pytest.raises(SourceError, match=r"text\.mp4"):
        run(videos, tmp_path / "bad")


@pytest.mark.usefixtures("quick")
def test_result_is_written_as_json(real: list[Images], tmp_path: Path) -> None:
    result = score_frames(real[:2], real[:3], LITE, T, "cpu")
    write_result(tmp_path / "new" / "scores.json", result)
    read = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert read["frame_frechet"] == result.scores["frame_frechet"]
    assert read["warnings"] == list(result.warnings)
    assert read["size"] == [96, 64]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["scores.json"]
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match="cannot write into"):
        write_result(tmp_path / "file" / "scores.json", result)
