"""Against pytorch-fid, torchmetrics and plain loops: the arithmetic between frames and a published score."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference_networks import i3d_reference, inception_reference
from torch import Tensor, nn
from torch.nn import functional
from toy_networks import expect, install, randomise

from gwm.core import frechet
from gwm.core.fidelity import psnr, ssim
from gwm.core.frechet import Floats, GaussianStats, frechet_distance
from gwm.core.i3d import I3D
from gwm.core.inception import Inception
from gwm.core.kernel_distance import kernel_distance, squared_mmd
from gwm.core.lpips import WIDTHS, AlexNet, PerceptualDistance
from gwm.pipelines import network_files, standard_features
from gwm.pipelines.standard_features import I3DFeatures, InceptionFeatures
from gwm.shards.schema import Images

torchmetrics = pytest.importorskip("torchmetrics")
pytest.importorskip("pytorch_fid")


def random_frames(*shape: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def features(n: int, d: int, seed: int, shift: float = 0.0) -> Floats:
    """Correlated, with variances over two decades."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(d, d)) * np.logspace(0, -1, d)
    return rng.normal(size=(n, d)) @ mix + shift


@pytest.fixture(scope="module")
def their_distance() -> Callable[..., float]:
    """pytorch-fid's function; its module wants a torchvision, of which the function uses nothing."""
    stub = types.ModuleType("torchvision")
    stub.models, stub.transforms = types.ModuleType("torchvision.models"), types.ModuleType("torchvision.transforms")
    blocks = types.ModuleType("torchvision.models.inception")
    blocks.InceptionA = blocks.InceptionC = blocks.InceptionE = nn.Module
    stub.models.inception = blocks
    stubs = {x.__name__: x for x in (stub, stub.models, stub.transforms, blocks)}
    with pytest.MonkeyPatch.context() as patched:
        for name, module in stubs.items():
            patched.setitem(sys.modules, name, module)
        from pytorch_fid.fid_score import calculate_frechet_distance
    for name in [name for name in sys.modules if name.startswith("pytorch_fid")]:
        del sys.modules[name]  # it holds the stubs
    assert sys.modules.get("torchvision") is not stub
    return calculate_frechet_distance


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of scipy's sqrtm, for what it is called with
@pytest.mark.parametrize(("n", "m", "d"), [(300, 250, 40), (900, 1000, 100), (30, 25, 64)])
def test_distance_and_statistics_are_pytorch_fid_s(
    their_distance: Callable[..., float], n: int, m: int, d: int
) -> None:
    """The last has fewer features than dimensions; there a matrix square root knows less than ours."""
    x, y = features(n, d, 1), features(m, d, 2, 0.1)
    a, b = GaussianStats.of(x), GaussianStats.of(y)
    np.testing.assert_allclose(a.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-12)
    expected = their_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
    scale = 1.0 if n > d else (np.trace(a.covariance) + np.trace(b.covariance)) / expected
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6 * scale)
    assert expected > 0.1


class Corners(nn.Module):
    """Twelve features of a uint8 picture: its first 2x2 pixels, mixed."""

    num_features = 12

    def forward(self, x: Tensor) -> Tensor:
        mix = torch.from_numpy(np.random.default_rng(3).normal(size=(12, 12)))
        return (x[:, :, :2, :2].flatten(1).double() @ mix).float()


@pytest.mark.parametrize(("n", "m"), [(200, 150), (9, 8)])
def test_distance_is_torchmetrics(n: int, m: int) -> None:
    """Fed in batches of uneven size, in N above and below the dimension."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    x, y = (torch.from_numpy(random_frames(k, 2, 2, seed=k)).permute(0, 3, 1, 2) for k in (n, m))
    y = (y * 0.8).to(torch.uint8)
    metric = FrechetInceptionDistance(Corners(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    sides = []
    for z, real in ((x, True), (y, False)):
        stats = GaussianStats.empty(12)
        for part in z.split(7):
            metric.update(part, real=real)
            stats = stats.update(Corners()(part).numpy())
        sides.append(stats)
    expected = float(metric.compute())
    scale = 1.0 if n > 12 else sum(np.trace(s.covariance) for s in sides) / expected
    assert frechet_distance(*sides) == pytest.approx(expected, rel=1e-6 * scale)


@pytest.mark.parametrize("n", [200, 70, 40])
def test_large_covariances_take_a_quicker_way_to_the_same(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Singular or not: against the singular values of the centred features themselves. And it is that way."""
    x, y = features(n, 60, 5), features(n + 20, 60, 6, 0.05)
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * cross
    first, second = GaussianStats.of(x), GaussianStats.of(y)
    root = frechet._square_root(first.covariance)
    assert frechet._by_eigenvalues(root, second.covariance) == pytest.approx(cross, rel=1e-8)
    monkeypatch.setattr(frechet, "LARGE", 60)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(second, first) == frechet_distance(first, second)


