"""FVD's I3D: names, TensorFlow's padding, and the whole network against plain functions."""

from __future__ import annotations

import itertools

import pytest
import torch
from reference_networks import i3d_reference, same_padding
from toy_networks import randomise

from gwm.core import ConfigError
from gwm.core.i3d import I3D, pad_same, pool_same

UNITS = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
BLOCKS = [f"Mixed_{name}" for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")]
BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")


@pytest.fixture(scope="module")
def network() -> I3D:
    network = I3D()
    randomise(network)
    return network


def test_names_and_shapes_are_the_file_s(network: I3D) -> None:
    units = [*UNITS, *(f"{block}.{branch}" for block, branch in itertools.product(BLOCKS, BRANCHES))]
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {f"{unit}.conv3d.weight" for unit in units} | {f"{unit}.bn.{norm}" for unit in units for norm in norms}
    state = network.state_dict()
    assert set(state) == names | {"logits.conv3d.weight", "logits.conv3d.bias"}
    assert state["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert state["Mixed_4f.b1b.conv3d.weight"].shape == (320, 160, 3, 3, 3)
    assert state["logits.conv3d.weight"].shape == (400, 1024, 1, 1, 1)
    assert sum(p.numel() for p in network.parameters()) == 12_697_264


@pytest.mark.parametrize("frames", [10, 11])
def test_the_whole_network_is_the_plain_functions(network: I3D, frames: int) -> None:
    """An odd number of frames and an even one are padded differently."""
    x = torch.rand(1, 3, frames, 224, 224, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    expected, found = i3d_reference(network.state_dict(), x), network(x)
    assert found.shape == (1, 400)
    assert expected.std() > 0.05
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_padding_is_tensorflow_s() -> None:
    for length, kernel, stride in itertools.product(range(1, 12), (1, 2, 3, 7), (1, 2)):
        before, behind = same_padding(length, kernel, stride)
        x = torch.ones(1, 1, length, 1, 1)
        padded = pad_same(x, (kernel, 1, 1), (stride, 1, 1)).flatten()
        assert padded.tolist() == [0.0] * before + [1.0] * length + [0.0] * behind
        steps = (len(padded) - kernel) // stride + 1
        assert steps == -(-length // stride)


def test_a_pool_of_two_keeps_an_odd_frame() -> None:
    x = torch.arange(1.0, 6.0)[None, None, :, None, None]
    assert pool_same(x, (2, 1, 1), (2, 1, 1)).flatten().tolist() == [2.0, 4.0, 5.0]


def test_short_clips_and_other_sizes_are_refused(network: I3D) -> None:
    with pytest.raises(ConfigError, match="at least 10 frames, these have 9"):
        network(torch.zeros(1, 3, 9, 224, 224))
    with pytest.raises(ConfigError, match="frames of 3x224x224, not 3x128x224"):
        network(torch.zeros(1, 3, 16, 128, 224))
