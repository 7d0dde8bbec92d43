"""Reading what `gwm eval` wrote: one result.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from gwm import __version__
from gwm.core import ConfigError
from gwm.pipelines.eval_record import FORMAT, VERSION
from gwm.pipelines.eval_record import RESULT_FILE as FILE


@dataclass(frozen=True)
class Measure:
    """A figure of a result: its key in the file, and the key of its standard error where it has one."""

    key: str
    title: str
    better: Literal["↓", "↑"]
    error: str | None = None


_IMAGE = (Measure("psnr", "PSNR, dB", "↑"), Measure("ssim", "SSIM", "↑"), Measure("lpips", "LPIPS", "↓"))
WORLD = (  # shown where they were measured
    Measure("speed_error", "Speed error, m/s", "↓"),
    Measure("speed_error_real", "Speed error of real frames, m/s", "↓"),
    Measure("yaw_rate_error", "Yaw rate error, rad/s", "↓"),
    Measure("yaw_rate_error_real", "Yaw rate error of real frames, rad/s", "↓"),
    Measure("trajectory_difference", "Trajectory difference over 2 s, m", "↓"),
    Measure("trajectory_difference_real", "Trajectory difference of real frames, m", "↓"),
    Measure("view_agreement", "Agreement of neighbouring views", "↑"),
    Measure("view_agreement_real", "Agreement of neighbouring real views", "↑"),
)
STANDARD = (  # by the networks of published FID and FVD
    Measure("fid", "FID, all frames", "↓"),
    Measure("fid_without_condition", "FID, given frames left out", "↓"),
    Measure("kid", "KID", "↓", "kid_se"),
    Measure("fvd", "FVD", "↓", "fvd_se"),
    *_IMAGE,
    *WORLD,
)
LITE = (  # by other networks: the same formulas, other measures
    Measure("frame_frechet", "Frame Fréchet, all frames", "↓"),
    Measure("frame_frechet_without_condition", "Frame Fréchet, given frames left out", "↓"),
    Measure("frame_kernel", "Frame kernel distance", "↓", "frame_kernel_se"),
    Measure("video_frechet", "Video Fréchet", "↓", "video_frechet_se"),
    *_IMAGE,
    *WORLD,
)


@dataclass(frozen=True)
class Rules:
    """The protocol, as far as a page needs it by name; `values` is all that the file says of it."""

    name: str
    version: int
    title: str
    source: str
    dataset: str
    clips: int | None  # N
    horizons: tuple[float, ...]  # s
    decisions: tuple[str, ...]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Figures:
    """What was measured at one horizon (s); None where it was not."""

    horizon: float
    n_frames: int
    n_clips: int
    values: Mapping[str, float | None]  # by the keys of Measure


@dataclass(frozen=True)
class Example:
    """A clip to look at."""

    kind: Literal["best", "worst"]
    key: str
    psnr: float | None  # dB
    video: str  # a file, relative to the result's folder


@dataclass(frozen=True)
class Result:
    """One finished evaluation."""

    folder: Path
    rules: Rules
    zero_shot: bool
    partial: bool
    standard: bool  # whether its figures are FID and FVD as published ones are
    checkpoint: Mapping[str, Any]
    data: Mapping[str, Any]
    sampling: Mapping[str, Any]
    features: Mapping[str, Any]
    size: tuple[int, int]  # width, height of the frames that were scored
    figures: tuple[Figures, ...]  # by horizon
    examples: tuple[Example, ...]
    missing: tuple[tuple[str, str], ...]  # key and cause of each clip that is not in it
    warnings: tuple[str, ...]
    versions: Mapping[str, Any]
    device: str
    seconds: float
    limit: int | None  # --limit
    actions: bool  # whether the model was told the true ones: the protocol's choice may have been overruled

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What its figures may hold."""
        return STANDARD if self.standard else LITE

    @property
    def clips(self) -> int:
        """How many were generated and scored."""
        return int(self.data["clips"]) - len(self.missing)


def result_file(given: Path) -> Path:
    """The result.json of a folder of `gwm eval`, or the file that was given itself. ConfigError where there is none."""
    file = given / FILE if given.is_dir() else given
    if not file.is_file():
        raise ConfigError(f"no result at {file}: give the -o of a `gwm eval` that has finished, or its {FILE}")
    return file


def read_result(file: Path) -> Result:
    """What a result.json holds.

    ConfigError where it is damaged, of another format or version, or the evaluation has not finished.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
        kind = values["format"], values["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(file, error) from error
    if kind[0] != FORMAT:
        raise ConfigError(f"{file} has format {kind[0]!r}, not {FORMAT!r}: give the -o of a `gwm eval`")
    if kind[1] != VERSION:
        raise ConfigError(
            f"{file} is a result of version {kind[1]!r}, and gwm {__version__} reads version {VERSION}: use the gwm "
            "that wrote it, or evaluate again"
        )
    if values.get("finished") is not True:
        raise ConfigError(f"the evaluation in {file.parent} has not finished; the same `gwm eval` command continues it")
    try:
        return _result(file.parent, values)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise _damaged(file, error) from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no figure")


def _damaged(file: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{file} is damaged ({error!r}): copy it again, or repeat the `gwm eval` that wrote it")


def _result(folder: Path, values: dict[str, Any]) -> Result:
    features = _mapping(values["features"])
    standard = bool(features["standard"])
    width, height = (int(n) for n in values["size"])
    result = Result(
        folder=folder,
        rules=_rules(_mapping(values["protocol"])),
        zero_shot=bool(values["zero_shot"]),
        partial=bool(values["partial"]),
        standard=standard,
        checkpoint=_mapping(values["checkpoint"]),
        data=_mapping(values["data"]),
        sampling=_mapping(values["sampling"]),
        features=features,
        size=(width, height),
        figures=tuple(_figures(_mapping(row), STANDARD if standard else LITE) for row in values["figures"]),
        examples=tuple(_example(_mapping(row)) for row in values.get("examples", ())),
        missing=tuple((str(row["key"]), str(row["cause"])) for row in values.get("missing", ())),
        warnings=tuple(str(line) for line in values.get("warnings", ())),
        versions=_mapping(values["versions"]),
        device=str(values["device"]),
        seconds=float(values["seconds"]),
        limit=None if values.get("limit") is None else int(values["limit"]),
        actions=bool(values.get("actions", values["protocol"]["actions"])),
    )
    _ = result.clips, result.checkpoint["name"]
    if not result.figures:
        raise ValueError("figures is empty")
    return result


def _rules(values: Mapping[str, Any]) -> Rules:
    return Rules(
        name=str(values["name"]),
        version=int(values["version"]),
        title=str(values["title"]),
        source=str(values["source"]),
        dataset=str(values["dataset"]),
        clips=None if values.get("clips") is None else int(values["clips"]),
        horizons=tuple(float(s) for s in values["horizons"]),
        decisions=tuple(str(line) for line in values.get("decisions", ())),
        values=values,
    )


def _figures(row: Mapping[str, Any], measures: tuple[Measure, ...]) -> Figures:
    keys = [key for measure in measures for key in (measure.key, measure.error) if key is not None]
    return Figures(
        float(row["horizon_s"]), int(row["n_frames"]), int(row["n_clips"]), {key: _number(row.get(key)) for key in keys}
    )


def _example(row: Mapping[str, Any]) -> Example:
    if row["kind"] not in ("best", "worst"):
        raise ValueError(f"example of kind {row['kind']!r}")
    return Example(row["kind"], str(row["key"]), _number(row.get("psnr")), str(row["video"]))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.60} where names and values should stand")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no figure")
    return number
