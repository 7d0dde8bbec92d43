"""Cut detection: windows that overlap, and the real detector."""

from __future__ import annotations

import random

import numpy as np
import pytest
from toy_video import Jumps

from gwm.shards.cuts import WINDOW, mark_cuts


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
    from gwm.pipelines.cuts import transnet_cuts

    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate(), torch.are_deterministic_algorithms_enabled()
    images = [view(scene, 2.0 * i) for scene in range(3) for i in range(14)]
    marked = mark_cuts(enumerate(images), transnet_cuts())
    assert [i for i, cut in marked if cut] == [14, 28]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), torch.are_deterministic_algorithms_enabled()) == before[1:]
