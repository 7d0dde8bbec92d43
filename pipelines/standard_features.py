"""The feature networks of published FID and FVD, and LPIPS, from their standard weight files.

Implementations of FID and FVD differ in how they shrink frames, by more than methods do: the features' names say how.
All arithmetic is in full float32. Frames go through the networks in small batches of fixed size, clips one by one, so
that features do not depend on their neighbours beyond rounding; the same call gives the same bits.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gwm.core import WeightsError
from gwm.core.fit import misfits
from gwm.core.i3d import I3D, check_frames
from gwm.core.i3d import SIZE as I3D_SIZE
from gwm.core.inception import SIZE as INCEPTION_SIZE
from gwm.core.inception import Inception
from gwm.core.lpips import AlexNet, PerceptualDistance
from gwm.pipelines import network_files as files
from gwm.pipelines.features import CPU_BATCH, GPU_BATCH, Features, exact
from gwm.pipelines.network_files import NetworkFile, check_present, load_state, read_checked
from gwm.shards.schema import Images

InceptionResize = Literal["torch-fidelity", "clean", "pytorch-fid"]
I3DForm = Literal["tats", "stylegan-v"]
I3DResize = Literal["squash", "crop"]
Network = TypeVar("Network", bound=nn.Module)

ALEXNET_CLASSIFIER = {f"classifier.{i}.{kind}" for i in (1, 4, 6) for kind in ("weight", "bias")}


@dataclass(frozen=True)
class InceptionFeatures:
    """FID's features: TensorFlow's Inception-v3 of 2015-12-05, its last average pool; 2048 numbers >= 0 for a frame.

    The whole frame is squeezed to 299x299. `resize` is whose way of it: "torch-fidelity" (and torchmetrics) without
    antialiasing, from the upper left corners of pixels as TensorFlow 1 did; "clean" as clean-fid, bicubic with
    antialiasing; "pytorch-fid" bilinear without antialiasing, from the centres. The weights lie in the folder `store`;
    WeightsError at once where they do not.
    """

    store: Path
    resize: InceptionResize = "torch-fidelity"
    device: str = "cpu"
    d: ClassVar[int] = 2048

    def __post_init__(self) -> None:
        assert self.resize in RESIZES, self.resize
        check_present(files.INCEPTION, self.store)

    @property
    def name(self) -> str:
        """What the numbers are, for people and for comparing."""
        return f"inception-2015-12-05-pool3-2048/{self.resize}"

    @property
    def sha256(self) -> str:
        """Of the weight file. Raises WeightsError."""
        return _load_inception(self.store, self.device)[1]

    def __call__(self, frames: Images) -> Features:
        """(N, 2048) float32 of frames (N, H, W, 3) RGB uint8. Raises WeightsError."""
        assert frames.ndim == 4, frames.shape
        network, device = _load_inception(self.store, self.device)[0], torch.device(self.device)
        found = np.empty((len(frames), self.d), np.float32)
        with exact():
            for part in _batches(len(frames), device):
                x = RESIZES[self.resize](_tensor(frames[part], device))  # n 3 299 299
                found[part] = network(x.contiguous(memory_format=torch.channels_last)).cpu().numpy()
        return found


@dataclass(frozen=True)
class I3DFeatures:
    """FVD's features: I3D on Kinetics-400, its logits averaged over time; 400 numbers for a clip.

    `form` is whose copy of the network: "tats" (also VideoGPT's, LVDM's, Vista's, OpenDWM's) or "stylegan-v", a
    TorchScript program that is run only after its bytes were checked. Frames become 224x224: `resize` "squash" squeezes
    them whole, as both do; "crop" brings the short side to 224 and cuts out the centre, which loses 44% of a 16:9
    frame, and does not compare with the other. The weights lie in the folder `store`; WeightsError at once where they
    do not.
    """

    store: Path
    form: I3DForm = "tats"
    resize: I3DResize = "squash"
    device: str = "cpu"
    d: ClassVar[int] = 400

    def __post_init__(self) -> None:
        assert self.form in ("tats", "stylegan-v") and self.resize in ("squash", "crop"), self  # noqa: PT018
        check_present(files.I3D if self.form == "tats" else files.I3D_TORCHSCRIPT, self.store)

    @property
    def name(self) -> str:
        """What the numbers are, for people and for comparing."""
        return f"i3d-kinetics-logits-400/{self.form}/{self.resize}"

    @property
    def sha256(self) -> str:
        """Of the weight file. Raises WeightsError."""
        return (_load_i3d if self.form == "tats" else _load_detector)(self.store, self.device)[1]

    def __call__(self, clips: Images) -> Features:
        """(N, 400) float32 of clips (N, T, H, W, 3) RGB uint8. Raises WeightsError; ConfigError for T < 10."""
        assert clips.ndim == 5, clips.shape
        check_frames(clips.shape[1])
        logits = self._logits()
        found = np.empty((len(clips), self.d), np.float32)
        with exact():
            for i, clip in enumerate(clips):
                x = _tensor(clip, torch.device(self.device)).float()
                found[i] = logits(_crop(x) if self.resize == "crop" else x)[0].cpu().numpy()
        return found

    def _logits(self) -> Callable[[Tensor], Tensor]:
        """(t c h w) in 0 to 255 -> (1 400)."""
        if self.form == "tats":
            network = _load_i3d(self.store, self.device)[0]
            return lambda x: network(_i3d_input(x))
        detector = _load_detector(self.store, self.device)[0]

        def logits(x: Tensor) -> Tensor:
            # Optimised, the third call would be compiled and give other bits.
            with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                x = rearrange(x, "t c h w -> 1 c t h w")
                found: Tensor = detector(x, rescale=True, resize=True, return_features=True)
            return found

        return logits


@dataclass(frozen=True)
class Lpips:
    """LPIPS version 0.1 on AlexNet: how different two pictures look, 0 for equal ones; at their own size.

    The weights lie in the folder `store`; WeightsError at once where they do not.
    """

    store: Path
    device: str = "cpu"
    name: ClassVar[str] = "lpips-v0.1-alexnet"

    def __post_init__(self) -> None:
        check_present(files.ALEXNET, self.store)
        check_present(files.LPIPS, self.store)

    @property
    def sha256(self) -> str:
        """Of AlexNet's file; that of the channel weights is fixed by the name. Raises WeightsError."""
        return _load_lpips(self.store, self.device)[1]

    def __call__(self, a: Images, b: Images) -> Features:
        """(N,) float32 of frames (N, H, W, 3) RGB uint8, at least 32 pixels both ways. Raises WeightsError."""
        assert a.shape == b.shape and a.ndim == 4, (a.shape, b.shape)  # noqa: PT018
        network, device = _load_lpips(self.store, self.device)[0], torch.device(self.device)
        found = np.empty(len(a), np.float32)
        with exact():
            for part in _batches(len(a), device):
                x, y = (_tensor(frames[part], device).float() / 127.5 - 1 for frames in (a, b))
                found[part] = network(x, y).cpu().numpy()
        return found


