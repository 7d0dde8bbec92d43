"""The published evaluation protocols as data, and the clips of a dataset that each asks for.

A protocol's version changes with anything that changes its scores. Where the paper is silent, `decisions` says what we
chose, and every result repeats it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gwm.core import ConfigError
from gwm.pipelines.recipe import RIG
from gwm.shards import ShardError
from gwm.shards.index import Dataset
from gwm.shards.reader import iterate_windows
from gwm.shards.schema import FRAME_RATE


@dataclass(frozen=True)
class Protocol:
    """What is generated from which clips, and what of it is scored."""

    name: str
    version: int
    title: str
    source: str  # where it is published
    dataset: str  # the source of the shards
    command: str  # that makes them
    clips: int  # N: drives to generate
    frames: int  # of a generated drive, the given ones included
    condition_frames: int  # given ones
    actions: bool  # whether the model is told the true ones
    views: int = 1  # K
    segment: int = 25  # frames of a scored clip
    horizons: tuple[float, ...] = (2.5,)  # s of the drive at which it is scored
    fid_frames: int | None = None  # drawn from the scored clips of a horizon; None: all of them
    listed: bool = False  # every sample is a clip: the dataset was made from a clip list
    per_scene: bool = False  # one clip a scene, its first
    zero_shot: bool = False  # for models that were not trained on the dataset alone
    decisions: tuple[str, ...] = ()  # where the source is silent


_WINDOWS = "clips follow each other without overlap in each validation sample; the N of them lie evenly among all"
_REAL = (
    "the real side are the same frames of the same clips, at the size of the model's frames; given frames count as the "
    "autoencoder returns them; the clip's text is given too, where it has one"
)

VISTA = Protocol(
    name="nuscenes-vista",
    version=1,
    title="nuScenes, single view (Vista)",
    source="Vista, section 4; its clips by its own rule",
    dataset="nuscenes",
    command=(
        "gwm preprocess nuscenes FOLDER --split val --export-vista clips.json, "
        "then gwm preprocess nuscenes FOLDER --split val --annotations clips.json -o SHARDS"
    ),
    clips=5369,
    frames=25,
    condition_frames=1,
    actions=False,
    listed=True,
    decisions=(_REAL, "Vista's FID leaves the given frame out: fid_without_condition"),
)
MASKGWM = replace(
    VISTA,
    name="nuscenes-maskgwm",
    title="nuScenes, single view (MaskGWM's reading)",
    source="MaskGWM 4.1 and 7.3",
    actions=True,
    decisions=(_REAL, "the paper's FID counts all 25 frames: fid; the clip's speed and steering are given"),
)
DRIVE_WM = Protocol(
    name="nuscenes-drivewm",
    version=1,
    title="nuScenes, six views (Drive-WM)",
    source="MaskGWM 7.3, after Drive-WM",
    dataset="nuscenes",
    command="gwm preprocess nuscenes FOLDER --split val -o SHARDS",
    clips=150,
    frames=16,
    condition_frames=1,
    actions=True,
    views=6,
    segment=16,
    horizons=(1.6,),
    fid_frames=10_000,
    per_scene=True,
    decisions=(
        _REAL,
        "videos of 16 frames, the first of each scene, in windows of the model's length; one given frame",
        "the clip's true speed and steering are given",
        "every view of a drive is a clip of its own for FVD",
    ),
)
LONG_HORIZON = Protocol(
    name="opendv-long-horizon",
    version=1,
    title="OpenDV-2K, long horizon",
    source="MaskGWM 7.4, figure 7",
    dataset="opendv",
    command="gwm preprocess opendv FOLDER --split val --frames 200 -o SHARDS",
    clips=300,
    frames=125,
    condition_frames=3,
    actions=False,
    horizons=(2.5, 5.0, 7.5, 10.0, 12.5),
    decisions=(
        _REAL,
        _WINDOWS,
        "past the first window, 25 consecutive frames at a place drawn for each clip, given frames not among them",
    ),
)
ABLATION = Protocol(
    name="opendv-ablation",
    version=1,
    title="OpenDV-2K, the paper's ablations",
    source="MaskGWM 4.3",
    dataset="opendv",
    command="gwm preprocess opendv FOLDER --split val -o SHARDS",
    clips=3000,
    frames=25,
    condition_frames=1,
    actions=False,
    fid_frames=18_000,
    decisions=(_REAL, _WINDOWS, "one given frame, as in the other protocols of one window; no actions"),
)
ZERO_SHOT = Protocol(
    name="waymo-zero-shot",
    version=1,
    title="Waymo, zero-shot",
    source="MaskGWM 4.1 and 7.3",
    dataset="waymo",
    command="gwm preprocess waymo FOLDER -o SHARDS",
    clips=600,
    frames=25,
    condition_frames=1,
    actions=False,
    fid_frames=15_000,
    zero_shot=True,
    decisions=(_REAL, _WINDOWS, "all 25 frames count for FID: 600 x 25 are the paper's 15 000"),
)
PROTOCOLS = (VISTA, MASKGWM, DRIVE_WM, LONG_HORIZON, ABLATION, ZERO_SHOT)
DEFAULTS = {"nuscenes": MASKGWM, "opendv": LONG_HORIZON, "waymo": ZERO_SHOT}


@dataclass(frozen=True)
class Clip:
    """A drive that is generated from its first frames."""

    number: int  # place in the protocol's list of the dataset
    row: int  # of the dataset's index
    start: int  # frame of the sample
    key: str  # sample and first frame
    scene: str  # that the sample is part of


@dataclass(frozen=True)
class Segment:
    """Frames of one view of a generated drive that are scored together."""

    horizon: float  # s
    view: int  # index among K
    first: int  # frame of the drive
    counted: tuple[int, ...]  # frames of the drive that FID counts


def choose_protocol(dataset: str, name: str | None, views: int) -> Protocol:
    """The protocol called `name`, or the usual one of a dataset for a model of so many views. ConfigError."""
    known = {p.name.partition("-")[2]: p for p in PROTOCOLS if p.dataset == dataset}
    if name is not None and name not in known:
        raise ConfigError(f"--protocol {name}: {dataset} has {', '.join(known)}")
    if name is None and dataset == DRIVE_WM.dataset and views >= DRIVE_WM.views:
        return DRIVE_WM
    return DEFAULTS[dataset] if name is None else known[name]


def list_clips(protocol: Protocol, dataset: Dataset) -> list[Clip]:
    """The clips that a protocol asks for, at most its N. ConfigError or ShardError where the dataset has none."""
    if dataset.source != protocol.dataset:
        raise ConfigError(
            f"{dataset.path} holds shards of {dataset.source!r}; protocol {protocol.name} scores {protocol.dataset}: "
            f"{protocol.command}"
        )
    if protocol.listed and dataset.settings.get("rate") != "clips":
        raise ConfigError(
            f"{dataset.path} holds whole scenes; protocol {protocol.name} scores the clips of a list: "
            f"{protocol.command}"
        )
    try:
        stride = protocol.frames
        found = iterate_windows(dataset, "val", protocol.frames, stride, RIG[: protocol.views])
    except ShardError as error:
        raise ShardError(f"{error}. For protocol {protocol.name}: {protocol.command}") from error
    if protocol.per_scene:
        found = _first_of_scenes(dataset, found)
    chosen = [found[i] for i in spread_evenly(len(found), protocol.clips)]
    keys = dataset.table.column("key").to_pylist()
    scenes = dataset.table.column("scene").to_pylist()
    return [Clip(i, row, start, f"{keys[row]}@{start}", scenes[row]) for i, (row, start) in enumerate(chosen)]


def _first_of_scenes(dataset: Dataset, windows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    scenes = dataset.table.column("scene").to_pylist()
    first: dict[str, tuple[int, int]] = {}
    for row, start in windows:
        first.setdefault(scenes[row], (row, start))
    return list(first.values())


def spread_evenly(n: int, wanted: int) -> list[int]:
    """At most `wanted` of the numbers 0 .. n - 1, evenly apart."""
    m = min(n, wanted)
    return [(2 * i + 1) * n // (2 * m) for i in range(m)]


def clip_list_sha256(protocol: Protocol, clips: Sequence[Clip]) -> str:
    """A fingerprint of which frames are generated, that any other team can compute: lines of "key frames"."""
    lines = "".join(f"{clip.key} {protocol.frames}\n" for clip in clips)
    return hashlib.sha256(lines.encode()).hexdigest()


def segments(protocol: Protocol, clip: Clip) -> list[Segment]:
    """What is scored of a clip: for each horizon and view, its frames and those of them that FID counts.

    The draws depend on protocol, clip and view alone, not on a run's seed: the real side is the same in all runs.
    """
    found = []
    for horizon in protocol.horizons:
        end = round(horizon * FRAME_RATE)
        for view in range(protocol.views):
            draw = np.random.default_rng(_seed(protocol, clip.key, horizon, view))
            first = 0
            if end > protocol.segment:
                first = int(draw.integers(protocol.condition_frames, end - protocol.segment + 1))
            n = _counted(protocol, clip.number * protocol.views + view)
            counted = np.sort(draw.permutation(protocol.segment)[:n]) + first
            found.append(Segment(horizon, view, first, tuple(counted.tolist())))
    return found


def _counted(protocol: Protocol, place: int) -> int:
    """How many frames of the segment at a place among all of its horizon FID counts: fid_frames in all."""
    if protocol.fid_frames is None:
        return protocol.segment
    total = protocol.clips * protocol.views
    return (place + 1) * protocol.fid_frames // total - place * protocol.fid_frames // total


def _seed(protocol: Protocol, key: str, horizon: float, view: int) -> list[int]:
    text = f"{protocol.name} {protocol.version} {key} {horizon} {view}"
    return list(hashlib.sha256(text.encode()).digest())
