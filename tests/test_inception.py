"""FID's Inception-v3: names, shapes and pooling rules, and the whole network against plain functions."""

from __future__ import annotations

import pytest
import torch
from reference_networks import inception_reference, max_of_neighbours, mean_of_neighbours
from toy_networks import names_digest, randomise

from gwm.core import ConfigError
from gwm.core.inception import BlockE, Inception, average


@pytest.fixture(scope="module")
def network() -> Inception:
    network = Inception()
    randomise(network)
    return network


def test_names_and_shapes_are_the_file_s(network: Inception) -> None:
    """The digest is of pytorch-fid 0.3.0's fid_inception_v3() with torchvision 0.29, which loads the file strictly."""
    state = network.state_dict()
    assert names_digest(state) == "760681d791cb624e1bf7a2e802a68933dd17aa5e3109fcf498d9dfa521bc10d7"
    assert sum(p.numel() for p in network.parameters()) == 23_850_960
    assert state["fc.weight"].shape == (1008, 2048)


def test_the_whole_network_is_the_plain_functions(network: Inception) -> None:
    x = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = inception_reference(network.state_dict(), x.double())
    found = network(x)
    assert found.shape == (1, 2048)
    assert expected.std() > 0.05
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert found.min() >= 0


def test_average_pools_do_not_count_the_padding() -> None:
    """Where a frame is flat it stays so up to its border: torchvision's would darken there."""
    x = torch.full((1, 2, 5, 6), 3.0)
    assert torch.equal(average(x), x)
    y = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(average(y), mean_of_neighbours(y))
    assert average(y)[0, 0, 0, 0] == pytest.approx(y[0, 0, :2, :2].mean().item())


@pytest.mark.parametrize("pool_maximum", [False, True])
def test_only_the_last_block_pools_by_maximum(network: Inception, pool_maximum: bool) -> None:
    block = network.Mixed_7c if pool_maximum else network.Mixed_7b
    x = torch.randn(1, 2048 if pool_maximum else 1280, 8, 8, generator=torch.Generator().manual_seed(2))
    pooled = max_of_neighbours(x, padding=1) if pool_maximum else mean_of_neighbours(x)
    assert isinstance(block, BlockE)
    torch.testing.assert_close(block(x)[:, -192:], block.branch_pool(pooled), rtol=1e-4, atol=1e-4)


def test_another_size_is_refused(network: Inception) -> None:
    with pytest.raises(ConfigError, match="frames of 3x299x299, not 3x288x512"):
        network(torch.zeros(1, 3, 288, 512))