def _batches(n: int, device: torch.device) -> list[slice]:
    size = CPU_BATCH if device.type == "cpu" else GPU_BATCH
    return [slice(i, i + size) for i in range(0, n, size)]


def _tensor(frames: Images, device: torch.device) -> Tensor:
    """(N, H, W, 3) as (n 3 h w), still uint8."""
    return rearrange(torch.from_numpy(np.ascontiguousarray(frames)).to(device), "n h w c -> n c h w")


def _like_tensorflow(frames: Tensor) -> Tensor:
    """torch-fidelity's: TensorFlow 1's bilinear resize, pixel i from place i * length / 299, no antialiasing."""

    def neighbours(length: int) -> tuple[Tensor, Tensor, Tensor]:
        """The pixels before and behind each new one, and how far it is from the first."""
        scale = torch.tensor(length / INCEPTION_SIZE, dtype=torch.float32, device=frames.device)
        place = torch.arange(INCEPTION_SIZE, dtype=torch.float32, device=frames.device) * scale
        before = place.long()
        return before, (before + 1).clamp_max(length - 1), place - before

    up, down, dy = neighbours(frames.shape[2])
    left, right, dx = neighbours(frames.shape[3])

    def across(rows: Tensor) -> Tensor:
        """(n c 299 w) -> (n c 299 299)"""
        a, b = rows.index_select(3, left).float(), rows.index_select(3, right).float()
        return a + (b - a) * dx

    above, below = across(frames.index_select(2, up)), across(frames.index_select(2, down))
    return (above + (below - above) * dy[:, None] - 128) / 128


def _clean(frames: Tensor) -> Tensor:
    """clean-fid's: Pillow's bicubic resize, antialiased, of each colour as floats, never rounded to uint8."""
    size = (INCEPTION_SIZE, INCEPTION_SIZE)
    planes = rearrange(frames.cpu(), "n c h w -> (n c) h w").float().numpy()
    small = np.stack([np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC)) for x in planes])
    x = rearrange(torch.from_numpy(small.clip(0, 255)), "(n c) h w -> n c h w", c=3).to(frames.device)
    return (x - 128) / 128


