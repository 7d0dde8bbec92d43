"""The standard networks, from files of the right names and shapes whose random numbers pass as the public ones here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy_networks import expect, install, randomise

from gwm.core import ConfigError, WeightsError
from gwm.core.i3d import I3D
from gwm.core.inception import Inception
from gwm.core.lpips import WIDTHS, AlexNet
from gwm.pipelines import network_files, standard_features
from gwm.pipelines.network_files import digests
from gwm.pipelines.standard_features import I3DFeatures, InceptionFeatures, Lpips
from gwm.shards.schema import Images

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # which the public file needs


def frames(*shape: int, seed: int = 0) -> Images:
    """Smooth noise, so that shrinking leaves something of it."""
    x = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return ((x.astype(np.float32) + np.roll(x, 1, -2) + np.roll(x, 1, -3)) / 3).astype(np.uint8)


class Detector(nn.Module):
    """Called as StyleGAN-V's TorchScript is; its 400 numbers are some pixels of what the network would see."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert return_features
        if resize:
            n, c, t, h, w = x.shape
            flat = x.transpose(1, 2).reshape(n * t, c, h, w)
            flat = functional.interpolate(flat, (224, 224), mode="bilinear", align_corners=False)
            x = flat.reshape(n, t, c, 224, 224).transpose(1, 2)
        if rescale:
            x = 2 * x / 255 - 1
        return x.mean((1, 2))[:, ::11, ::11].flatten(1)[:, :400]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings(action="ignore"):  # torch.jit's
        install(patched, folder, "INCEPTION", randomise(Inception()).state_dict())
        install(patched, folder, "I3D", randomise(I3D()).state_dict())
        alexnet = randomise(AlexNet()).state_dict()
        classifier = {name: torch.zeros(1) for name in standard_features.ALEXNET_CLASSIFIER}
        install(patched, folder, "ALEXNET", alexnet | classifier)
        linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(WIDTHS)}
        install(patched, folder, "LPIPS", linear)
        torch.jit.script(Detector()).save(str(folder / network_files.I3D_TORCHSCRIPT.file))
        expect(patched, folder, "I3D_TORCHSCRIPT")
        yield folder


@pytest.mark.parametrize("resize", ["torch-fidelity", "clean", "pytorch-fid"])
def test_inception_features(store: Path, resize: standard_features.InceptionResize) -> None:
    features = InceptionFeatures(store, resize)
    x = frames(2, 36, 64)
    found = features(x)
    assert found.shape == (2, features.d)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.std() > 0.01
    alone = features(x[1:])
    np.testing.assert_allclose(alone, found[1:], atol=1e-4 * found.max())  # whatever the batch
    assert features.name == f"inception-2015-12-05-pool3-2048/{resize}"
    assert features.sha256 == digests(store / network_files.INCEPTION.file).sha256
    assert features(x[:0]).shape == (0, 2048)


def test_features_are_repeatable_to_the_bit(store: Path) -> None:
    features, x = InceptionFeatures(store), frames(2, 36, 64)
    np.testing.assert_array_equal(features(x), features(x))


def test_ways_to_shrink_differ(store: Path) -> None:
    x = torch.from_numpy(frames(1, 360, 640)).permute(0, 3, 1, 2)
    a, b, c = (resize(x) for resize in standard_features.RESIZES.values())
    for first, second in ((a, b), (b, c), (a, c)):
        assert (first - second).abs().mean() > 0.01


def test_folding_norms_changes_nothing_but_rounding(store: Path) -> None:
    whole = Inception().eval()
    whole.load_state_dict(torch.load(store / network_files.INCEPTION.file, weights_only=True))
    x = torch.rand(1, 3, 299, 299) * 2 - 1
    with torch.inference_mode():
        expected, found = whole(x), standard_features._load_inception(store, "cpu")[0](x)
    assert (expected - found).abs().max() < 1e-5 * expected.max()


