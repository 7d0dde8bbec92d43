"""What the ablation measures of a checkpoint on towns it has not seen: its loss, a single window, long rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from benchmarks.measures import psnr
from gwm.core.actions import only_modes
from gwm.core.flow import flow_loss, interpolate, velocity
from gwm.core.frechet import GaussianStats, frechet_distance
from gwm.core.seeds import seeded_generator
from gwm.core.world_model import WorldModel
from gwm.pipelines.features import FrameFeatures
from gwm.pipelines.latents import LatentDataset
from gwm.pipelines.progress import Ticker
from gwm.pipelines.rollout import RolloutSettings, generate, make_drive
from gwm.shards.index import Dataset
from gwm.shards.reader import iterate_windows, read_window
from gwm.shards.schema import Images, Window

Scores = dict[str, float]


@dataclass(frozen=True)
class Protocol:
    """How checkpoints are compared."""

    window: int  # frames T that the models were trained on
    horizons: tuple[int, ...] = (50, 100, 200)  # rolled-out frames
    span: int = 25  # frames that are scored together, the last of them at a horizon
    given: int = 3  # condition frames
    steps: int = 10  # of Euler
    guidance: float = 1.0  # none: half the time
    taus: tuple[float, ...] = (0.125, 0.375, 0.625, 0.875)  # that the loss is measured at
    loss_stride: int = 50  # frames between the windows that it is measured on

    @property
    def parts(self) -> dict[str, slice]:
        """The frames of a rollout that are scored together. The rollout's first window is the single window."""
        return {"window": slice(self.given, self.window)} | {str(h): slice(h - self.span, h) for h in self.horizons}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all scores."""
        return ("loss", "psnr", *(f"frechet_{part}" for part in self.parts))


@dataclass(frozen=True)
class Truth:
    """The validation towns as they are, one clip of each, and windows for the loss."""

    clips: tuple[Window, ...]  # from each town's start, as long as the longest rollout
    stats: dict[str, GaussianStats]  # of the features of each part's frames
    z: Tensor  # (n t k c h w) latents of windows, 0.1 s a frame
    texts: list[str]
    actions: Tensor  # (n waypoints 7)


def read_truth(dataset: Dataset, latents: LatentDataset, size: tuple[int, int], protocol: Protocol) -> Truth:
    """Of the chunks of the validation split as long as the longest rollout; ShardError where there is none."""
    longest = max(protocol.horizons)
    rows = sorted({row for row, _ in iterate_windows(dataset, "val", longest, longest, ("front",))})
    clips = tuple(read_window(dataset, row, 0, longest, ("front",), size) for row in rows)
    refs = iterate_windows(dataset, "val", protocol.window, protocol.loss_stride, ("front",))
    stats = part_stats([clip.frames[:, 0] for clip in clips], protocol)
    return Truth(clips, stats, *latents.batch(refs, protocol.window, 1))


def part_stats(videos: Sequence[Images], protocol: Protocol) -> dict[str, GaussianStats]:
    """Of the frames (T h w 3) of each part, those of all videos together."""
    features = FrameFeatures()
    return {
        name: GaussianStats.of(np.concatenate([features(video[part]) for video in videos]))
        for name, part in protocol.parts.items()
    }


def compare(truth: Truth, videos: Sequence[Images], protocol: Protocol) -> Scores:
    """PSNR (dB) of the single window, mean over its frames, and Fréchet distances of all parts."""
    single = protocol.parts["window"]
    quality = mean(
        psnr(made, real)
        for video, clip in zip(videos, truth.clips, strict=True)
        for made, real in zip(video[single], clip.frames[single, 0], strict=True)
    )
    found = part_stats(videos, protocol)
    return {"psnr": quality} | {
        f"frechet_{name}": frechet_distance(truth.stats[name], stats) for name, stats in found.items()
    }


@torch.inference_mode()
def rolled_out(model: WorldModel, clip: Window, protocol: Protocol) -> Images:
    """The clip (T h w 3) as the model continues its first frames, with the true actions."""
    settings = RolloutSettings(max(protocol.horizons), protocol.steps, protocol.guidance, protocol.given)
    drive = make_drive(model, clip.frames[: protocol.given], clip.text, clip.motion, clip.cameras)
    parts = generate(model, drive, protocol.window, settings)
    frames: Images = model.decode(torch.cat(list(parts))[None])[0, :, 0].numpy()
    return frames


@torch.inference_mode()
def validation_loss(model: WorldModel, truth: Truth, protocol: Protocol) -> float:
    """Eq. 1, unmasked, after the given frames: the mean over fixed τ and windows, each with noise of its own."""
    actions, taus = only_modes(truth.actions, ["motion"] * len(truth.z)), torch.tensor(protocol.taus)
    n = len(taus)
    m_c = (torch.arange(truth.z.shape[1]) >= protocol.given).float().expand(n, -1)  # n t
    losses = []
    for i, text in enumerate(truth.texts):
        z_0 = repeat(truth.z[i], "t k c h w -> n t k c h w", n=n)
        eps = torch.randn(z_0.shape, generator=seeded_generator(0, i))
        tau = taus[:, None] * m_c
        v_hat = model.dit(interpolate(z_0, eps, tau), tau, *model.encode_text([text] * n), actions[i].expand(n, -1, -1))
        losses.append(flow_loss(v_hat, velocity(z_0, eps), m_c).item())
    return mean(losses)


def score(model: WorldModel, truth: Truth, protocol: Protocol) -> Scores:
    """All `protocol.metrics` of a model."""
    videos = []
    with Ticker("rollouts", len(truth.clips)) as ticker:
        for clip in truth.clips:
            videos.append(rolled_out(model, clip, protocol))
            ticker.advance()
    return {"loss": validation_loss(model, truth, protocol), **compare(truth, videos, protocol)}


@torch.inference_mode()
def references(model: WorldModel, truth: Truth, protocol: Protocol) -> dict[str, Scores]:
    """What the scores mean: of the truth through the autoencoder, and of the last given frame held."""
    coded = [
        torch.cat([model.decode(model.encode(part[None])) for part in torch.from_numpy(clip.frames).split(25)], dim=1)
        for clip in truth.clips
    ]
    held = [np.repeat(clip.frames[protocol.given - 1 :][:1, 0], len(clip.frames), axis=0) for clip in truth.clips]
    return {
        "the truth through the autoencoder": compare(truth, [x[0, :, 0].numpy() for x in coded], protocol),
        "the last given frame held": compare(truth, held, protocol),
    }
