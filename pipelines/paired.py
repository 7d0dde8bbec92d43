"""How far generated videos are from the true ones, frame by frame: PSNR, SSIM and LPIPS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gwm import __version__
from gwm.core import ConfigError
from gwm.core.fidelity import psnr, ssim
from gwm.pipelines.device import choose_device
from gwm.pipelines.feature_choice import load_lpips
from gwm.pipelines.progress import Ticker
from gwm.shards.images import Size
from gwm.shards.schema import Floats, Images
from gwm.shards.sources.video import video_files
from gwm.shards.storage import AnyPath
from gwm.shards.video import probe, read_frames

TOGETHER = 16  # frames that are compared at once


@dataclass(frozen=True)
class PairedResult:
    """Means over all frames of all pairs."""

    psnr: float  # dB; equal frames count as 100
    ssim: float
    lpips: float | None  # None where its weight files are not there
    videos: int
    frames: int
    size: Size  # width, height
    real: str
    generated: str
    seconds: float
    gwm_version: str


def score_paired(
    real: Path, generated: Path, store: Path, device: str = "auto", size: Size | None = None
) -> PairedResult:
    """Compare each video at `generated` with the one of the same name at `real`, frame by frame at 10 Hz.

    Both are files, or folders with the same files. All frames are brought to `size` (width, height) where one is given.
    store: the folder of LPIPS's weights. ConfigError for names, sizes and numbers of frames that differ, SourceError
    for damaged videos.
    """
    began = time.perf_counter()
    pairs = _pairs(real, generated)
    size = size or _common_size(pairs)
    lpips = load_lpips(store, str(choose_device(device)))
    found: dict[str, list[Floats]] = {"psnr": [], "ssim": [], "lpips": []}
    with Ticker("comparing videos", len(pairs)) as ticker:
        for a, b in pairs:
            for truth, made in _together(a, b, size):
                found["psnr"].append(psnr(truth, made))
                found["ssim"].append(ssim(truth, made))
                if lpips is not None:
                    found["lpips"].append(lpips(truth, made).astype(np.float64))
            ticker.advance()
    means = {name: float(np.concatenate(parts).mean()) if parts else None for name, parts in found.items()}
    if means["psnr"] is None or means["ssim"] is None:
        raise ConfigError(f"{real} has no frames to compare")
    return PairedResult(
        means["psnr"], means["ssim"], means["lpips"], len(pairs), sum(map(len, found["psnr"])), size, str(real),
        str(generated), round(time.perf_counter() - began, 2), __version__,
    )  # fmt: skip


def _pairs(real: Path, generated: Path) -> list[tuple[AnyPath, AnyPath]]:
    if real.is_file() and generated.is_file():
        return [(real, generated)]
    a, b = (
        {str(Path(str(file)).relative_to(root if root.is_dir() else root.parent)): file for file in video_files(root)}
        for root in (real, generated)
    )
    if alone := sorted(a.keys() ^ b.keys()):
        raise ConfigError(
            f"{len(alone)} videos have no partner ({', '.join(alone[:3])}{', …' if len(alone) > 3 else ''}): pairs are "
            f"files of the same name in {real} and {generated}"
        )
    return [(a[name], b[name]) for name in sorted(a)]


def _common_size(pairs: list[tuple[AnyPath, AnyPath]]) -> Size:
    sizes = {file: (info.width, info.height) for pair in pairs for file in pair for info in [probe(file)]}
    different = set(sizes.values())
    if len(different) > 1:
        listed = ", ".join(f"{file} {width}x{height}" for file, (width, height) in list(sizes.items())[:4])
        raise ConfigError(f"the videos differ in size ({listed}); bring all to one with --size WIDTHxHEIGHT")
    return different.pop()


def _together(a: AnyPath, b: AnyPath, size: Size) -> Iterator[tuple[Images, Images]]:
    """The frames of both files, some at a time; ConfigError where their numbers or moments differ."""
    waiting: list[tuple[Images, Images]] = []
    truth, made = read_frames(a, size), read_frames(b, size)
    count = 0
    while True:
        x, y = next(truth, None), next(made, None)
        if x is None or y is None:
            break
        if x[0] != y[0]:
            raise ConfigError(f"{a} and {b} have no frame at the same moment after {count} of them")
        count += 1
        waiting.append((x[1], y[1]))
        if len(waiting) == TOGETHER:
            yield _stacked(waiting)
            waiting = []
    if x is not None or y is not None:
        longer = a if x is not None else b
        raise ConfigError(f"{a} and {b} have unequal numbers of frames: {longer} goes on after {count}; cut it")
    if waiting:
        yield _stacked(waiting)


def _stacked(pairs: list[tuple[Images, Images]]) -> tuple[Images, Images]:
    truth, made = zip(*pairs, strict=True)
    return np.stack(truth), np.stack(made)
