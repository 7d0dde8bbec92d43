"""How good a checkpoint's rollouts of the rendered world are, and whether it obeys its actions.

    python -m benchmarks.rollout [--checkpoint C] [--clips 32] [--frames 200] [--data SHARDS] [--json OUT]

Each clip is a town that no training should have seen: a world of its own seed is rendered, unless --data names one with
enough frames. Rollouts begin with 3 true frames and are steered by the true actions; each figure stands beside the
real video's. Then every clip is driven left, right and to a stop by force.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.measures import (
    driven_yaw_rates,
    flows,
    frame_distance,
    predict_side_by_side,
    psnr,
    sharpness,
    shown_yaw_rates,
    slope,
)
from gwm.pipelines.checkpoint import Checkpoint, load_checkpoint
from gwm.pipelines.control import manoeuvre
from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.progress import Ticker
from gwm.pipelines.rollout import RolloutSettings
from gwm.shards.files import write_json
from gwm.shards.index import open_dataset
from gwm.shards.reader import MOTION_AHEAD, read_window
from gwm.shards.schema import Images, Motion, Window
from gwm.shards.sources.world import WorldSource

TOWNS = 9_000_000  # seed of the towns that are rendered here
FORESIGHT = 10  # predicted frames whose mean PSNR is compared with that of copying the last given one
MOVING = 1.0  # m/s on average over these frames: where the car stands, the last given frame is hard to beat
LATE = 25  # frames at a rollout's end
TURN, STOP = 25, 75  # frames of a forced turn, and of a forced stop: 3 m/s² take 15 m/s to a halt in 50
SLOWEST = 5.0  # m/s of a forced turn: who stands cannot turn
STANDING = 10  # frames at a stop's end
STILL = 0.05  # m/s


@contextmanager
def towns(data: Path | None, clips: int, frames: int, size: tuple[int, int]) -> Iterator[list[Window]]:
    """The first `frames` frames of so many scenes at `size` (width, height), rendered where no data are given."""
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            data = Path(folder) / "world"
            preprocess(WorldSource(clips, TOWNS, frames + MOTION_AHEAD, size), data)
        dataset = open_dataset(data)
        rows = [row for row in range(len(dataset)) if dataset.row(row).frames >= frames][:clips]
        if len(rows) < clips:
            raise SystemExit(f"{data} has {len(rows)} samples of {frames} frames, wanted are {clips}")
        yield [read_window(dataset, row, 0, frames, size=size) for row in rows]


def foresight(real: Images, made: Images, given: int) -> dict[str, float]:
    """PSNR in dB of the first predicted frames against the truth, and of the last given frame repeated.

    real, made (clips, T, H, W, 3).
    """
    ahead = range(given, given + FORESIGHT)
    predicted = [psnr(b[i], a[i]) for a, b in zip(real, made, strict=True) for i in ahead]
    copied = [psnr(a[given - 1], a[i]) for a in real for i in ahead]
    gain = float(np.mean(predicted) - np.mean(copied))
    return {"predicted": float(np.mean(predicted)), "copied": float(np.mean(copied)), "gain": gain}


def moves(window: Window, given: int) -> bool:
    """Whether the car moves in the first predicted frames."""
    assert window.motion.speed is not None
    return float(window.motion.speed[given : given + FORESIGHT].mean()) >= MOVING


def drift(real: Images, made: Images) -> dict[str, float]:
    """Sharpness and distance of the last frames, over those of the real ones and of the first."""
    late = slice(-LATE, None)
    first, last = (frame_distance(real[:, part], made[:, part]) for part in (slice(1, 1 + LATE), late))
    return {
        "sharpness_late_over_real": sharpness(made[:, late]) / sharpness(real[:, late]),
        "frame_frechet_early": first,
        "frame_frechet_late": last,
        "frame_frechet_late_over_early": last / first,
    }


def steering(windows: list[Window], made: Images) -> dict[str, float]:
    """Slope of the yaw rate that the pictures show over the one that was driven: of real and made video."""
    driven = np.concatenate([driven_yaw_rates(w.motion, made.shape[1]) for w in windows])
    slopes = []
    for frames in ([w.frames[:, 0] for w in windows], list(made)):
        pairs = zip(frames, windows, strict=True)
        slopes.append(slope(np.concatenate([shown_yaw_rates(f, w.cameras[0]) for f, w in pairs]), driven))
    return {"real": slopes[0], "made": slopes[1], "made_over_real": slopes[1] / slopes[0]}


def forced(
    checkpoint: Checkpoint, windows: list[Window], settings: RolloutSettings, batch: int = 1
) -> dict[str, float]:
    """What forced turns and stops show: turns with the right sign, their share of the commanded rate, what still moves.

    What moves after a stop is compared with real frames of vehicles that stand, traffic included.
    """
    shares, moved, still, given = [], [], [], settings.condition_frames
    for name, frames in (("turn-left", TURN), ("turn-right", TURN), ("stop", STOP)):
        motions = [manoeuvre(name, frames + MOTION_AHEAD, _speed(window)) for window in windows]
        made = rolled_out(checkpoint, windows, motions, replace(settings, frames=frames), batch, name)
        for window, motion, frames_made in zip(windows, motions, made, strict=True):
            if name == "stop":
                moved.append(float(np.abs(flows(frames_made[-STANDING:])).mean()))
            else:
                shown = float(shown_yaw_rates(frames_made[given - 1 :], window.cameras[0]).mean())
                shares.append(shown / float(driven_yaw_rates(motion, frames)[given - 1 :].mean()))
    for window in windows:
        assert window.motion.speed is not None
        halts = window.motion.speed[: len(window.frames)] < STILL
        real = np.abs(flows(window.frames[:, 0])).mean(axis=(1, 2, 3))
        still.extend(real[halts[1:] & halts[:-1]].tolist())
    standing = float(np.mean(still)) if still else float("nan")
    return {
        "turns": len(shares), "turns_with_the_right_sign": sum(share > 0 for share in shares),
        "share_of_commanded_turn": float(np.mean(shares)),
        "motion_after_stop": float(np.mean(moved)), "motion_of_real_stops": standing,
        "median_motion_after_stop": float(np.median(moved)),
        "frames_of_real_stops": len(still), "stop_over_real": float(np.mean(moved)) / standing,
    }  # fmt: skip


def _speed(window: Window) -> float:
    """What a forced drive begins with, m/s."""
    assert window.motion.speed is not None
    return max(float(window.motion.speed[0]), SLOWEST)


def rolled_out(
    checkpoint: Checkpoint, windows: list[Window], motions: list[Motion], settings: RolloutSettings, batch: int,
    what: str,
) -> Images:  # fmt: skip
    """Rollouts (clips, T, H, W, 3), `batch` of them side by side."""
    made = []
    with Ticker(what, len(windows)) as ticker:
        for part in (slice(first, first + batch) for first in range(0, len(windows), batch)):
            made.append(predict_side_by_side(checkpoint, windows[part], motions[part], settings))
            ticker.advance(len(made[-1]))
    return np.concatenate(made)


@torch.inference_mode()
def kept(checkpoint: Checkpoint, windows: list[Window]) -> float:
    """PSNR in dB of the autoencoder on every tenth frame."""
    model = checkpoint.model
    values: list[float] = []
    for window in windows:
        frames = torch.from_numpy(window.frames[::10])[None]
        again = model.decode(model.encode(frames.to(next(model.dit.parameters()).device)))[0].cpu().numpy()
        values.extend(psnr(a, b) for a, b in zip(again, window.frames[::10], strict=True))
    return float(np.mean(values))


def run(checkpoint: Checkpoint, windows: list[Window], settings: RolloutSettings, batch: int = 1) -> dict[str, object]:
    """Everything, as one record."""
    pictures = rolled_out(checkpoint, windows, [w.motion for w in windows], settings, batch, "rollouts")
    real = np.stack([w.frames[:, 0] for w in windows])
    given = settings.condition_frames
    moving = np.array([moves(window, given) for window in windows])
    return {
        "checkpoint": checkpoint.name, "clips": len(windows), "settings": asdict(settings),
        "autoencoder_psnr": kept(checkpoint, windows),
        "foresight": foresight(real, pictures, given),
        "foresight_moving": foresight(real[moving], pictures[moving], given) if moving.any() else None,
        "moving_clips": int(moving.sum()),
        "drift": drift(real, pictures), "yaw_slope": steering(windows, pictures),
        "forced": forced(checkpoint, windows, settings, batch),
    }  # fmt: skip


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="the embedded one if absent")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--data", type=Path, help="shards of a rendered world that training has not seen")
    parser.add_argument("--guidance", type=float, help="the checkpoint's own if absent")
    parser.add_argument("--steps", type=int, help="the checkpoint's own if absent")
    parser.add_argument("--solver", choices=("euler", "ab2"), default="euler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=1, help="rollouts drawn side by side: quick on a GPU")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    if given.batch < 1:
        parser.error(f"--batch {given.batch} must be at least 1")
    checkpoint = load_checkpoint(given.checkpoint, given.device)
    scale = checkpoint.training.guidance if given.guidance is None else given.guidance
    steps = checkpoint.training.sampling_steps if given.steps is None else given.steps
    settings = RolloutSettings(given.frames, steps, scale, seed=given.seed, solver=given.solver)
    with towns(given.data, given.clips, given.frames, checkpoint.training.size) as windows:
        record = run(checkpoint, windows, settings, given.batch)
    print(json.dumps(record, indent=2))
    if given.json:
        write_json(given.json, record)


if __name__ == "__main__":
    main()