def test_the_quicker_way_knows_where_rounding_would_show() -> None:
    """Variances of 1e-9: of their squares, 1e-18, an eigenvalue of one beside them leaves nothing."""
    covariance = np.diag([1.0] + 159 * [1e-9])
    assert frechet._by_eigenvalues(np.sqrt(covariance), covariance) is None
    assert frechet.trace_sqrt_product(covariance, covariance) == pytest.approx(np.trace(covariance), rel=1e-12)


def test_seven_partial_statistics_are_one_pass() -> None:
    x = features(700, 64, 7, 50.0)
    merged = GaussianStats.empty(64)
    for part in np.array_split(x, 7):
        merged = GaussianStats.of(part).merge(merged)
    assert merged.n == 700
    np.testing.assert_allclose(merged.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(x, rowvar=False), atol=1e-9)
    other = GaussianStats.of(features(300, 64, 8))
    assert frechet_distance(merged, other) == pytest.approx(frechet_distance(GaussianStats.of(x), other), rel=1e-9)


def test_psnr_and_ssim_are_torchmetrics() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    a = random_frames(2, 40, 56)
    b = (a * 0.7 + random_frames(2, 40, 56, seed=1) * 0.3).astype(np.uint8)
    x, y = (torch.from_numpy(z).permute(0, 3, 1, 2).double() for z in (a, b))
    expected = peak_signal_noise_ratio(x, y, data_range=255.0, reduction="none", dim=(1, 2, 3))
    np.testing.assert_allclose(psnr(a, b), expected.numpy(), rtol=1e-6)  # theirs adds up in float32
    _, whole = structural_similarity_index_measure(
        x, y, data_range=255.0, sigma=1.5, kernel_size=11, return_full_image=True
    )
    inside = whole[:, :, 5:-5, 5:-5].mean((1, 2, 3))  # of its padded border the paper knows nothing
    np.testing.assert_allclose(ssim(a, b), inside.numpy(), rtol=1e-9)


