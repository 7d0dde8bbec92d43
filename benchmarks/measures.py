"""What a picture shows: distance to the truth, sharpness, and the vehicle's own motion by dense optical flow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from gwm.core.frechet import GaussianStats, frechet_distance
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Checkpoint
from gwm.pipelines.control import held
from gwm.pipelines.features import FrameFeatures, VideoFeatures
from gwm.pipelines.rollout import Drive, RolloutSettings, generate, generate_side_by_side, make_drive
from gwm.shards.motion import yaw_rate
from gwm.shards.reader import MOTION_AHEAD
from gwm.shards.schema import FRAME_RATE, Camera, Floats, Images, Motion, Window

BAND = (0.12, 0.53)  # rows around the horizon, as shares of the height: far away, where yaw moves everything alike


def psnr(a: Images, b: Images) -> float:
    """Peak signal-to-noise ratio of two uint8 images, dB."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def sharpness(frames: Images) -> float:
    """Mean absolute horizontal gradient of frames (… H, W, 3), in grey levels of 255."""
    return float(np.abs(np.diff(frames.astype(np.int16), axis=-2)).mean())


def flows(frames: Images) -> Floats:
    """(T - 1, H, W, 2) pixels that everything moves by between consecutive frames (T, H, W, 3)."""
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([estimator.calc(a, b, None) for a, b in itertools.pairwise(grey)])


def shown_yaw_rates(frames: Images, camera: Camera) -> Floats:
    """(T - 1,) rad/s, left positive: what lies far ahead moves right by focal length times yaw."""
    height = frames.shape[1]
    band = flows(frames)[:, round(BAND[0] * height) : round(BAND[1] * height), :, 0]
    rates: Floats = np.median(band, axis=(1, 2)) / camera.intrinsics[0, 0] * FRAME_RATE
    return rates


def driven_yaw_rates(motion: Motion, frames: int) -> Floats:
    """(T - 1,) rad/s, means over the steps between `frames` frames of a drive of known speed and steering."""
    assert motion.speed is not None
    assert motion.steering is not None
    rates = yaw_rate(motion.speed[:frames], motion.steering[:frames])
    middle: Floats = (rates[:-1] + rates[1:]) / 2
    return middle


def slope(shown: Floats, driven: Floats) -> float:
    """Of the line through zero that takes `driven` to `shown`."""
    return float(shown @ driven / (driven @ driven))


def frame_distance(a: Images, b: Images) -> float:
    """Fréchet distance between two sets of frames (… H, W, 3), by the small features that come with gwm."""
    return _distance(FrameFeatures(), a.reshape(-1, *a.shape[-3:]), b.reshape(-1, *b.shape[-3:]))


def clip_distance(a: Images, b: Images) -> float:
    """The same between two sets of clips (N, T, H, W, 3)."""
    return _distance(VideoFeatures(), a, b)


def _distance(features: FrameFeatures | VideoFeatures, a: Images, b: Images) -> float:
    return frechet_distance(GaussianStats.of(features(a)), GaussianStats.of(features(b)))


def predict(checkpoint: Checkpoint, window: Window, motion: Motion, settings: RolloutSettings) -> Images:
    """A rollout (T, H, W, 3) from the first frames of a window, which it begins with, steered by `motion`."""
    return predict_views(checkpoint, window, motion, settings, [0])[:, 0]


@torch.inference_mode()
def predict_views(
    checkpoint: Checkpoint, window: Window, motion: Motion, settings: RolloutSettings, views: Sequence[int]
) -> Images:
    """The same (T, K, H, W, 3) of some of the window's views, drawn together."""
    model = checkpoint.model
    drive = _drive(model, window, motion, settings, views)
    parts = generate(model, drive, checkpoint.training.frames, settings)
    made: Images = model.decode(torch.cat(list(parts))[None])[0].cpu().numpy()
    return made


@torch.inference_mode()
def predict_side_by_side(
    checkpoint: Checkpoint, windows: Sequence[Window], motions: Sequence[Motion], settings: RolloutSettings
) -> Images:
    """Rollouts (clips, T, H, W, 3) from the first frames of front views, in one batch: quick on a GPU."""
    model = checkpoint.model
    drives = [_drive(model, w, m, settings, [0]) for w, m in zip(windows, motions, strict=True)]
    parts = list(generate_side_by_side(model, drives, checkpoint.training.frames, settings))
    decoded = [torch.cat([model.decode(z[None]) for z in part])[:, :, 0].cpu().numpy() for part in parts]
    made: Images = np.concatenate(decoded, axis=1)
    return made


def _drive(model: WorldModel, window: Window, motion: Motion, settings: RolloutSettings, views: Sequence[int]) -> Drive:
    given = window.frames[: settings.condition_frames, list(views)]
    return make_drive(model, given, window.text, held(motion, settings.frames + MOTION_AHEAD), window.cameras)
