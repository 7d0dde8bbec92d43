"""What quicker sampling costs in quality: seconds a frame against distance to the truth and obedience.

    python -m benchmarks.sampling [--checkpoint C] [--student S] [--clips 64] [--json OUT]

One window of each of so many towns that no training has seen, from 3 true frames, with the true actions and, for all
variants, the same noise. The first variant is the paper's: 30 Euler steps, guidance throughout; it is drawn a second
time with other noise, which tells what differences mean nothing. Times are medians of ratios to the first variant
within a round, all variants interleaved.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measures import clip_distance, driven_yaw_rates, frame_distance, predict, psnr, shown_yaw_rates, slope
from benchmarks.rollout import towns
from gwm.pipelines.checkpoint import Checkpoint, load_checkpoint
from gwm.pipelines.rollout import RolloutSettings
from gwm.shards.files import write_json
from gwm.shards.schema import Images, Window

HIGH = (0.3, 1.0)  # of τ: guidance decides what is there, not its last details
VARIANTS: dict[str, dict[str, Any]] = {
    "euler 30": {},
    "euler 8": {"steps": 8},
    "ab2 10": {"steps": 10, "solver": "ab2"},
    "ab2 8": {"steps": 8, "solver": "ab2"},
    "ab2 6": {"steps": 6, "solver": "ab2"},
    "ab2 8, guidance above 0.3": {"steps": 8, "solver": "ab2", "guidance_range": HIGH},
    "ab2 8, guidance every 2": {"steps": 8, "solver": "ab2", "guidance_every": 2},
    "ab2 8, guidance every 4": {"steps": 8, "solver": "ab2", "guidance_every": 4},
    "ab2 6, guidance every 2": {"steps": 6, "solver": "ab2", "guidance_every": 2},
    "ab2 10, no guidance": {"steps": 10, "solver": "ab2", "guidance": 1.0},
}
Variant = tuple[Checkpoint, RolloutSettings]
REFERENCE = "euler 30"
AGAIN = "euler 30, other noise"
ROUNDS = 5


@dataclass(frozen=True)
class Point:
    """One variant on the frontier."""

    name: str
    seconds_per_frame: float
    speedup: float  # over the reference: median of ratios within a round
    video_frechet: float  # of whole windows to the true ones, by the small features
    frame_frechet: float
    psnr: float  # dB, of all predicted frames to the truth
    yaw_slope: float  # of the shown yaw rate over the driven one


def draw(checkpoint: Checkpoint, settings: RolloutSettings, windows: list[Window]) -> Images:
    """(clips, T, H, W, 3): window i with the noise of seed + i."""
    seeded = (replace(settings, seed=settings.seed + i) for i in range(len(windows)))
    return np.stack([predict(checkpoint, w, w.motion, s) for w, s in zip(windows, seeded, strict=True)])


def timings(window: Window, variants: dict[str, Variant]) -> dict[str, list[float]]:
    """Seconds of each variant, in every round all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, (checkpoint, settings) in variants.items():
            began = time.perf_counter()
            predict(checkpoint, window, window.motion, settings)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def measure(
    checkpoint: Checkpoint, student: Checkpoint | None, windows: list[Window], settings: RolloutSettings
) -> list[Point]:
    """All variants, the reference first."""
    variants = {name: (checkpoint, replace(settings, **changes)) for name, changes in VARIANTS.items()}
    if student is not None:
        own = student.training
        name = f"student, {own.sampling_steps} steps"
        variants[name] = student, replace(settings, steps=own.sampling_steps, guidance=own.guidance)
    seconds = timings(windows[0], variants)
    variants[AGAIN] = checkpoint, replace(settings, seed=settings.seed + 10_000)
    seconds[AGAIN] = seconds[REFERENCE]
    real, frames, given = np.stack([w.frames[:, 0] for w in windows]), settings.frames, settings.condition_frames
    driven = np.concatenate([driven_yaw_rates(w.motion, frames)[given - 1 :] for w in windows])
    points = []
    for name, variant in variants.items():
        made = draw(*variant, windows)
        shown = [shown_yaw_rates(m[given - 1 :], w.cameras[0]) for m, w in zip(made, windows, strict=True)]
        ratios = np.array(seconds[REFERENCE]) / seconds[name]
        points.append(
            Point(
                name,
                float(np.median(seconds[name])) / frames,
                float(np.median(ratios)),
                clip_distance(real, made),
                frame_distance(real[:, given:], made[:, given:]),
                float(np.mean([psnr(a, b) for a, b in zip(real[:, given:], made[:, given:], strict=True)])),
                slope(np.concatenate(shown), driven),
            )
        )
    return points


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="the embedded one if absent")
    parser.add_argument("--student", type=Path, help="a checkpoint of gwm distill, drawn in its own steps")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--data", type=Path, help="shards of a rendered world that training has not seen")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    checkpoint = load_checkpoint(given.checkpoint, given.device)
    training = checkpoint.training
    student = None if given.student is None else load_checkpoint(given.student, given.device)
    settings = RolloutSettings(training.frames, guidance=training.guidance, seed=given.seed)
    with towns(given.data, given.clips, training.frames, training.size) as windows:
        points = measure(checkpoint, student, windows, settings)
    record = {
        "checkpoint": checkpoint.name, "clips": given.clips, "threads": torch.get_num_threads(),
        "settings": asdict(settings), "points": [asdict(point) for point in points],
    }  # fmt: skip
    table = Table("variant", "s/frame", "speedup", "video Fréchet", "frame Fréchet", "PSNR, dB", "yaw slope")
    for p in points:
        values = (p.seconds_per_frame, p.speedup, p.video_frechet, p.frame_frechet, p.psnr, p.yaw_slope)
        table.add_row(p.name, *(f"{value:.3g}" for value in values))
    Console().print(table)
    if given.json:
        write_json(given.json, json.loads(json.dumps(record)))


if __name__ == "__main__":
    main()
