"""Sampling: an analytic field, condition frames, guidance, batch independence."""

import pytest
import torch

from gwm.core import ConfigError
from gwm.core.sampler import euler_sample, guided, tau_schedule

SHAPE = (4, 5, 1, 2, 3, 3)


def test_an_analytic_field_lands_on_the_data():
    """All paths to one point z_0: v = (z_τ - z_0) / τ is straight, so Euler is exact whatever the steps."""
    z_0, eps = torch.randn(SHAPE).double(), torch.randn(SHAPE).double()
    condition = z_0[:, :2]

    def velocity(z, tau):
        scale = torch.where(tau > 0, tau, 1.0).view(*tau.shape, 1, 1, 1, 1)
        return (z - z_0) / scale

    for steps in (1, 7, 30):
        assert torch.allclose(euler_sample(velocity, condition, eps, steps, shift=3.0), z_0, atol=1e-12)


def test_condition_latents_leave_the_sampler_unchanged_and_see_tau_0():
    condition, eps = torch.randn(4, 3, 1, 2, 3, 3), torch.randn(SHAPE)
    seen = []

    def velocity(z, tau):
        seen.append((torch.equal(z[:, :3], condition), tau.clone()))
        return torch.randn_like(z)

    out = euler_sample(velocity, condition, eps, 5)
    assert torch.equal(out[:, :3], condition)
    assert all(clean and (tau[:, :3] == 0).all() and (tau[:, 3:] > 0).all() for clean, tau in seen)
    assert torch.isfinite(out).all()


def test_a_batch_of_4_equals_four_batches_of_1(tiny_model):
    c = tiny_model.config.channels
    eps, condition = torch.randn(4, 5, 1, c, 4, 8), torch.randn(4, 2, 1, c, 4, 8)
    tokens, pooled = tiny_model.encode_text(["a road", "", "night town", "b"])

    def run(rows):
        field = guided(
            lambda z, tau: tiny_model.dit(z, tau, tokens[rows], pooled[rows]),
            lambda z, tau: tiny_model.dit(z, tau, 0 * tokens[rows], 0 * pooled[rows]),
            2.0,
        )
        return euler_sample(field, condition[rows], eps[rows], 3)

    with torch.inference_mode():
        together = run(slice(0, 4))
        for i in range(4):
            assert torch.allclose(together[i : i + 1], run(slice(i, i + 1)), atol=1e-5, rtol=1e-5)


def test_guidance_1_is_the_conditional_field_and_0_the_unconditional():
    conditional, unconditional = (lambda z, tau: z + 1), (lambda z, tau: z - 1)
    z, tau = torch.randn(SHAPE), torch.ones(4, 5)
    assert torch.equal(guided(conditional, unconditional, 1.0)(z, tau), z + 1)
    assert torch.allclose(guided(conditional, unconditional, 0.0)(z, tau), z - 1)
    assert torch.allclose(guided(conditional, unconditional, 4.0)(z, tau), z + 7)


def test_schedule_runs_from_1_to_0():
    schedule = tau_schedule(30, 3.0)
    assert schedule[0] == 1
    assert schedule[-1] == 0
    assert (schedule.diff() < 0).all()
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        tau_schedule(0, 1.0)
