"""Features on disk: one Parquet file from which every score of an evaluation can be computed again.

A row is a scored clip: its place, the features of its frames and of the whole, real and generated, and how far each
predicted frame is from the truth. The schema's metadata say what the features are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gwm.core import ConfigError
from gwm.pipelines.protocols import Segment
from gwm.shards.files import replacing
from gwm.shards.schema import Floats

FORMAT = "gwm-features-1"
ROWS = 32  # of a row group: what is in memory at a time, about 13 MB of FID's features

MOTIONS = ("true_motion", "real_motion", "generated_motion")

Features = npt.NDArray[np.float32]

_SCHEMA = pa.schema(
    [
        ("number", pa.int32()),
        ("key", pa.string()),
        ("scene", pa.string()),
        ("horizon", pa.float64()),
        ("view", pa.int32()),
        ("first", pa.int32()),
        ("counted", pa.list_(pa.int32())),
        ("real_frames", pa.list_(pa.float32())),  # (counted, d) row by row
        ("generated_frames", pa.list_(pa.float32())),
        ("real_clip", pa.list_(pa.float32())),
        ("generated_clip", pa.list_(pa.float32())),
        ("psnr", pa.list_(pa.float64())),  # of each predicted frame of the segment, dB
        ("ssim", pa.list_(pa.float64())),
        ("lpips", pa.list_(pa.float64())),  # empty without its network
        # null where it was not measured; (steps, 2) m/s and rad/s row by row, of the steps to predicted frames
        ("true_motion", pa.list_(pa.float64())),
        ("real_motion", pa.list_(pa.float64())),  # as gwm inverse-dynamics reads it
        ("generated_motion", pa.list_(pa.float64())),
        ("real_agreement", pa.list_(pa.float64())),  # with the next view, of each predicted frame, -1 to 1
        ("generated_agreement", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class FeatureNames:
    """What the features are, with the SHA-256 of the networks' weights."""

    standard: bool  # those of published FID and FVD
    frames: str
    frames_sha256: str
    clips: str
    clips_sha256: str
    lpips: str | None = None


@dataclass(frozen=True)
class Origin:
    """What a feature file was made for."""

    features: FeatureNames
    protocol: str
    protocol_version: int
    condition_frames: int


@dataclass(frozen=True, eq=False)
class Scored:
    """One row."""

    number: int  # of the clip
    key: str
    scene: str
    segment: Segment
    real_frames: Features  # (counted, d)
    generated_frames: Features
    real_clip: Features  # (d',)
    generated_clip: Features
    psnr: Floats  # (predicted,)
    ssim: Floats
    lpips: Floats  # (predicted,) or (0,)
    true_motion: Floats | None = None  # (steps, 2) m/s and rad/s
    real_motion: Floats | None = None
    generated_motion: Floats | None = None
    real_agreement: Floats | None = None  # (predicted,)
    generated_agreement: Floats | None = None


def write_features(path: Path, origin: Origin, rows: Iterable[Scored]) -> None:
    """Write rows as they come, complete or not at all. OSError where that cannot be."""
    schema = _SCHEMA.with_metadata({"gwm": json.dumps({"format": FORMAT, **asdict(origin)})})
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        waiting: list[dict[str, Any]] = []
        for row in rows:
            waiting.append(_values(row))
            if len(waiting) == ROWS:
                writer.write_table(pa.Table.from_pylist(waiting, schema))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, schema))


def read_origin(path: Path) -> Origin:
    """What the file at `path` was made for. ConfigError where it is no such file."""
    return _opened(path)[1]


def read_features(path: Path) -> Iterator[Scored]:
    """The rows of the file at `path`, a few at a time. ConfigError where it is no such file, or damaged."""
    file, _ = _opened(path)
    try:
        for batch in file.iter_batches(ROWS):
            yield from map(_scored, _rows(batch))
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} is damaged ({error}); run the evaluation again") from error


def _opened(path: Path) -> tuple[pq.ParquetFile, Origin]:
    try:
        # A buffer would hold all that was read until the end.
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
        values = json.loads((file.schema_arrow.metadata or {}).get(b"gwm", b"{}"))
        if values.pop("format", None) != FORMAT or file.schema_arrow.names != _SCHEMA.names:
            raise ValueError("those of another version of gwm")
        return file, Origin(**{**values, "features": FeatureNames(**values["features"])})
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no features ({error}); give the features.parquet of `gwm eval`") from error


def _values(row: Scored) -> dict[str, Any]:
    segment = row.segment
    return {
        "number": row.number, "key": row.key, "scene": row.scene,
        "horizon": segment.horizon, "view": segment.view, "first": segment.first,
        "counted": segment.counted, "real_frames": row.real_frames.ravel(),
        "generated_frames": row.generated_frames.ravel(), "real_clip": row.real_clip,
        "generated_clip": row.generated_clip, "psnr": row.psnr, "ssim": row.ssim, "lpips": row.lpips,
        "real_agreement": row.real_agreement, "generated_agreement": row.generated_agreement,
        **{name: None if (motion := getattr(row, name)) is None else motion.ravel() for name in MOTIONS},
    }  # fmt: skip


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Rows with their lists as arrays, not as Python numbers; None for what is null."""
    for i in range(batch.num_rows):
        row = {}
        for name in _SCHEMA.names:
            value = batch.column(name)[i]
            as_array = pa.types.is_list(value.type) and value.is_valid
            row[name] = value.values.to_numpy() if as_array else value.as_py()
        yield row


def _scored(row: dict[str, Any]) -> Scored:
    counted = tuple(row["counted"].tolist())
    n = len(counted)
    motions = {name: None if row[name] is None else row[name].reshape(-1, 2) for name in MOTIONS}
    return Scored(
        row["number"], row["key"], row["scene"], Segment(row["horizon"], row["view"], row["first"], counted),
        row["real_frames"].reshape(n, -1 if n else 0), row["generated_frames"].reshape(n, -1 if n else 0),
        row["real_clip"], row["generated_clip"], row["psnr"], row["ssim"], row["lpips"], **motions,
        real_agreement=row["real_agreement"], generated_agreement=row["generated_agreement"],
    )  # fmt: skip