@pytest.mark.parametrize("form", ["tats", "stylegan-v"])
def test_i3d_features(store: Path, form: standard_features.I3DForm) -> None:
    features = I3DFeatures(store, form)
    x = frames(2, 10, 36, 64)
    found = features(x)
    assert found.shape == (2, features.d)
    assert found.dtype == np.float32
    assert found.std() > 0.01
    np.testing.assert_array_equal(features(x[1:])[0], found[1])  # alone, in a third call
    assert features.name == f"i3d-kinetics-logits-400/{form}/squash"
    known = network_files.I3D if form == "tats" else network_files.I3D_TORCHSCRIPT
    assert features.sha256 == digests(store / known.file).sha256
    with pytest.raises(ConfigError, match="at least 10 frames, these have 9"):
        features(x[:, :9])


def test_a_crop_does_not_see_the_sides(store: Path) -> None:
    """Of 16:9, the middle 9/16 of the width remains."""
    squash, crop = I3DFeatures(store, "stylegan-v"), I3DFeatures(store, "stylegan-v", "crop")
    x = frames(1, 10, 224, 400)
    y = x.copy()
    y[:, :, :, :80] = 0
    y[:, :, :, -80:] = 0
    np.testing.assert_array_equal(crop(x), crop(y))
    assert np.abs(squash(x) - squash(y)).max() > 0.1
    np.testing.assert_allclose(crop(x), squash(x[:, :, :, 88:312]), atol=1e-5)
    assert crop.name == "i3d-kinetics-logits-400/stylegan-v/crop"
    tall = x.transpose(0, 1, 3, 2, 4)
    np.testing.assert_allclose(crop(tall), squash(tall[:, :, 88:312]), atol=1e-5)


def test_lpips(store: Path) -> None:
    distance = Lpips(store)
    a, b = frames(5, 64, 96), frames(5, 64, 96, seed=1)
    np.testing.assert_array_equal(distance(a, a), np.zeros(5, np.float32))
    found = distance(a, b)
    assert found.dtype == np.float32
    assert found.min() > 0
    np.testing.assert_allclose(distance(b[2:3], a[2:3]), found[2:3], rtol=1e-4)
    half = ((a.astype(np.float32) + b) / 2).astype(np.uint8)
    assert (distance(a, half) < found).all()


@pytest.mark.parametrize(
    ("make", "file", "name"),
    [
        (InceptionFeatures, "pt_inception-2015-12-05-6726825d.pth", "inception"),
        (I3DFeatures, "i3d_pretrained_400.pt", "i3d"),
        (lambda store: I3DFeatures(store, "stylegan-v"), "i3d_torchscript.pt", "i3d-torchscript"),
        (Lpips, "alexnet-owt-7be5be79.pth", "alexnet"),
    ],
)
def test_absent_weights_are_said_at_once(tmp_path: Path, make: Callable[[Path], object], file: str, name: str) -> None:
    with pytest.raises(WeightsError, match=rf"no {file} in .*`gwm weights fetch {name}`.*`gwm weights import FILE`"):
        make(tmp_path)


def test_a_torchscript_of_other_bytes_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / network_files.I3D_TORCHSCRIPT.file
    torch.jit.script(Detector()).save(str(path))
    path.write_bytes(path.read_bytes() + b"x")
    features = I3DFeatures(tmp_path, "stylegan-v")
    with pytest.raises(WeightsError, match=r"i3d_torchscript\.pt is damaged or another file: .* instead of"):
        features(frames(1, 10, 16, 16))


def test_tensors_that_do_not_fit_are_named(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.load(store / network_files.INCEPTION.file, weights_only=True)
    del state["Mixed_6a.branch3x3.conv.weight"]
    install(
        monkeypatch, tmp_path, "INCEPTION", state | {"AuxLogits.fc.weight": torch.ones(2), "fc.bias": torch.ones(9)}
    )
    message = (
        r"does not fit Inception: missing Mixed_6a\.branch3x3\.conv\.weight; surplus AuxLogits\.fc\.weight; "
        r"fc\.bias is \(9,\), not \(1008,\)"
    )
    with pytest.raises(WeightsError, match=message):
        InceptionFeatures(tmp_path)(frames(1, 16, 16))
