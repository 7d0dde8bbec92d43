"""Whether neighbouring views of a rollout agree where they overlap, against the same views drawn one by one.

    python -m benchmarks.views [--checkpoint nano-mview] [--clips 16] [--frames 40] [--json OUT]

Each clip is a town that no training should have seen, with the true actions and first frames. Drawn apart, every view
has a rollout of its own, by the same model and by a single-view one, so that nothing ties the views together but their
given frames. The agreement is that of `core.overlap`, in the predicted frames; real frames are the best that can be.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.measures import predict_views, psnr
from benchmarks.rollout import TOWNS
from gwm.core.overlap import agreement_with_next
from gwm.pipelines.checkpoint import Checkpoint, load_checkpoint
from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.progress import Ticker
from gwm.pipelines.recipe import RIG
from gwm.pipelines.rollout import RolloutSettings
from gwm.pipelines.world_measures import views_of
from gwm.shards.files import write_json
from gwm.shards.index import open_dataset
from gwm.shards.reader import MOTION_AHEAD, read_window
from gwm.shards.schema import Images, Window
from gwm.shards.sources.world import WorldSource


def apart(checkpoint: Checkpoint, window: Window, settings: RolloutSettings) -> Images:
    """A rollout (T, K, H, W, 3) of a window with its own actions, every view alone, with noise of its own."""
    seeds = [replace(settings, seed=settings.seed + 1000 * (view + 1)) for view in range(len(window.views))]
    drawn = [predict_views(checkpoint, window, window.motion, seed, [view]) for view, seed in enumerate(seeds)]
    return np.concatenate(drawn, axis=1)


def agreements(window: Window, frames: Images, given: int) -> list[float]:
    """Of every pair of neighbours that overlap, the mean over the predicted frames."""
    cameras = views_of(window)
    found = [agreement_with_next(frames[given:], cameras, view) for view in range(len(cameras) - 1)]
    return [float(values.mean()) for values in found if len(values)]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("nano-mview"))
    parser.add_argument("--single", type=Path, help="the single-view model; the embedded one if absent")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    several, single = load_checkpoint(given.checkpoint, given.device), load_checkpoint(given.single, given.device)
    training = several.training
    names = training.views or RIG[: several.model.config.views]
    settings = RolloutSettings(given.frames, given.steps, training.guidance)
    agreed: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder, Ticker("rollouts", given.clips) as ticker:
        frames = given.frames + MOTION_AHEAD
        preprocess(WorldSource(given.clips, TOWNS, frames, training.size, rig="nuscenes"), Path(folder) / "world")
        dataset = open_dataset(Path(folder) / "world")
        for row in range(given.clips):
            window = read_window(dataset, row, 0, given.frames, names, training.size)
            n_c, real = settings.condition_frames, window.frames
            for name, made in {
                "real": real,
                "drawn together": predict_views(several, window, window.motion, settings, range(len(names))),
                "drawn apart": apart(several, window, settings),
                "single-view model": apart(single, window, settings),
            }.items():
                agreed.setdefault(name, []).append(float(np.mean(agreements(window, made, n_c))))
                errors.setdefault(name, []).append(psnr(made[n_c:], real[n_c:]))
            ticker.advance()
    record = {
        "checkpoint": several.name, "views": names, "clips": given.clips, "settings": asdict(settings),
        "agreement": {name: float(np.mean(values)) for name, values in agreed.items()},
        "clips_where_together_agrees_better": {
            name: int(np.sum(np.array(agreed["drawn together"]) > agreed[name])) for name in list(agreed)[2:]
        },
        "psnr": {name: float(np.mean(values)) for name, values in errors.items() if name != "real"},
    }  # fmt: skip
    print(json.dumps(record, indent=2))
    if given.json:
        write_json(given.json, json.loads(json.dumps(record)))


if __name__ == "__main__":
    main()
