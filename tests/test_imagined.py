"""Condition frames that the model imagines itself."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY
from einops import rearrange

from gwm.core import ConfigError
from gwm.core.flow import interpolate
from gwm.core.world_model import IMAGINED_FRAMES, MOST_IMAGINED, draw_step, imagine, training_errors
from gwm.pipelines.recipe import make_recipe, override

SHAPE = torch.Size((6, 10, 1, TINY.channels, 4, 8))


def draws(share, seed=0):
    return draw_step(SHAPE, TINY, (0.0, 0.0, 1.0), torch.Generator().manual_seed(seed), imagined_share=share)


def test_a_share_of_the_samples_is_imagined_and_the_rest_of_the_draw_is_the_same():
    shares, plain = draws(0.5), draws(0.0)
    assert plain.imagined is None
    assert torch.equal(shares.eps, plain.eps)
    assert torch.equal(shares.tau, plain.tau)
    values = torch.cat([draws(0.5, seed).imagined for seed in range(100)])
    assert 0.4 < (values > 0).float().mean() < 0.6
    assert values.max() <= MOST_IMAGINED
    assert torch.equal(shares.part(slice(2, 4)).imagined, shares.imagined[2:4])


def test_without_noise_the_imagined_frames_are_the_true_ones(tiny_model):
    z, draw = torch.randn(SHAPE), draws(1.0)
    draw = replace(draw, imagined=torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7, 0.8]))
    text, pooled = tiny_model.encode_text([""] * 6)
    frames = imagine(tiny_model.dit, z[:, :IMAGINED_FRAMES], text, pooled, None, draw)
    error = (frames - z[:, :IMAGINED_FRAMES]).square().mean(dim=(1, 2, 3, 4, 5))
    assert error[0] == 0
    assert (error[1:] > 0).all()
    assert not frames.requires_grad


def test_a_model_that_knows_the_flow_imagines_the_truth():
    z, draw = torch.randn(SHAPE), draws(1.0)
    truth = z[:, :IMAGINED_FRAMES]

    def flow(z_tau, tau, *_):
        return (z_tau - truth) / rearrange(tau, "b t -> b t 1 1 1 1").clamp(min=1e-6)

    assert torch.allclose(imagine(flow, truth, None, None, None, draw), truth, atol=1e-4)


def test_training_shows_the_imagined_frames_where_conditions_are_and_nowhere_else(tiny_model):
    """What the network is given differs from the plain input in the two condition frames alone."""
    z, draw, plain = torch.randn(SHAPE), draws(1.0), draws(0.0)
    text, pooled = tiny_model.encode_text([""] * 6)
    given = []

    def network(z_tau, *rest):
        given.append(z_tau)
        return torch.zeros_like(z_tau)

    training_errors(network, z, text, pooled, None, draw)
    imagined, shown = given
    assert imagined.shape[1] == IMAGINED_FRAMES
    expected = interpolate(z, plain.eps, plain.tau)
    assert torch.equal(shown[:, 2:], expected[:, 2:])
    assert torch.equal(shown[:, :2], imagined[:, :2])  # v = 0: the noisy frames themselves
    assert not torch.equal(shown[:, :2], expected[:, :2])


def test_the_share_is_a_setting_of_the_recipe():
    recipe = make_recipe("long", "nano", 1.0, 0)
    assert override(recipe, "imagined_share=0.25").imagined_share == 0.25
    with pytest.raises(ConfigError, match="must lie in"):
        override(recipe, "imagined_share=1.5")
