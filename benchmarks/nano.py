"""How well a checkpoint foresees the rendered world, and whether it obeys its actions.

    python -m benchmarks.nano --data SHARDS [--checkpoint C] [--json OUT]

SHARDS: a world whose validation towns the checkpoint has not seen. One window is predicted from the start of each of
them. Foresight: PSNR against the truth at a few horizons, beside that of repeating the last given frame. Obedience: yaw
rate and picture motion of forced manoeuvres, measured by dense optical flow, which is checked on the real drives first.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import torch

from gwm.pipelines.checkpoint import Checkpoint, load_checkpoint
from gwm.pipelines.control import MANOEUVRES, held, manoeuvre
from gwm.pipelines.rollout import RolloutSettings, generate
from gwm.shards.files import write_json
from gwm.shards.index import open_dataset
from gwm.shards.reader import MOTION_AHEAD, iterate_windows, read_window
from gwm.shards.schema import FRAME_RATE, Camera, Floats, Images, Motion, Window

HORIZONS = (1, 4, 8, 13, 18, 22)  # frames after the last given one
BAND = (0.12, 0.53)  # rows around the horizon, as shares of the height: far away, where yaw moves everything alike


def psnr(a: Images, b: Images) -> float:
    """Peak signal-to-noise ratio of two uint8 images, dB."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def flows(frames: Images) -> Floats:
    """(T - 1, H, W, 2) pixels that everything moves by between consecutive frames (T, H, W, 3)."""
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([estimator.calc(a, b, None) for a, b in itertools.pairwise(grey)])


def yaw_rates(frames: Images, camera: Camera) -> Floats:
    """(T - 1,) rad/s, left positive: what lies far ahead moves right by focal length times yaw."""
    height = frames.shape[1]
    band = flows(frames)[:, round(BAND[0] * height) : round(BAND[1] * height), :, 0]
    rates: Floats = np.median(band, axis=(1, 2)) / camera.intrinsics[0, 0] * FRAME_RATE
    return rates


def driven_yaw_rates(motion: Motion, frames: int) -> Floats:
    """(T - 1,) rad/s from the poses of a drive."""
    assert motion.pose is not None
    yaw = np.unwrap(np.arctan2(motion.pose[:frames, 1, 0], motion.pose[:frames, 0, 0]))
    return np.diff(yaw) * FRAME_RATE


def predict(checkpoint: Checkpoint, window: Window, motion: Motion, settings: RolloutSettings) -> Images:
    """One window of frames (T, H, W, 3), the given ones included, as the model draws them."""
    model = checkpoint.model
    given = torch.from_numpy(window.frames[: settings.condition_frames])[None]
    z = model.encode(given.to(next(model.dit.parameters()).device))[0]
    motion = held(motion, settings.frames + MOTION_AHEAD)
    parts = generate(model, z, window.text, motion, window.cameras[0], settings.frames, settings)
    frames: Images = model.decode(torch.cat(list(parts))[None])[0, :, 0].cpu().numpy()
    return frames


def foresight(checkpoint: Checkpoint, windows: list[Window], settings: RolloutSettings) -> dict[str, list[float]]:
    """Mean PSNR at each horizon: of the prediction, and of the last given frame repeated."""
    last = settings.condition_frames - 1
    predicted, copied = [], []
    for window in windows:
        real, frames = window.frames[:, 0], predict(checkpoint, window, window.motion, settings)
        predicted.append([psnr(frames[last + h], real[last + h]) for h in HORIZONS])
        copied.append([psnr(real[last], real[last + h]) for h in HORIZONS])
    return {
        "seconds_ahead": [h / FRAME_RATE for h in HORIZONS],
        "psnr": np.mean(predicted, axis=0).tolist(),
        "psnr_of_copying": np.mean(copied, axis=0).tolist(),
    }


def obedience(checkpoint: Checkpoint, windows: list[Window], settings: RolloutSettings) -> dict[str, object]:
    """Yaw rate (rad/s) that each manoeuvre commands and that the video shows, and how far its pictures move."""
    rows: dict[str, dict[str, list[float]]] = {}
    for window in windows:
        assert window.motion.speed is not None
        for name in MANOEUVRES:
            motion = manoeuvre(name, settings.frames + MOTION_AHEAD, float(window.motion.speed[0]))
            new = predict(checkpoint, window, motion, settings)[settings.condition_frames - 1 :]
            commanded = driven_yaw_rates(motion, settings.frames)[settings.condition_frames - 1 :]
            row = rows.setdefault(name, {"commanded_yaw": [], "shown_yaw": [], "moved": []})
            row["commanded_yaw"].append(float(commanded.mean()))
            row["shown_yaw"].append(float(yaw_rates(new, window.cameras[0]).mean()))
            row["moved"].append(float(np.abs(flows(new)).mean()))
    left, right = (np.array(rows[name]["shown_yaw"]) for name in ("turn-left", "turn-right"))
    commanded = np.array(rows["turn-left"]["commanded_yaw"]) - rows["turn-right"]["commanded_yaw"]
    means = {name: {key: float(np.mean(values)) for key, values in row.items()} for name, row in rows.items()}
    return {
        "manoeuvres": means,
        "towns_where_left_turns_left_of_right": int((left > right).sum()),
        "share_of_commanded_turn": float(np.mean(left - right) / np.mean(commanded)),
    }


def estimator(windows: list[Window]) -> dict[str, float]:
    """How the flow's yaw rates on the real drives relate to the driven ones: slope through zero, correlation."""
    shown = np.concatenate([yaw_rates(w.frames[:, 0], w.cameras[0]) for w in windows])
    driven = np.concatenate([driven_yaw_rates(w.motion, len(w.frames)) for w in windows])
    return {"slope": float(shown @ driven / (driven @ driven)), "correlation": float(np.corrcoef(shown, driven)[0, 1])}


@torch.inference_mode()
def run(checkpoint: Checkpoint, data: Path, settings: RolloutSettings) -> dict[str, object]:
    """Everything, as one record."""
    dataset, length = open_dataset(data), settings.frames
    rows = sorted({row for row, _ in iterate_windows(dataset, "val", length, length)})
    windows = [read_window(dataset, row, 0, length, size=checkpoint.training.size) for row in rows]
    return {
        "checkpoint": checkpoint.name, "data": str(data), "towns": len(windows), "steps": settings.steps,
        "guidance": settings.guidance, "condition_frames": settings.condition_frames, "seed": settings.seed,
        "foresight": foresight(checkpoint, windows, settings), "flow_on_real_drives": estimator(windows),
        "obedience": obedience(checkpoint, windows, settings),
    }  # fmt: skip


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="shards of a rendered world")
    parser.add_argument("--checkpoint", type=Path, help="the embedded one if absent")
    parser.add_argument("--guidance", type=float, help="the checkpoint's own if absent")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="file for the record")
    given = parser.parse_args()
    checkpoint = load_checkpoint(given.checkpoint, given.device)
    scale = checkpoint.training.guidance if given.guidance is None else given.guidance
    settings = RolloutSettings(checkpoint.training.frames, given.steps, scale, seed=given.seed)
    record = run(checkpoint, given.data, settings)
    print(json.dumps(record, indent=2))
    if given.json:
        write_json(given.json, record)


if __name__ == "__main__":
    main()
