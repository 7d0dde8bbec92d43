"""Train the inverse-dynamics network on real frames whose motion is known, and ask it how other frames move.

How far it can be trusted, after 2500 steps on 490 scenes of the rendered world, in 16 others of 22 s: R² 0.93 of the
speed and 0.97 of the yaw rate, and trajectories over 2 s that are 0.92 m off, at 5.5 m/s on average. Frames through
nano's autoencoder, blur of σ = 1 pixel of 128, noise of 10 / 255 and JPEG of quality 40 change that by 0.01 m; σ = 3
makes it 1.25 m, and the speed 0.5 m/s too high. The motion of another scene is 5.4 m off. A still picture is read as
0.25 m/s, on average and in either direction; frames in random order are read as 10 m/s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from gwm.core import ConfigError
from gwm.core.inverse_dynamics import (
    HEIGHT,
    WAYPOINT_STEPS,
    WIDTH,
    InverseDynamics,
    motion_between,
    motion_loss,
    waypoint_distances,
)  # fmt: skip
from gwm.core.seeds import seeded_generator
from gwm.pipelines.checkpoint import load_header, load_tensors, load_weights, save_tensors
from gwm.pipelines.device import choose_device
from gwm.pipelines.progress import Ticker
from gwm.shards import ShardError
from gwm.shards.files import make_folder, sha256_of, write_json
from gwm.shards.images import fit
from gwm.shards.index import Dataset, open_dataset
from gwm.shards.motion import WAYPOINTS, yaw_rate
from gwm.shards.reader import WindowSchedule, iterate_windows, read_window
from gwm.shards.schema import Floats, Images, Motion

FORMAT = "gwm-inverse-dynamics"
FILE = "inverse-dynamics.safetensors"
VIEW = "front"
RUNS, RUN = 16, 5  # windows of a step, and frames of a window: 64 pairs
LEARNING_RATE, WARMUP, COOLDOWN, WEIGHT_DECAY = 2e-3, 50, 0.5, 1e-2
FROZEN = 0.05  # share of the windows that are made to stand still
SHIFT = 3  # pixels that a window may lie aside or above
LIGHT, FLICKER = 0.3, 0.03  # how much brightness and contrast vary, of windows and of their single frames
GRAIN = 0.04  # most noise of a frame, of 1
COARSE = 3  # pixels of the softer picture that is mixed in
PAIRS = 64  # that are estimated at once


@dataclass(frozen=True)
class Accuracy:
    """How well a network reads real frames. Errors are mean absolute ones."""

    measured_on: str  # split
    steps: int  # between frames
    r2_speed: float | None  # None where the speed never varies
    r2_yaw_rate: float | None
    speed_error: float  # m/s
    yaw_rate_error: float  # rad/s
    trajectory_difference: float | None  # m, over 2 s; None where no sample lasts so long
    trajectory_difference_chunk: float | None  # m, over whole samples


@dataclass(frozen=True)
class InverseDynamicsResult:
    """What training reached."""

    steps: int
    seconds: float
    accuracy: Accuracy
    path: str


def true_motion(motion: Motion) -> Floats | None:
    """Motions (T-1, 2), m/s and rad/s, of T frames: by their poses, else by speed and steering; None without both."""
    if motion.pose is not None:
        return motion_between(motion.pose)
    if motion.speed is None or motion.steering is None:
        return None
    speed, steering = ((a[:-1] + a[1:]) / 2 for a in (motion.speed, motion.steering))
    return np.stack([speed, yaw_rate(speed, steering)], axis=1)


def train_inverse_dynamics(
    data: Path, out: Path, steps: int, seed: int = 0, device: str = "auto"
) -> InverseDynamicsResult:
    """Train for `steps` steps on the train split and write `out`/inverse-dynamics.safetensors, with its accuracy.

    The same weights for the same seed on a CPU. ConfigError, or ShardError where the data lack front frames of known
    motion.
    """
    if steps < 1:
        raise ConfigError(f"--steps {steps} must be at least 1")
    dataset, place = with_motion(open_dataset(data)), choose_device(device)
    schedule = WindowSchedule(dataset, "train", seed, min_length=RUN, views=(VIEW,))
    run, began = make_folder(out), time.monotonic()
    torch.manual_seed(seed)
    model = InverseDynamics().to(place)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    with Ticker("inverse dynamics", steps) as ticker:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / WARMUP, (steps - step) / (COOLDOWN * steps))
            frames, motion = _batch(dataset, schedule.batch(step, RUNS, RUN))
            frames, motion = jitter(frames, motion, seeded_generator(seed, 0, step))
            frames, motion = frames.to(place), motion.to(place)

            # one training step
            before, after = (rearrange(x, "r t c h w -> (r t) c h w") for x in (frames[:, :-1], frames[:, 1:]))
            loss = motion_loss(model(before, after), rearrange(motion, "r t m -> (r t) m"))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if not math.isfinite(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))):
                raise ConfigError(f"step {step}: loss {loss.item()} or its gradient is not finite; not applied")
            optimizer.step()

            ticker.advance(note=f"loss {loss.item():.4f}" if step % 20 == 0 else None)
    accuracy = measure(model.eval(), dataset, "val" if _splits(dataset, "val") else "train")
    result = InverseDynamicsResult(steps, round(time.monotonic() - began, 1), accuracy, str(run / FILE))
    trained = f"{dataset.source} {dataset.path.name} sha256:{dataset.index['sha256']}"
    record = {"training": {"steps": steps, "seed": seed, "data": [trained]}, "accuracy": asdict(accuracy)}
    save_tensors(run / FILE, model.state_dict(), {"format": FORMAT, **record})
    write_json(run / "inverse-dynamics.json", asdict(result))
    return result


def load_inverse_dynamics(given: Path, device: str = "cpu") -> tuple[InverseDynamics, dict[str, Any]]:
    """The network of a file, or of a run's folder, for estimating, and its header. WeightsError where it is none."""
    path = inverse_dynamics_path(given)
    tensors, header = load_tensors(path, FORMAT)
    model = InverseDynamics()
    load_weights(model, tensors, str(path))
    return model.eval().requires_grad_(False).to(choose_device(device)), header


