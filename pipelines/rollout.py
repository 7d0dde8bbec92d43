"""Auto-regressive rollouts: windows of T frames, each conditioned on the last frames of the one before (paper 4.1)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from crc32c import crc32c
from torch import Tensor

from gwm import GwmError, __version__
from gwm.core import ConfigError
from gwm.core.actions import only_modes
from gwm.core.sampler import Conditions, Sampling, Solver, guided, sample
from gwm.core.seeds import seeded_generator
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Checkpoint
from gwm.pipelines.control import held, make_motion, told_frames
from gwm.pipelines.latents import action_values
from gwm.pipelines.progress import Ticker, console
from gwm.pipelines.recipe import RIG
from gwm.pipelines.rollout_out import Gallery, Outputs
from gwm.pipelines.rollout_state import PROGRESS, check_same, checksum, forget, read_record, unfinished, write_record
from gwm.pipelines.start import Start, load_start
from gwm.pipelines.stop import Stop
from gwm.shards import ShardError
from gwm.shards.files import make_folder
from gwm.shards.motion import window_actions
from gwm.shards.reader import MOTION_AHEAD
from gwm.shards.schema import FRAME_RATE, Camera, Images, Motion

MAX_FRAMES = 6000
SAMPLE = "sample-{:03d}"  # folder of sample i
DECODED = 8  # images that are decoded at once


@dataclass(frozen=True)
class RolloutSettings:
    """How to sample. Paper: 30 Euler steps, guidance 4.0, 3 condition frames."""

    frames: int = 200
    steps: int = 30
    guidance: float = 4.0
    condition_frames: int = 3
    seed: int = 0
    solver: Solver = "euler"
    guidance_range: tuple[float, float] = (0.0, 1.0)  # of τ
    guidance_every: int = 1  # guided step

    @property
    def sampling(self) -> Sampling:
        """How each window is drawn."""
        return Sampling(self.steps, self.guidance, self.solver, self.guidance_range, self.guidance_every)

    def check(self, window: int) -> None:
        """Refuse values that cannot be, with the value."""
        if not 1 <= self.frames <= MAX_FRAMES:
            raise ConfigError(f"--frames {self.frames} must lie between 1 and {MAX_FRAMES}")
        _ = self.sampling
        if window < 2:
            raise ConfigError("the checkpoint knows single images only (stage 1a); train it further")
        if not 1 <= self.condition_frames < window:
            raise ConfigError(f"--condition-frames {self.condition_frames} must lie between 1 and {window - 1}")


@dataclass(frozen=True)
class Scene:
    """What a rollout starts from and what happens in it."""

    start: Start
    motion: Motion  # MOTION_AHEAD frames longer than the rollout, where it is known so far
    actions: str  # where the motion comes from
    text: str


@dataclass(frozen=True)
class RolloutResult:
    """What rollout.json says."""

    checkpoint: str
    weights_crc32c: str
    start: str
    start_crc32c: str  # of its pixels
    settings: RolloutSettings
    actions: str
    speed: list[float] | None  # m/s of every frame
    steering: list[float] | None  # rad at the steering wheel of every frame
    text: str
    size: tuple[int, int]
    views: tuple[str, ...]
    outputs: Outputs
    device: str
    gwm_version: str
    finished: bool = False
    frames: int = 0  # that were given to the files; a full disk may have cut these shorter
    seconds_per_frame: float | None = None  # of those drawn by the last command: drawing, decoding and writing
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drive:
    """What a rollout goes on from, and what happens in it."""

    start: Tensor  # (n_c k c h w): clean latents of the first frames, which come back unchanged
    text: str
    motion: Motion
    camera: Camera | None


def make_drive(model: WorldModel, frames: Images, text: str, motion: Motion, cameras: Iterable[Camera]) -> Drive:
    """The drive that goes on from RGB frames (n_c K H W 3); the goals of its actions are seen by the front camera."""
    start = model.encode(torch.from_numpy(frames)[None].to(next(model.dit.parameters()).device))[0]
    return Drive(start, text, motion, next((c for c in cameras if c.view == "front"), None))


def generate(
    model: WorldModel, drive: Drive, window: int, settings: RolloutSettings, drawn: Iterable[Tensor] = ()
) -> Iterator[Tensor]:
    """Latents (t k c h w) of one window after another, `settings.frames` frames in all, the start's included.

    drawn: what an earlier run gave before it was stopped; it comes back first, and the rest goes on from it.
    The noise of window i comes from (seed, i), so a longer rollout begins with the shorter one.
    """
    for latents in generate_side_by_side(model, [drive], window, settings, (z[None] for z in drawn)):
        yield latents[0]


def generate_side_by_side(
    model: WorldModel, drives: Sequence[Drive], window: int, settings: RolloutSettings, drawn: Iterable[Tensor] = ()
) -> Iterator[Tensor]:
    """The same (b t k c h w) of several drives in one batch, all with the same noise."""
    starts = torch.stack([drive.start for drive in drives])
    device, done, i = starts.device, 0, 0
    known = iter(drawn)
    condition = starts[:, : settings.frames]
    while done < settings.frames:
        fresh = next(known, None)
        if fresh is None:
            given = condition.shape[1]
            first = max(0, done - given)  # of this window, in the rollout
            generator = seeded_generator(settings.seed, i)
            noise = torch.randn((window, *starts.shape[2:]), generator=generator).to(device)
            eps = noise.expand(len(drives), *noise.shape)
            told, untold = _conditions(model, drives, first, device)
            velocity = guided(model.dit, told, untold, settings.guidance_every)
            z = sample(velocity, condition, eps, settings.sampling, model.config.tau_shift)
            if not bool(z.isfinite().all()):
                raise ConfigError(
                    f"the prediction diverged at frame {done} (guidance {settings.guidance}, {settings.steps} steps); "
                    "try a lower --guidance, more --steps, or another checkpoint"
                )
            fresh = z[:, done - first :][:, : settings.frames - done]
        yield fresh
        done, i = done + fresh.shape[1], i + 1
        # the first window repeats the start
        kept = fresh if done == fresh.shape[1] else torch.cat([condition, fresh], dim=1)
        condition = kept[:, -settings.condition_frames :]


def _conditions(
    model: WorldModel, drives: Sequence[Drive], first: int, device: torch.device
) -> tuple[Conditions, Conditions | None]:
    """What the window from frame `first` on is told of each drive, and what guidance subtracts: None for nothing."""
    texts = [drive.text for drive in drives]
    ahead = [action_values(window_actions(d.motion.window(first, MOTION_AHEAD + 1), d.camera)) for d in drives]
    actions = only_modes(torch.from_numpy(np.stack(ahead)).float().to(device), ["motion"] * len(drives))
    told = Conditions(*model.encode_text(texts), actions)
    if not any(texts) and bool(actions.isnan().all()):
        return told, None
    return told, Conditions(*model.encode_text([""] * len(texts)), None)


def make_scene(
    checkpoint: Checkpoint, settings: RolloutSettings, source: Path | None = None, actions: str | None = None,
    key: str | None = None, views: int | None = None, prompt: str | None = None,
) -> Scene:  # fmt: skip
    """Read the start and the actions; see `rollout`. What is changed about them is said."""
    settings.check(checkpoint.training.frames)
    config, name, own = checkpoint.model.config, checkpoint.name, checkpoint.training
    taught, asked = (
        f"{s.steps} steps of {s.solver} and guidance {s.guidance:g}"
        for s in (Sampling(own.sampling_steps, own.guidance), settings)
    )
    if own.is_student and asked != taught:
        _say(f"{name} is a student of {taught}: {asked} are not what it has learned")
    _, _ = checkpoint.model.codec, checkpoint.model.encode_text([""])  # ConfigError where it holds none
    if actions is not None and not config.actions:
        raise ConfigError(f"--actions {actions}: {name} has not learned any action (stage 2 does)")
    if views is not None and not 1 <= views <= config.views:
        known, few = ("one view", "1") if config.views == 1 else (f"{config.views} views", f"1 to {config.views}")
        raise ConfigError(f"--views {views}: {name} has learned {known}; give {few}, or a checkpoint of mview")
    names = (checkpoint.training.views or RIG)[: views or config.views]
    start = load_start(source, checkpoint.training.size, settings.condition_frames, names, key)
    shown = len(start.views)
    if views is not None and shown < views:
        raise ConfigError(
            f"--views {views}: {start.name} shows {shown} ({', '.join(start.views)}); start from more views"
        )
    _say(*start.notes)
    if views is None and shown < config.views:
        _say(f"{name} has learned {config.views} views, {start.name} shows {shown}: so does the rollout")
    reach = settings.frames + MOTION_AHEAD
    motion = start.motion if actions is None else make_motion(actions, reach, start.motion)
    if 0 < told_frames(motion) < settings.frames:
        lasts = f"the actions end after {told_frames(motion) / FRAME_RATE:.1f} of {settings.frames / FRAME_RATE:.1f} s"
        _say(f"{lasts}: the last speed and steering are held")
    given = actions or ("source" if config.actions and motion.speed is not None else "none")
    return Scene(start, held(motion, reach), given, start.text if prompt is None else prompt)


def rollout(
    checkpoint: Checkpoint, out: Path, settings: RolloutSettings, source: Path | None = None,
    actions: str | None = None, *, key: str | None = None, views: int | None = None, prompt: str | None = None,
    outputs: Outputs | None = None,
) -> RolloutResult:  # fmt: skip
    """Roll a video out into the folder `out`: rollout.mp4, contact.png, rollout.json, and more (see `Gallery`).

    source: an image, video or shard folder to start from (sample `key`), the embedded clip where None. actions: a
    file, a manoeuvre or a script (see `control`); where None, the source's own where it has them, else none.
    views: K; where None, as many as checkpoint and source have. prompt: in the place of the source's text.

    The same call goes on where it was stopped, and ends in the same frames; of a finished rollout it returns the
    record. KeyboardInterrupt, after all files are made to play, where Ctrl-C or SIGTERM ends it.
    """
    scene = make_scene(checkpoint, settings, source, actions, key, views, prompt)
    if (out / SAMPLE.format(0)).exists():
        raise ConfigError(f"{out} holds several samples ({SAMPLE.format(0)}, …); choose another folder with -o")
    return roll_out(checkpoint, out, settings, scene, outputs or Outputs())


def rollouts(
    checkpoint: Checkpoint, out: Path, settings: RolloutSettings, scene: Scene, samples: int, outputs: Outputs
) -> list[RolloutResult]:
    """Several rollouts of one scene, one after the other, in the folders sample-000, sample-001, … of `out`.

    Sample i is the rollout of seed `settings.seed` + i, whichever others are drawn.
    """
    if samples < 1:
        raise ConfigError(f"--samples {samples} must be at least 1")
    if read_record(out) is not None:
        raise ConfigError(f"{out} holds a single rollout; choose another folder for samples with -o")
    return [
        roll_out(checkpoint, out / SAMPLE.format(i), replace(settings, seed=settings.seed + i), scene, outputs, out)
        for i in range(samples)
    ]


@torch.inference_mode()
def roll_out(
    checkpoint: Checkpoint, out: Path, settings: RolloutSettings, scene: Scene, outputs: Outputs,
    named: Path | None = None,
) -> RolloutResult:  # fmt: skip
    """Draw one rollout of a scene, or the rest of it; see `rollout`. named: the folder of the command, if not `out`."""
    record = _record(checkpoint, settings, scene, outputs)
    old = read_record(out)
    if old is not None:
        check_same(out, old, asdict(record))
        if old["finished"] and all((out / name).exists() for name in old["files"]):
            _say(f"{out} holds this rollout already")
            forget(out)
            return replace(record, **{name: old[name] for name in PROGRESS} | {"files": tuple(old["files"])})
    folder, model = make_folder(out), checkpoint.model
    device = next(model.dit.parameters()).device
    with unfinished(folder, device) as windows, Stop() as stop:
        write_record(folder, asdict(record))
        drive = make_drive(model, scene.start.frames, scene.text, scene.motion, scene.start.cameras)
        parts = generate(model, drive, checkpoint.training.frames, settings, windows)
        gallery = Gallery(folder, scene.start, scene.motion, settings.frames, outputs)
        pace = Pace(settings.frames)
        try:
            with gallery, Ticker(f"rollout {out.name}", settings.frames) as ticker:
                number = 0
                while (latents := stop.during(lambda: next(parts, None))) is not None:
                    new = number >= windows.read
                    if new:
                        windows.save(number, latents)
                    for part in latents.split(max(1, DECODED // latents.shape[1])):
                        for images in model.decode(part[None])[0].cpu().numpy():
                            gallery.add(images)
                    number += 1
                    ticker.advance(len(latents), pace.note(len(latents), new))
        except (GwmError, OSError, KeyboardInterrupt):
            with suppress(ShardError):  # the first failure is what the user should read
                write_record(folder, asdict(_progress(record, gallery, pace)))
            stopped = f"stopped after {gallery.done} of {settings.frames} frames"
            _say(f"{stopped}; the same command with -o {named or out} goes on")
            raise
        record = replace(_progress(record, gallery, pace), finished=True)
        write_record(folder, asdict(record))
    forget(folder)
    return record


class Pace:
    """How fast frames are drawn, and how long the rest takes."""

    def __init__(self, frames: int) -> None:
        self.left, self.drawn, self.seconds = frames, 0, 0.0
        self._last = time.monotonic()

    def note(self, frames: int, new: bool) -> str:
        """Count frames of a window, `new` where it was drawn and not read; what to tell of the pace."""
        now = time.monotonic()
        self.left -= frames
        if new:
            self.drawn, self.seconds = self.drawn + frames, self.seconds + now - self._last
        self._last = now
        if not self.drawn:
            return "drawn before"
        rest = round(self.left * self.seconds / self.drawn)
        return f"{self.drawn / self.seconds:.1f} frames/s, {rest // 60}:{rest % 60:02d} min left"


def _record(checkpoint: Checkpoint, settings: RolloutSettings, scene: Scene, outputs: Outputs) -> RolloutResult:
    """What tells this rollout from others; ConfigError where the actions are to be drawn and there are none."""
    speed, steering = scene.motion.speed, scene.motion.steering
    if outputs.overlay and (speed is None or steering is None):
        raise ConfigError(f"--overlay draws speed and steering, and {scene.start.name} has none: add --actions")
    model = checkpoint.model
    return RolloutResult(
        checkpoint.name, checksum(model), scene.start.name, f"{crc32c(scene.start.frames.tobytes()):08x}", settings,
        scene.actions,
        None if speed is None else speed[: settings.frames].tolist(),
        None if steering is None else steering[: settings.frames].tolist(),
        scene.text, checkpoint.training.size, scene.start.views, outputs,
        str(next(model.dit.parameters()).device), __version__,
    )  # fmt: skip


def _progress(record: RolloutResult, gallery: Gallery, pace: Pace) -> RolloutResult:
    each = pace.seconds / pace.drawn if pace.drawn else None
    return replace(record, frames=gallery.done, seconds_per_frame=each, files=gallery.files())


def _say(*lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