def _like_pytorch_fid(frames: Tensor) -> Tensor:
    """pytorch-fid's: torch's bilinear resize of values in [0, 1], no antialiasing."""
    x = frames.float() / 255
    return 2 * functional.interpolate(x, (INCEPTION_SIZE, INCEPTION_SIZE), mode="bilinear", align_corners=False) - 1


RESIZES: dict[InceptionResize, Callable[[Tensor], Tensor]] = {
    "torch-fidelity": _like_tensorflow,
    "clean": _clean,
    "pytorch-fid": _like_pytorch_fid,
}


def _i3d_input(x: Tensor) -> Tensor:
    """(t c h w) in 0 to 255 as (1 c t 224 224) in [-1, 1]: torch's bilinear resize, no antialiasing."""
    x = functional.interpolate(x, (I3D_SIZE, I3D_SIZE), mode="bilinear", align_corners=False)
    return rearrange(2 * x / 255 - 1, "t c h w -> 1 c t h w")


def _crop(x: Tensor) -> Tensor:
    """(t c h w) -> (t c 224 224), the centre once the short side is 224; the long one is rounded up, as others do."""
    height, width = x.shape[2:]
    scale = I3D_SIZE / min(height, width)
    size = (I3D_SIZE, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), I3D_SIZE)
    x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
    top, left = (size[0] - I3D_SIZE) // 2, (size[1] - I3D_SIZE) // 2
    return x[:, :, top : top + I3D_SIZE, left : left + I3D_SIZE]


@cache
def _load_inception(store: Path, device: str) -> tuple[Inception, str]:
    """With the SHA-256 of its file, in evaluation mode, once per process."""
    tensors, sha256 = load_state(files.INCEPTION, store)
    network = _folded(_filled(Inception, tensors, files.INCEPTION, store)).to(device)
    return network.to(memory_format=torch.channels_last), sha256  # type: ignore[call-overload]


@cache
def _load_i3d(store: Path, device: str) -> tuple[I3D, str]:
    tensors, sha256 = load_state(files.I3D, store)
    network = _folded(_filled(I3D, tensors, files.I3D, store)).to(device)
    return network.to(memory_format=torch.channels_last_3d), sha256  # type: ignore[call-overload]


@cache
def _load_detector(store: Path, device: str) -> tuple[Any, str]:
    data, found = read_checked(files.I3D_TORCHSCRIPT, store)
    try:
        detector = torch.jit.load(io.BytesIO(data), map_location=device)
    except RuntimeError as error:
        raise WeightsError(f"{store / files.I3D_TORCHSCRIPT.file} is no TorchScript program ({error})") from error
    return detector.eval(), found.sha256


@cache
def _load_lpips(store: Path, device: str) -> tuple[PerceptualDistance, str]:
    tensors, sha256 = load_state(files.ALEXNET, store)
    kept = {k: v for k, v in tensors.items() if k not in ALEXNET_CLASSIFIER}
    alexnet = _filled(AlexNet, kept, files.ALEXNET, store).state_dict()
    linear = load_state(files.LPIPS, store)[0]
    weights = {k.removesuffix(".model.1.weight").replace("lin", "lin."): v for k, v in linear.items()}
    together = {f"alexnet.{k}": v for k, v in alexnet.items()} | weights
    return _filled(PerceptualDistance, together, files.LPIPS, store).to(device), sha256


def _filled(kind: type[Network], tensors: dict[str, Tensor], known: NetworkFile, store: Path) -> Network:
    """A network with these tensors, each of which must have its place; WeightsError otherwise."""
    with torch.device("meta"):
        network = kind()
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    if problems := misfits(tensors, wanted):
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(f"{store / known.file} does not fit {kind.__name__}: {'; '.join(problems[:3])}{more}")
    network.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False, assign=True)
    return network.eval().requires_grad_(False)


def _folded(network: Network) -> Network:
    """Fold each batch norm into the convolution before it, in place: a third faster, and equal up to rounding."""
    for unit in network.modules():
        for name, child in list(unit.named_children()):
            norm = getattr(unit, "bn", None)
            if isinstance(child, nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(unit, name, fuse_conv_bn_eval(child, norm))
                unit.bn = nn.Identity()
    return network