def describe_inverse_dynamics(given: Path) -> dict[str, Any]:
    """What a result says of the network of a file or run: name, SHA-256, training and accuracy. WeightsError."""
    path = inverse_dynamics_path(given)
    header = load_header(path, FORMAT)
    about = {name: header[name] for name in ("training", "accuracy")}
    return {"name": str(path), "sha256": sha256_of(path), **about}


def inverse_dynamics_path(given: Path) -> Path:
    """The file meant by a file or by a run's folder."""
    return given / FILE if given.is_dir() else given


@torch.inference_mode()
def estimate_motion(model: InverseDynamics, frames: Images) -> Floats:
    """Motions (T-1, 2), m/s and rad/s, between the frames (T, H, W, 3) RGB uint8 of a front camera, 0.1 s apart."""
    assert frames.ndim == 4, frames.shape
    place = next(model.parameters()).device
    small = _as_input(np.stack([fit(frame, (WIDTH, HEIGHT)) for frame in frames]))
    pairs = zip(small[:-1].split(PAIRS), small[1:].split(PAIRS), strict=True)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        found = [model(before.to(place), after.to(place)).cpu() for before, after in pairs]
    return torch.cat(found).double().numpy()


def measure(model: InverseDynamics, dataset: Dataset, split: str) -> Accuracy:
    """How well a network reads all front frames of known motion of a split."""
    drives = [(estimate_motion(model, frames), true) for frames, true in _chunks(dataset, split)]
    estimated, true = (np.concatenate(side) for side in zip(*drives, strict=True))
    errors, spread = estimated - true, true - true.mean(axis=0)
    r2 = [
        1 - float((e**2).sum() / total) if (total := (s**2).sum()) > 0 else None
        for e, s in zip(errors.T, spread.T, strict=True)
    ]
    span = WAYPOINTS * WAYPOINT_STEPS
    short = [
        waypoint_distances(a[i : i + span], b[i : i + span])
        for a, b in drives
        for i in range(0, len(a) - span + 1, span)
    ]
    long = [distances for a, b in drives if len(distances := waypoint_distances(a, b))]
    speed_error, yaw_rate_error = (float(x) for x in np.abs(errors).mean(axis=0))
    return Accuracy(split, len(true), r2[0], r2[1], speed_error, yaw_rate_error, _mean(short), _mean(long))


def with_motion(dataset: Dataset) -> Dataset:
    """The samples of a dataset that have front frames and say how the vehicle moved. ShardError where none does."""
    table = dataset.table
    pose, speed, steering = (
        np.asarray(table.column(f"has_{name}").to_pylist(), bool) for name in ("pose", "speed", "steering")
    )
    front = np.array([VIEW in views for views in table.column("views").to_pylist()], bool)
    known = front & (pose | (speed & steering))
    found = replace(dataset, table=table.filter(known).combine_chunks())
    if not _splits(found, "train"):
        raise ShardError(
            f"{dataset.path} has no train sample of the {VIEW} view with poses, or with speed and steering; give "
            "shards of nuscenes, waymo or world"
        )
    return found


