"""The scores of an evaluation, computed from its stored features alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from gwm.core import ConfigError
from gwm.core.frechet import GaussianStats, frechet_distance
from gwm.core.kernel_distance import kernel_distance
from gwm.pipelines.feature_file import Features, Origin, Scored, read_features, read_origin
from gwm.pipelines.gathering import Sample, Statistics
from gwm.pipelines.world_measures import world_figures
from gwm.shards.schema import Floats

RESAMPLES = 100  # of the scenes, for the standard error of the clip distance
DIGITS = 10  # significant ones that are kept: rounding below them depends on the machine
STANDARD = {
    "frames": "fid", "predicted": "fid_without_condition", "kernel": "kid", "kernel_se": "kid_se", "clips": "fvd",
    "clips_se": "fvd_se", "clips_interval": "fvd_interval",
}  # fmt: skip
LITE = {
    "frames": "frame_frechet", "predicted": "frame_frechet_without_condition", "kernel": "frame_kernel",
    "kernel_se": "frame_kernel_se", "clips": "video_frechet", "clips_se": "video_frechet_se",
    "clips_interval": "video_frechet_interval",
}  # fmt: skip


Value = float | int | list[float] | None


def names_of(standard: bool) -> dict[str, str]:
    """What the scores are called: FID, KID and FVD are those by their standard networks alone."""
    return STANDARD if standard else LITE


@dataclass(frozen=True)
class Figures:
    """Scores by horizon, and what their reader has to know."""

    origin: Origin
    rows: tuple[dict[str, Value], ...]  # one for each horizon, in order
    warnings: tuple[str, ...]


class _Horizon:
    """What is gathered of one horizon; pairs are real and generated."""

    def __init__(self) -> None:
        self.frames, self.predicted = (Statistics(), Statistics()), (Statistics(), Statistics())
        self.samples = Sample(), Sample()
        self.clips: tuple[list[Features], list[Features]] = ([], [])
        self.scenes: list[str] = []  # of each clip
        self.fidelity: dict[str, list[Floats]] = {"psnr": [], "ssim": [], "lpips": []}
        self.world: dict[str, list[Floats]] = {}  # only what was measured

    def add(self, row: Scored, condition_frames: int) -> None:
        predicted = np.asarray(row.segment.counted) >= condition_frames
        for i, features in enumerate((row.real_frames, row.generated_frames)):
            self.frames[i].add(features)
            self.predicted[i].add(features[predicted])
            self.samples[i].add(features)
        self.clips[0].append(row.real_clip)
        self.clips[1].append(row.generated_clip)
        self.scenes.append(row.scene)
        for name, values in self.fidelity.items():
            values.append(getattr(row, name))
        for name, measured in world_figures(row).items():
            self.world.setdefault(name, []).append(measured)


def compute_figures(path: Path) -> Figures:
    """All scores from the feature file at `path`. ConfigError for too few clips.

    On one thread, as the last digits depend on their number. Memory grows with the number of clips, 3 kB each, not with
    that of frames.
    """
    with threadpool_limits(1):
        return _compute(path)


def _compute(path: Path) -> Figures:
    origin = read_origin(path)
    horizons: dict[float, _Horizon] = {}
    for row in read_features(path):
        horizons.setdefault(row.segment.horizon, _Horizon()).add(row, origin.condition_frames)
    if not horizons:
        raise ConfigError(f"{path} holds no clips; run the evaluation again")
    rows: list[dict[str, Value]] = []
    warnings: dict[str, None] = {}  # each once, though several horizons may give it
    for horizon, gathered in sorted(horizons.items()):
        values, said = _score(gathered, names_of(origin.features.standard))
        rows.append({"horizon_s": horizon, **{name: _rounded(value) for name, value in values.items()}})
        warnings |= dict.fromkeys(said)
    return Figures(origin, tuple(rows), tuple(warnings))


def _score(gathered: _Horizon, names: dict[str, str]) -> tuple[dict[str, Value], list[str]]:
    """The scores of one horizon by name, and what to know about them."""
    frames, predicted = ([side.done() for side in pair] for pair in (gathered.frames, gathered.predicted))
    real, generated = (np.stack(side) for side in gathered.clips)
    if len(real) < 2:
        raise ConfigError(f"{len(real)} clip cannot be scored, at least 2 are needed; raise --limit or give more data")
    distance, error = clip_distance(real, generated, gathered.scenes)
    kernel, kernel_error = kernel_distance(gathered.samples[0].drawn(), gathered.samples[1].drawn())
    values: dict[str, Value] = {"n_frames": frames[0].n, "n_clips": len(real)}
    scores: dict[str, Value] = {
        "frames": frechet_distance(frames[0], frames[1]),
        "predicted": frechet_distance(predicted[0], predicted[1]),
        "kernel": kernel, "kernel_se": kernel_error,
        "clips": distance, "clips_se": error, "clips_interval": [distance - 1.96 * error, distance + 1.96 * error],
    }  # fmt: skip
    values |= {names[name]: value for name, value in scores.items()}
    for name, parts in (gathered.fidelity | gathered.world).items():
        together = np.concatenate(parts)
        values[name] = float(together.mean()) if len(together) else None
    warnings = [
        f"{names[name]} is biased upward: {n} {unit} for {d} feature dimensions; compare it only with scores of as many"
        for name, n, d, unit in (
            ("frames", frames[0].n, len(frames[0].mean), "frames"), ("clips", len(real), real.shape[1], "clips"),
        ) if n <= d
    ]  # fmt: skip
    return values, warnings


def clip_distance(real: Features, generated: Features, scenes: Sequence[str]) -> tuple[float, float]:
    """Fréchet distance of clips (N, d) and its standard error by bootstrap over the scenes that they are of.

    The error tells how far another draw of as many scenes may lie away, not the upward bias of few clips.
    """
    distance = frechet_distance(GaussianStats.of(real), GaussianStats.of(generated))
    names = np.unique(scenes)
    places = [np.flatnonzero(np.asarray(scenes) == name) for name in names]
    draw = np.random.default_rng(0)
    again = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([places[i] for i in draw.integers(len(names), size=len(names))])
        again.append(frechet_distance(GaussianStats.of(real[chosen]), GaussianStats.of(generated[chosen])))
    return distance, float(np.std(again, ddof=1))


def _rounded(value: Value) -> Value:
    """None, which JSON knows, for what is not finite."""
    if isinstance(value, list):
        return [float(f"{x:.{DIGITS}g}") for x in value] if np.isfinite(value).all() else None
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value
