"""Which feature networks score: the standard ones of published FID and FVD, or the small ones that come with gwm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from gwm.core import ConfigError
from gwm.pipelines.feature_file import FeatureNames, Features
from gwm.pipelines.features import FrameFeatures, VideoFeatures
from gwm.pipelines.network_files import ALEXNET, I3D, I3D_TORCHSCRIPT, INCEPTION, LPIPS
from gwm.pipelines.progress import console
from gwm.pipelines.standard_features import I3DFeatures, InceptionFeatures, Lpips
from gwm.shards.schema import Images

Kind = Literal["auto", "standard", "lite"]
Resize = Literal["torch-fidelity", "clean", "pytorch-fid"]
Form = Literal["tats", "stylegan-v"]
Fit = Literal["squash", "crop"]


class Network(Protocol):
    """Frames (N, H, W, 3) or clips (N, T, H, W, 3) to features (N, d)."""

    @property
    def name(self) -> str: ...
    @property
    def d(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    def __call__(self, images: Images, /) -> Features: ...


@dataclass(frozen=True)
class Networks:
    """What reduces frames and clips to features; `lpips` where its files are there."""

    standard: bool
    frames: Network
    clips: Network
    lpips: Lpips | None = None

    @property
    def names(self) -> FeatureNames:
        """What the features are called."""
        return FeatureNames(
            self.standard, self.frames.name, self.frames.sha256, self.clips.name, self.clips.sha256,
            None if self.lpips is None else self.lpips.name,
        )  # fmt: skip


@dataclass(frozen=True)
class FeatureChoice:
    """Which networks, and how they are fed."""

    store: Path = Path("data/weights")  # where the standard files lie
    kind: Kind = "auto"  # standard where its files are there
    resize: Resize = "torch-fidelity"  # of frames for Inception: as torchmetrics does, so Vista and OpenDWM
    form: Form = "tats"  # of I3D: as LVDM, so Vista and OpenDWM
    fit: Fit = "squash"  # of clips for I3D, or a centre crop

    def settled(self) -> FeatureChoice:
        """The choice with `auto` decided by what is there, and said. ConfigError for options without effect."""
        plain = (self.resize, self.form, self.fit) == (FeatureChoice.resize, FeatureChoice.form, FeatureChoice.fit)
        if self.kind == "lite" and not plain:
            raise ConfigError("--resize, --fvd and --fvd-fit are for --features standard; leave them out with lite")
        if self.kind == "standard" or not plain:
            return replace(self, kind="standard")
        if self.kind == "lite":
            return self
        i3d = I3D if self.form == "tats" else I3D_TORCHSCRIPT
        if all((self.store / known.file).is_file() for known in (INCEPTION, i3d)):
            return replace(self, kind="standard")
        console.print(
            "scoring with the small features that come with gwm, which are not those of published FID and FVD; for "
            f"these: gwm weights fetch {INCEPTION.name} {i3d.name}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        return replace(self, kind="lite")

    def load(self, device: str) -> Networks:
        """The networks. WeightsError where a file is absent or damaged."""
        assert self.kind != "auto", "settle it first"
        lpips = load_lpips(self.store, device)
        if self.kind == "lite":
            return Networks(False, FrameFeatures(device), VideoFeatures(device), lpips)
        return Networks(
            True,
            InceptionFeatures(self.store, self.resize, device),
            I3DFeatures(self.store, self.form, self.fit, device),
            lpips,
        )


def load_lpips(store: Path, device: str) -> Lpips | None:
    """LPIPS, where its weight files are in the folder `store`."""
    found = all((store / known.file).is_file() for known in (ALEXNET, LPIPS))
    return Lpips(store, device) if found else None
