"""One clip of an evaluation: generate it from its first frames, and reduce it and the truth to features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from gwm.core.fidelity import psnr, ssim
from gwm.core.inverse_dynamics import InverseDynamics
from gwm.pipelines.checkpoint import Checkpoint, load_checkpoint
from gwm.pipelines.feature_choice import FeatureChoice, Networks
from gwm.pipelines.feature_file import Origin, Scored, write_features
from gwm.pipelines.inverse_dynamics import load_inverse_dynamics
from gwm.pipelines.protocols import Clip, Protocol, Segment, segments
from gwm.pipelines.recipe import RIG
from gwm.pipelines.rollout import DECODED, RolloutSettings, generate, make_drive
from gwm.pipelines.rollout_out import enlarged, tiled
from gwm.pipelines.video_out import write_video
from gwm.pipelines.world_measures import FRONT, read_motion, views_of, with_agreement, with_motion
from gwm.shards import ShardError
from gwm.shards.files import write_json
from gwm.shards.index import Dataset, open_dataset
from gwm.shards.reader import read_window
from gwm.shards.schema import Floats, Images, Motion, Window


@dataclass(frozen=True)
class Plan:
    """All that a clip's features depend on; any process can do a clip from it."""

    checkpoint: Path | None
    data: Path
    protocol: Protocol
    actions: bool  # whether the model is told the true ones
    settings: RolloutSettings
    features: FeatureChoice
    device: str
    out: Path
    keep_videos: bool
    inverse_dynamics: Path | None = None  # the network that reads motion from frames

    @property
    def views(self) -> tuple[str, ...]:
        """Of a drive."""
        return RIG[: self.protocol.views]

    def part(self, clip: Clip) -> Path:
        """The file of a clip's features, until all are together."""
        return self.out / "clips" / f"{clip.number:06d}.parquet"

    def loss(self, clip: Clip) -> Path:
        """The file that says why a clip is missing."""
        return self.out / "clips" / f"{clip.number:06d}.json"

    def video(self, clip: Clip) -> Path:
        """The file of a kept video."""
        return self.out / "videos" / f"{clip.number:06d}.mp4"


@dataclass(frozen=True)
class Tools:
    """What a process loads once."""

    checkpoint: Checkpoint
    dataset: Dataset
    networks: Networks
    inverse_dynamics: InverseDynamics | None


@lru_cache(1)
def load_tools(
    checkpoint: Path | None, data: Path, features: FeatureChoice, inverse_dynamics: Path | None, device: str
) -> Tools:
    """The model, the shards and the networks that measure."""
    reader = None if inverse_dynamics is None else load_inverse_dynamics(inverse_dynamics, device)[0]
    return Tools(load_checkpoint(checkpoint, device), open_dataset(data), features.load(device), reader)


def tools_of(plan: Plan) -> Tools:
    """Those of this process for a plan."""
    return load_tools(plan.checkpoint, plan.data, plan.features, plan.inverse_dynamics, plan.device)


def do_clip(plan: Plan, clip: Clip) -> int:
    """Generate a clip and write its features; or, where its frames cannot be read, why. Returns its number."""
    tools = tools_of(plan)
    try:
        real = read_truth(tools, plan, clip)
    except ShardError as error:
        write_json(plan.loss(clip), {"key": clip.key, "cause": str(error)})
        return clip.number
    made = draw(tools, plan, clip, real)
    rows = score_clip(tools, plan.protocol, clip, real, made)
    try:
        if plan.keep_videos:
            write_both(plan.video(clip), real.frames, made, plan.views)
        write_features(plan.part(clip), origin_of(plan, tools.networks), rows)
    except OSError as error:
        raise ShardError(
            f"cannot write into {plan.out}: {error.strerror or error}; free some space, and the same command goes on"
        ) from error
    return clip.number


def origin_of(plan: Plan, networks: Networks) -> Origin:
    """What the feature files of a plan say of themselves."""
    return Origin(networks.names, plan.protocol.name, plan.protocol.version, plan.protocol.condition_frames)


def read_truth(tools: Tools, plan: Plan, clip: Clip) -> Window:
    """The clip as it was driven, at the model's size. ShardError where it is damaged."""
    size = tools.checkpoint.training.size
    return read_window(tools.dataset, clip.row, clip.start, plan.protocol.frames, plan.views, size)


@torch.inference_mode()
def draw(tools: Tools, plan: Plan, clip: Clip, truth: Window) -> Images:
    """The generated drive (T, K, H, W, 3) from the first true frames; its noise comes from (seed, clip)."""
    model, window = tools.checkpoint.model, tools.checkpoint.training.frames
    motion = truth.motion if plan.actions else Motion()
    settings = replace(plan.settings, seed=seed_of(plan.settings.seed, clip))
    given = truth.frames[: plan.protocol.condition_frames]
    parts = generate(model, make_drive(model, given, truth.text, motion, truth.cameras), window, settings)
    decoded = [
        model.decode(some[None])[0].cpu().numpy()
        for latents in parts
        for some in latents.split(max(1, DECODED // latents.shape[1]))
    ]
    made: Images = np.concatenate(decoded)
    return made


def seed_of(seed: int, clip: Clip) -> int:
    """That of a clip's noise, whichever others are generated."""
    return int.from_bytes(hashlib.sha256(f"{seed} {clip.key}".encode()).digest()[:8])


def score_clip(tools: Tools, protocol: Protocol, clip: Clip, real: Window, made: Images) -> list[Scored]:
    """All that is measured of a clip's generated frames (T, K, H, W, 3): a row for each segment."""
    views = views_of(real)
    moved = None if tools.inverse_dynamics is None else read_motion(tools.inverse_dynamics, real, made)
    rows = []
    for segment in segments(protocol, clip):
        row = score_segment(tools.networks, protocol, clip, segment, real.frames, made)
        if views:
            row = with_agreement(row, views, real.frames, made, protocol)
        if moved is not None and segment.view == FRONT:
            row = with_motion(row, moved, protocol)
        rows.append(row)
    return rows


def score_segment(
    networks: Networks, protocol: Protocol, clip: Clip, segment: Segment, real: Images, made: Images
) -> Scored:
    """The features of one view's frames (T, K, H, W, 3) that are scored together."""
    a, b = real[:, segment.view], made[:, segment.view]
    span = slice(segment.first, segment.first + protocol.segment)
    ahead = slice(max(segment.first, protocol.condition_frames), span.stop)
    counted = list(segment.counted)
    nothing: Floats = np.zeros(0)
    return Scored(
        clip.number, clip.key, clip.scene, segment,
        networks.frames(a[counted]), networks.frames(b[counted]),
        networks.clips(a[None, span])[0], networks.clips(b[None, span])[0],
        psnr(a[ahead], b[ahead]), ssim(a[ahead], b[ahead]),
        nothing if networks.lpips is None else networks.lpips(a[ahead], b[ahead]).astype(np.float64),
    )  # fmt: skip


def write_both(path: Path, real: Images, made: Images, views: tuple[str, ...]) -> None:
    """A video of the real drive (T, K, H, W, 3) above the generated one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, _both(real, made, views))


def _both(real: Images, made: Images, views: tuple[str, ...]) -> Iterator[Images]:
    for pair in zip(real, made, strict=True):
        yield np.concatenate([enlarged(tiled(images, views)) for images in pair])