def _splits(dataset: Dataset, split: str) -> bool:
    """Whether a dataset has samples of a split that are long enough to train on."""
    of_split = np.asarray(dataset.table.column("split").to_pylist()) == split
    return bool((of_split & (dataset.table.column("frames").to_numpy() >= RUN)).any())


def _batch(dataset: Dataset, refs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Frames (r t 3 h w) in [-1, 1] and motions (r t-1 2) of the windows at (row, start)."""
    frames, motions = [], []
    for row, start in refs:
        window = read_window(dataset, row, start, RUN, (VIEW,), (WIDTH, HEIGHT))
        motion = true_motion(window.motion.window(0, RUN))
        assert motion is not None, window.key
        frames.append(window.frames[:, 0])
        motions.append(motion)
    return _as_input(np.stack(frames)), torch.from_numpy(np.stack(motions)).float()


def _chunks(dataset: Dataset, split: str) -> Iterator[tuple[Images, Floats]]:
    """Frames (T, H, W, 3) and motions (T-1, 2) of every sample of a split."""
    for row, _ in iterate_windows(dataset, split, RUN, stride=2**31, views=(VIEW,)):
        length = dataset.row(row).frames
        window = read_window(dataset, row, 0, length, (VIEW,), (WIDTH, HEIGHT))
        motion = true_motion(window.motion)
        assert motion is not None, window.key
        yield window.frames[:, 0], motion


def _as_input(frames: Images) -> Tensor:
    """(… h w 3) uint8 -> (… 3 h w) in [-1, 1]."""
    return rearrange(torch.from_numpy(frames), "... h w c -> ... c h w").float() / 127.5 - 1


def jitter(frames: Tensor, motion: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows of frames (r t 3 h w) in [-1, 1] and motions (r t-1 2) as other cameras might have seen them.

    Half of them mirrored, with the yaw rate; a few stand still; all lie a little aside, are lit otherwise, soft and
    grainy, each frame by a little less or more: generated frames flicker, and are less sharp than real ones.
    """
    r, t = frames.shape[:2]

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, 1, 1, 1, generator=generator)

    mirrored = draw(r)[:, 0, 0, 0] < 0.5
    frames = torch.where(mirrored[:, None, None, None, None], frames.flip(-1), frames)
    motion = motion * torch.where(mirrored[:, None, None], motion.new_tensor([1.0, -1.0]), 1.0)
    still = draw(r)[:, 0, 0, 0] < FROZEN
    frames = torch.where(still[:, None, None, None, None], frames[:, :1], frames)
    motion = motion * ~still[:, None, None]
    frames = torch.stack([_moved(window, generator) for window in frames])
    soft = (draw(r, 1) + 0.2 * (draw(r, t) - 0.5)).clamp(0, 1) * (draw(r, 1) < 0.5)
    frames = torch.lerp(frames, _softened(frames), soft)
    contrast, light = (1 + LIGHT * (2 * draw(r, 1) - 1) + FLICKER * (2 * draw(r, t) - 1) for _ in range(2))
    frames = frames * contrast + light - 1
    grain = 2 * GRAIN * draw(r, 1) * torch.randn(frames.shape, generator=generator)
    return (frames + grain).clamp(-1, 1), motion


def _moved(window: Tensor, generator: torch.Generator) -> Tensor:
    """Frames (t 3 h w), all aside by the same few pixels; the borders go on outwards."""
    height, width = window.shape[-2:]
    x, y = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
    wide = functional.pad(window, (SHIFT,) * 4, mode="replicate")
    return wide[..., y : y + height, x : x + width]


def _softened(frames: Tensor) -> Tensor:
    """(r t c h w), as large as before, from a third of the pixels."""
    flat = rearrange(frames, "r t c h w -> (r t) c h w")
    few = functional.interpolate(flat, scale_factor=1 / COARSE, mode="area")
    soft = functional.interpolate(few, size=flat.shape[-2:], mode="bilinear")
    return rearrange(soft, "(r t) c h w -> r t c h w", r=len(frames))


def _mean(parts: list[Floats]) -> float | None:
    return float(np.concatenate(parts).mean()) if parts else None
