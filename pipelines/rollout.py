"""Auto-regressive rollouts: windows of T frames, each conditioned on the last frames of the one before (paper 4.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gwm import __version__
from gwm.core import ConfigError
from gwm.core.actions import only_modes
from gwm.core.sampler import Velocity, euler_sample, guided
from gwm.core.seeds import seeded_generator
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Checkpoint
from gwm.pipelines.control import held, make_motion
from gwm.pipelines.latents import action_values
from gwm.pipelines.progress import Ticker, console
from gwm.pipelines.start import Start, load_start
from gwm.pipelines.video_out import VideoWriter, contact_sheet
from gwm.shards.files import make_folder, write_json
from gwm.shards.motion import window_actions
from gwm.shards.reader import MOTION_AHEAD
from gwm.shards.schema import Camera, Images, Motion

CONTACT_COLUMNS = 10
MAX_FRAMES = 6000
MIN_WIDTH = 512  # pixels: smaller frames are enlarged in the video, by whole factors


@dataclass(frozen=True)
class RolloutSettings:
    """How to sample. Paper: 30 Euler steps, guidance 4.0, 3 condition frames."""

    frames: int = 200
    steps: int = 30
    guidance: float = 4.0
    condition_frames: int = 3
    seed: int = 0

    def check(self, window: int) -> None:
        """Refuse values that cannot be, with the value."""
        if not 1 <= self.frames <= MAX_FRAMES:
            raise ConfigError(f"--frames {self.frames} must lie between 1 and {MAX_FRAMES}")
        if self.steps < 1:
            raise ConfigError(f"--steps {self.steps} must be at least 1")
        if not math.isfinite(self.guidance):
            raise ConfigError(f"--guidance {self.guidance} must be a finite number")
        if window < 2:
            raise ConfigError("the checkpoint knows single images only (stage 1a); train it further")
        if not 1 <= self.condition_frames < window:
            raise ConfigError(f"--condition-frames {self.condition_frames} must lie between 1 and {window - 1}")


@dataclass(frozen=True)
class RolloutResult:
    """What rollout.json says."""

    checkpoint: str
    start: str
    settings: RolloutSettings
    actions: str
    speed: list[float] | None  # m/s of every frame
    steering: list[float] | None  # rad at the steering wheel of every frame
    text: str
    size: tuple[int, int]
    frames: int
    seconds_per_frame: float
    device: str
    gwm_version: str
    video: str
    contact_sheet: str


def _velocity(model: WorldModel, text: str, actions: Tensor | None) -> Velocity:
    tokens, pooled = model.encode_text([text])
    return lambda z, tau: model.dit(z, tau, tokens, pooled, actions)


def generate(
    model: WorldModel, start: Tensor, text: str, motion: Motion, camera: Camera | None, window: int,
    settings: RolloutSettings,
) -> Iterator[Tensor]:  # fmt: skip
    """Latents (t k c h w) of one window after another, `settings.frames` frames in all, the start's included.

    start (n_c k c h w): clean latents of the first frames, which come back unchanged.
    The noise of window i comes from (seed, i), so a longer rollout begins with the shorter one.
    """
    device, done, i = start.device, 0, 0
    condition = start[: settings.frames]
    while done < settings.frames:
        first = max(0, done - len(condition))  # of this window, in the rollout
        generator = seeded_generator(settings.seed, i)
        eps = torch.randn((1, window, *start.shape[1:]), generator=generator).to(device)
        ahead = window_actions(motion.window(first, MOTION_AHEAD + 1), camera)
        values = torch.from_numpy(action_values(ahead)).float()[None].to(device)
        actions = only_modes(values, ["motion"])
        conditional = _velocity(model, text, actions)
        conditioned = bool(text) or not bool(actions.isnan().all())
        unconditional = _velocity(model, "", None)
        velocity = guided(conditional, unconditional, settings.guidance if conditioned else 1.0)
        z = euler_sample(velocity, condition[None], eps, settings.steps, model.config.tau_shift)[0]
        if not bool(z.isfinite().all()):
            raise ConfigError(
                f"the prediction diverged at frame {done} (guidance {settings.guidance}, {settings.steps} steps); "
                "try a lower --guidance, more --steps, or another checkpoint"
            )
        fresh = z[done - first :][: settings.frames - done]
        yield fresh
        done, i = done + len(fresh), i + 1
        condition = z[-settings.condition_frames :]


def even_frames(frames: int, columns: int = CONTACT_COLUMNS) -> list[int]:
    """Indices of the contact sheet's columns: the first frame, the last, and evenly between."""
    return sorted(set(np.linspace(0, frames - 1, min(columns, frames)).round().astype(int).tolist()))


