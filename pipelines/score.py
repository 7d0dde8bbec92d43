"""Fréchet distances between two sets of video: of frames and of clips, in one pass and constant memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from gwm import __version__
from gwm.core import ConfigError
from gwm.core.frechet import GaussianStats, frechet_distance
from gwm.core.kernel_distance import kernel_distance
from gwm.pipelines.device import choose_device
from gwm.pipelines.feature_choice import FeatureChoice, Networks
from gwm.pipelines.feature_file import FeatureNames, Features
from gwm.pipelines.figures import names_of
from gwm.pipelines.gathering import Sample, Statistics
from gwm.pipelines.progress import Ticker
from gwm.shards import SourceError
from gwm.shards.files import make_folder, write_json
from gwm.shards.images import Size
from gwm.shards.index import DATASET_FILE, Dataset, open_dataset
from gwm.shards.reader import read_window
from gwm.shards.schema import FRAME_RATE, Images, Skipped
from gwm.shards.sources.video import video_files
from gwm.shards.storage import AnyPath
from gwm.shards.video import probe, read_frames

CLIP_FRAMES = 25  # Vista's and the paper's window


@dataclass(frozen=True)
class ScoreResult:
    """Distances and all that they depend on; see `figures.STANDARD` and `LITE` for what the scores are called."""

    scores: dict[str, float]
    features: FeatureNames
    real: str
    generated: str
    n_frames_real: int
    n_frames_generated: int
    n_clips_real: int
    n_clips_generated: int
    clip_frames: int
    size: Size  # width, height of the frames of both sides
    warnings: tuple[str, ...]
    seconds: float
    gwm_version: str


@dataclass(frozen=True)
class _Measured:
    """The statistics of one side."""

    frames: GaussianStats
    sample: Features
    clips: GaussianStats
    size: Size
    in_no_clip: int  # frames of rests shorter than a clip


def score(
    real: Path, generated: Path, choice: FeatureChoice, clip_frames: int = CLIP_FRAMES, device: str = "auto",
    size: Size | None = None, allow_missing: bool = False,
) -> ScoreResult:  # fmt: skip
    """Score the videos or shards at `generated` against those at `real`.

    Each is a video file, a folder of videos (with its subfolders; read at 10 Hz), or a dataset of shards, of which the
    validation split is read if it has one, and every view is a video of its own.

    Not in the paper: the frames of both sides are brought to one `size` (width, height), where None to the smaller
    of the two sides' (by area; first video), covering it and cropped at the centre, as `preprocess` does. A rollout.mp4
    of nano is enlarged four times for the eye: give the model's own size, 128x64, to judge what it made.

    Raises SourceError or ShardError for what cannot be read, damaged videos among it; with `allow_missing` the frames
    that decode count, and warnings name the losses. ConfigError for fewer than two clips on a side.
    """
    a, b = _open_side(real), _open_side(generated)
    size = size or min(a.size(), b.size(), key=lambda wh: wh[0] * wh[1])
    lost: list[str] = []
    sides = a.clips(size, clip_frames, lost), b.clips(size, clip_frames, lost)
    try:
        result = score_frames(*sides, choice, clip_frames, device)
    except ConfigError:  # such as for too few clips, where damage is the cause to tell
        _refuse(lost, allow_missing)
        raise
    _refuse(lost, allow_missing)
    return replace(result, real=str(a), generated=str(b), warnings=(*lost, *result.warnings))


def _refuse(lost: list[str], allow_missing: bool) -> None:
    """SourceError for damaged videos, where these are not allowed."""
    if lost and not allow_missing:
        count = f"{len(lost)} videos are" if len(lost) > 1 else "a video is"
        raise SourceError(
            f"{count} damaged ({'; '.join(lost[:3])}{' …' if len(lost) > 3 else ''}); replace what is damaged, or "
            "score what decodes with --allow-missing"
        )


def score_frames(
    real: Iterable[Images], generated: Iterable[Images], choice: FeatureChoice, clip_frames: int = CLIP_FRAMES,
    device: str = "auto",
) -> ScoreResult:  # fmt: skip
    """Score frames in memory, or as they come.

    `real` and `generated` yield runs of consecutive frames (T, H, W, 3) RGB uint8 of any length T, all of one size.
    A run is cut into clips of `clip_frames` frames, one behind the other; every frame counts in the frames' distance,
    only whole clips in the clips'. Raises ConfigError for sizes that differ and fewer than two clips on a side.
    """
    if clip_frames < 2:
        raise ConfigError(f"clips of {clip_frames} frames show no motion; use --clip-frames of at least 2")
    began = time.perf_counter()
    networks = choice.load(str(choose_device(device)))
    b = _measure("generated", generated, clip_frames, networks)  # the smaller side, as a rule: its mistakes first
    a = _measure("real", real, clip_frames, networks)
    if a.size != b.size:
        sizes = f"{a.size[0]}x{a.size[1]} and {b.size[0]}x{b.size[1]}"
        raise ConfigError(f"real and generated frames differ in size, {sizes}; bring them to one")
    names = names_of(networks.standard)
    with threadpool_limits(1):  # the last digits depend on the number of threads
        kernel, kernel_error = kernel_distance(a.sample, b.sample)
        scores = {
            "frames": frechet_distance(a.frames, b.frames), "kernel": kernel, "kernel_se": kernel_error,
            "clips": frechet_distance(a.clips, b.clips),
        }  # fmt: skip
    return ScoreResult(
        scores={names[name]: value for name, value in scores.items()},
        features=networks.names,
        real="frames in memory",
        generated="frames in memory",
        n_frames_real=a.frames.n,
        n_frames_generated=b.frames.n,
        n_clips_real=a.clips.n,
        n_clips_generated=b.clips.n,
        clip_frames=clip_frames,
        size=a.size,
        warnings=tuple(_warnings(a, b, clip_frames, names)),
        seconds=round(time.perf_counter() - began, 2),
        gwm_version=__version__,
    )


def shown(result: ScoreResult) -> dict[str, Any]:
    """The result as it is printed and written: the scores first, by their names."""
    values = asdict(result)
    return {**values.pop("scores"), **values}


def write_result(path: Path, result: ScoreResult) -> None:
    """Write `result` as JSON to `path`, complete or not at all. Raises ShardError where it cannot be written."""
    make_folder(path.parent)
    write_json(path, shown(result))


def _measure(side: str, runs: Iterable[Images], clip_frames: int, networks: Networks) -> _Measured:
    """The statistics of the runs of one side. Raises ConfigError for sizes that differ and fewer than two clips."""
    frames, clips, sample = Statistics(), GaussianStats.empty(networks.clips.d), Sample()
    frames.add(np.zeros((0, networks.frames.d), np.float32))
    sizes: dict[Size, None] = {}
    n = in_no_clip = 0
    with Ticker(f"scoring {side} frames", None) as ticker:
        for clip in (run[i : i + clip_frames] for run in runs for i in range(0, len(run), clip_frames)):
            sizes[clip.shape[2], clip.shape[1]] = None
            features = networks.frames(clip)
            frames.add(features)
            sample.add(features)
            if len(clip) == clip_frames:
                clips = clips.update(networks.clips(clip[None]))
            else:
                in_no_clip += len(clip)
            n += len(clip)
            ticker.advance(len(clip))
    if clips.n < 2:
        raise ConfigError(
            f"{side}: {clips.n} clip{'s' * (clips.n != 1)} of {clip_frames} frames among {n} frames at "
            f"{FRAME_RATE:g} Hz, at least 2 are needed; give more video, or a smaller --clip-frames"
        )
    if len(sizes) > 1:
        raise ConfigError(f"{side}: frames differ in size, {' and '.join(f'{w}x{h}' for w, h in sizes)}")
    return _Measured(frames.done(), sample.drawn(), clips, next(iter(sizes)), in_no_clip)


def _warnings(real: _Measured, generated: _Measured, clip_frames: int, names: dict[str, str]) -> Iterator[str]:
    """What whoever reads the distances has to know."""
    for name, unit, a, b in (
        (names["frames"], "frames", real.frames, generated.frames),
        (names["clips"], "clips", real.clips, generated.clips),
    ):
        if min(a.n, b.n) <= len(a.mean):
            yield (
                f"{name} is biased upward: {a.n} real and {b.n} generated {unit} for {len(a.mean)} feature dimensions; "
                f"compare it only with scores of as many {unit}"
            )
    for side, measured in (("real", real), ("generated", generated)):
        if measured.in_no_clip:
            yield (
                f"{measured.in_no_clip} of the {side} frames lie in rests shorter than {clip_frames} "
                f"and count in {names['frames']} only"
            )


class _Side(Protocol):
    """One of the two things compared; str() says what was read."""

    def size(self) -> Size: ...
    def clips(self, size: Size, clip_frames: int, lost: list[str]) -> Iterator[Images]: ...


def _open_side(path: Path) -> _Side:
    if (path / DATASET_FILE).is_file():
        return _Shards(open_dataset(path))
    return _Videos(path, tuple(video_files(path)))


@dataclass(frozen=True)
class _Videos:
    path: Path
    files: tuple[AnyPath, ...]

    def __str__(self) -> str:
        return f"{self.path} ({len(self.files)} video{'s' * (len(self.files) != 1)})"

    def size(self) -> Size:
        """Of the first video that can be opened; SourceError of the last where there is none."""
        for file in self.files[:-1]:
            with suppress(SourceError):
                return _size_of(file)
        return _size_of(self.files[-1])

    def clips(self, size: Size, clip_frames: int, lost: list[str]) -> Iterator[Images]:
        """Runs of at most `clip_frames` frames, none across a gap in time; what is lost to damage goes to `lost`."""
        for file in self.files:
            try:
                yield from self._runs(file, size, clip_frames, lost)
            except SourceError as error:
                lost.append(str(error))

    def _runs(self, file: AnyPath, size: Size, clip_frames: int, lost: list[str]) -> Iterator[Images]:
        losses: list[Skipped] = []
        run: list[Images] = []
        after = 0  # tick of 0.1 s behind the run
        for seconds, image in read_frames(file, size, losses=losses):
            tick = round(seconds * FRAME_RATE)
            if run and (len(run) == clip_frames or tick != after):
                yield np.stack(run)
                run = []
            run.append(image)
            after = tick + 1
        if run:
            yield np.stack(run)
        if losses:
            lost.append(f"{file}: {', '.join(f'{loss.cause} ({loss.item})' for loss in losses)}")


def _size_of(file: AnyPath) -> Size:
    info = probe(file)
    return info.width, info.height


@dataclass(frozen=True)
class _Shards:
    dataset: Dataset

    def __str__(self) -> str:
        return f"{self.dataset.path} ({'val split' if self._has_val else 'all samples'})"

    @property
    def _has_val(self) -> bool:
        return "val" in self.dataset.counts["splits"]

    def size(self) -> Size:
        return self.dataset.sizes[self.dataset.views[0]]

    def clips(self, size: Size, clip_frames: int, lost: list[str]) -> Iterator[Images]:
        """Runs of at most `clip_frames` frames of one view; damage raises, so nothing goes to `lost`."""
        splits, lengths = (self.dataset.table.column(name).to_pylist() for name in ("split", "frames"))
        for row, frames in enumerate(lengths):
            if splits[row] != "val" and self._has_val:
                continue
            for start in range(0, frames, clip_frames):
                window = read_window(self.dataset, row, start, min(clip_frames, frames - start), size=size)
                yield from (window.frames[:, k] for k in range(len(window.views)))