def test_kernel_distance_is_torchmetrics() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

    x, y = features(60, 12, 1), features(60, 12, 2, 0.2)
    assert squared_mmd(x, y) == pytest.approx(float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))), rel=1e-9)
    pictures = [torch.from_numpy(random_frames(40, 2, 2, seed=s)).permute(0, 3, 1, 2) // (s + 1) for s in (0, 1)]
    metric = KernelInceptionDistance(Corners(), subsets=100, subset_size=20).set_dtype(torch.float64)
    for z, real in zip(pictures, (True, False), strict=True):
        metric.update(z, real=real)
    torch.manual_seed(0)
    mean, std = (float(z) for z in metric.compute())
    ours = kernel_distance(*(Corners()(z).numpy() for z in pictures), subsets=100, size=20)
    assert abs(ours.mean - mean) < 3 * std / 10 * math.sqrt(2)  # the same, but for which subsets are drawn
    assert ours.standard_error == pytest.approx(std / 10, rel=0.35)


def test_lpips_is_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its channel weights are the file's that `gwm weights fetch lpips` gets, and prove the record's hash."""
    from torchmetrics.functional.image import lpips

    path = Path(lpips.__file__).parent / "lpips_models" / "alex.pth"
    assert network_files.digests(path).sha256 == network_files.LPIPS.sha256
    alexnet = randomise(AlexNet())
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda *_, **__: alexnet.features)
    theirs = lpips._LPIPS(net="alex")
    ours = PerceptualDistance().eval()
    ours.alexnet.load_state_dict(alexnet.state_dict())
    weights = torch.load(path, weights_only=True, map_location="cpu")
    assert set(weights) == {f"lin{i}.model.1.weight" for i in range(len(WIDTHS))}
    for i, own in enumerate(ours.lin):
        own.data = weights[f"lin{i}.model.1.weight"]
    a, b = torch.rand(2, 3, 48, 80) * 2 - 1, torch.rand(2, 3, 48, 80) * 2 - 1
    with torch.no_grad():
        expected, found = theirs(a, b).flatten(), ours(a, b)
    assert expected.min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def bilinear(image: Floats, size: tuple[int, int], half: float) -> Floats:
    """(h w c) -> (*size c), without antialiasing: from pixel centres (half = 0.5) or corners (0)."""

    def weights(out: int, length: int) -> Floats:
        found = np.zeros((out, length))
        for i in range(out):
            place = min(max((i + half) * length / out - half, 0), length - 1)
            for pixel in (math.floor(place), math.ceil(place)):
                found[i, pixel] = 1 - abs(place - pixel)
        return found

    down, across = (weights(out, length) for out, length in zip(size, image.shape[:2], strict=True))
    made: Floats = np.einsum("y h, h w c, x w -> y x c", down, image, across, optimize=True)
    return made


def clean(image: Images) -> Floats:
    """(h w 3) -> (299 299 3) by Pillow, each colour as floats."""
    colours = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    small = [np.array(colour.resize((299, 299), resample=Image.Resampling.BICUBIC)) for colour in colours]
    return np.clip(np.stack(small, 2), 0, 255).astype(np.float64)


def prepared(image: Images, resize: str) -> Floats:
    """(h w 3) uint8 -> (299 299 3), what Inception is fed with."""
    if resize == "clean":
        return (clean(image) - 128) / 128
    if resize == "torch-fidelity":
        return (bilinear(image.astype(np.float64), (299, 299), 0.0) - 128) / 128
    return bilinear(image / 255, (299, 299), 0.5) * 2 - 1


@pytest.mark.parametrize("size", [(36, 64), (320, 500)])
@pytest.mark.parametrize("resize", ["torch-fidelity", "clean", "pytorch-fid"])
def test_frames_are_shrunk_as_each_implementation_does(
    size: tuple[int, int], resize: standard_features.InceptionResize
) -> None:
    image = random_frames(*size)
    found = standard_features.RESIZES[resize](torch.from_numpy(image)[None].permute(0, 3, 1, 2))
    expected = prepared(image, resize)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), expected, atol=5e-4 if size[0] > 299 else 2e-5)


def test_clean_is_an_antialiased_bicubic() -> None:
    """And not Pillow's word only: torch's own of the same kind."""
    x = torch.from_numpy(random_frames(1, 400, 640)).permute(0, 3, 1, 2)
    other = functional.interpolate(x.float(), (299, 299), mode="bicubic", antialias=True).clamp(0, 255)
    torch.testing.assert_close(standard_features._clean(x), (other - 128) / 128, atol=1e-4, rtol=0)


def test_the_whole_way_from_frames_to_a_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch-fid's way, with random weights, against loops and plain functions."""
    state = randomise(Inception()).state_dict()
    install(monkeypatch, tmp_path, "INCEPTION", state)
    sides = [random_frames(2, 24, 40), random_frames(2, 24, 40, seed=1) // 2]
    network = InceptionFeatures(tmp_path, "pytorch-fid")
    found = frechet_distance(*(GaussianStats.of(network(side)[:, ::16]) for side in sides))  # 128 of 2048: quicker
    means, centred = [], []
    for side in sides:
        x = torch.from_numpy(np.stack([prepared(image, "pytorch-fid") for image in side]))
        x = x.permute(0, 3, 1, 2).float().contiguous()
        rows = inception_reference(state, x)[:, ::16].double().numpy()
        means.append(rows.mean(0))
        centred.append((rows - rows.mean(0)) / np.sqrt(len(rows) - 1))
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    expected = ((means[0] - means[1]) ** 2).sum() + sum((c**2).sum() for c in centred) - 2 * cross
    assert expected > 0.01
    assert found == pytest.approx(expected, rel=1e-4)


class Seen(nn.Module):
    """Called as StyleGAN-V's detector is. Gives 400 of the values that the network would see, and their mean."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert return_features
        if resize:
            x = functional.interpolate(x, (x.shape[2], 224, 224), mode="trilinear", align_corners=False)
        if rescale:
            x = 2 * x / 255 - 1
        return torch.cat([x.mean((1, 2, 3, 4))[:, None], x[:, :, 4, ::17, ::23].flatten(1)[:, :399]], 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, which the public file needs
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_stylegan_v_s_detector_sees_what_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resize: standard_features.I3DResize
) -> None:
    torch.jit.script(Seen()).save(str(tmp_path / network_files.I3D_TORCHSCRIPT.file))
    expect(monkeypatch, tmp_path, "I3D_TORCHSCRIPT")
    clip = random_frames(10, 36, 64)
    found = I3DFeatures(tmp_path, "stylegan-v", resize)(clip[None])[0]
    x = np.stack([shrunk(image, resize) for image in clip])  # t 224 224 3
    values = x.transpose(3, 0, 1, 2)[:, 4, ::17, ::23].ravel()[:399]
    np.testing.assert_allclose(found, [x.mean(), *values], atol=1e-4)


def shrunk(image: Images, resize: str) -> Floats:
    """(h w 3) uint8 -> (224 224 3) in [-1, 1]; cropped, with the side rounded up and the odd column on the right."""
    height, width = (224, 224) if resize == "squash" else (224, math.ceil(224 / image.shape[0] * image.shape[1]))
    left = (width - 224) // 2
    return 2 * bilinear(image.astype(np.float64), (height, width), 0.5)[:, left : left + 224] / 255 - 1


def test_i3d_s_way_from_a_clip_to_its_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = randomise(I3D()).state_dict()
    install(monkeypatch, tmp_path, "I3D", state)
    clip = random_frames(10, 36, 64)
    found = I3DFeatures(tmp_path, "tats")(clip[None])[0]
    x = torch.from_numpy(np.stack([shrunk(image, "squash") for image in clip])).float()
    expected = i3d_reference(state, x.permute(3, 0, 1, 2)[None])[0].numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