@torch.inference_mode()
def rollout(
    checkpoint: Checkpoint, out: Path, settings: RolloutSettings, source: Path | None = None, actions: str | None = None
) -> RolloutResult:
    """Roll a video out into the folder `out`: rollout.mp4, contact.png and rollout.json.

    source: an image, video or shard folder to start from, the embedded clip where None. actions: a file or the name
    of a manoeuvre (see `control`); where None, the source's own where it has them, else none.
    """
    window, size = checkpoint.training.frames, checkpoint.training.size
    settings.check(window)
    if actions and not checkpoint.model.config.actions:
        raise ConfigError(f"--actions {actions}: {checkpoint.name} has not learned any action (stage 2 does)")
    columns = even_frames(settings.frames)
    start = load_start(source, size, settings.condition_frames, set(columns))
    motion = make_motion(actions, settings.frames + MOTION_AHEAD, start.motion) if actions else start.motion
    if motion.speed is not None and len(motion.speed) < settings.frames:
        console.print("the actions end before the rollout does: the last speed and steering are held")
    motion = held(motion, settings.frames + MOTION_AHEAD)
    folder, model = make_folder(out), checkpoint.model
    z = model.encode(torch.from_numpy(start.frames)[None].to(next(model.dit.parameters()).device))[0]
    camera = next((c for c in start.cameras if c.view == "front"), None)
    began = time.monotonic()
    shown: dict[int, Images] = {}
    done = 0
    scale = max(1, -(-MIN_WIDTH // size[0]))
    with VideoWriter(folder / "rollout.mp4", scale=scale) as video, Ticker("rollout", settings.frames) as ticker:
        for latents in generate(model, z, start.text, motion, camera, window, settings):
            for image in model.decode(latents[None])[0, :, 0].cpu().numpy():
                video.add(image)
                if done in columns:
                    shown[done] = image
                done += 1
            ticker.advance(len(latents), f"{done / (time.monotonic() - began):.1f} frames/s")
    seconds = (time.monotonic() - began) / done
    knows_actions = checkpoint.model.config.actions and motion.speed is not None
    write_sheet(folder / "contact.png", start, shown, columns)
    result = RolloutResult(
        checkpoint.name, start.name, settings, actions or ("source" if knows_actions else "none"),
        None if motion.speed is None else motion.speed[: settings.frames].tolist(),
        None if motion.steering is None else motion.steering[: settings.frames].tolist(),
        start.text, size, done, seconds, str(z.device), __version__, "rollout.mp4", "contact.png",
    )  # fmt: skip
    write_json(folder / "rollout.json", asdict(result))
    return result


def write_sheet(path: Path, start: Start, shown: dict[int, Images], columns: list[int]) -> None:
    """The contact sheet: generated frames, below the real ones where the source has them."""
    rows = [("generated", [shown[i] for i in columns])]
    if start.truth:
        blank = np.zeros_like(next(iter(shown.values())))
        rows.insert(0, ("real", [start.truth.get(i, blank) for i in columns]))
    contact_sheet(path, rows, [f"{i / 10:.1f} s" for i in columns])
