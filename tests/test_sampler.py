"""Sampling: an analytic field, condition frames, guidance, batch independence."""

import math

import pytest
import torch

from gwm.core import ConfigError
from gwm.core.sampler import Conditions, Sampling, guided, sample, tau_schedule

SHAPE = (4, 5, 1, 2, 3, 3)


def test_an_analytic_field_lands_on_the_data():
    """All paths to one point z_0: v = (z_τ - z_0) / τ is straight, so Euler is exact whatever the steps."""
    z_0, eps = torch.randn(SHAPE).double(), torch.randn(SHAPE).double()
    condition = z_0[:, :2]

    def velocity(z, tau, _):
        scale = torch.where(tau > 0, tau, 1.0).view(*tau.shape, 1, 1, 1, 1)
        return (z - z_0) / scale

    for steps in (1, 7, 30):
        for solver in ("euler", "ab2"):
            out = sample(velocity, condition, eps, Sampling(steps, solver=solver), shift=3.0)
            assert torch.allclose(out, z_0, atol=1e-12)


def test_condition_latents_leave_the_sampler_unchanged_and_see_tau_0():
    condition, eps = torch.randn(4, 3, 1, 2, 3, 3), torch.randn(SHAPE)
    seen = []

    def velocity(z, tau, _):
        seen.append((torch.equal(z[:, :3], condition), tau.clone()))
        return torch.randn_like(z)

    out = sample(velocity, condition, eps, Sampling(5))
    assert torch.equal(out[:, :3], condition)
    assert all(clean and (tau[:, :3] == 0).all() and (tau[:, 3:] > 0).all() for clean, tau in seen)
    assert torch.isfinite(out).all()


def test_a_batch_of_4_equals_four_batches_of_1(tiny_model):
    c = tiny_model.config.channels
    eps, condition = torch.randn(4, 5, 1, c, 4, 8), torch.randn(4, 2, 1, c, 4, 8)
    tokens, pooled = tiny_model.encode_text(["a road", "", "night town", "b"])

    def run(rows):
        conditional = Conditions(tokens[rows], pooled[rows], None)
        unconditional = Conditions(0 * tokens[rows], 0 * pooled[rows], None)
        return sample(guided(tiny_model.dit, conditional, unconditional), condition[rows], eps[rows], Sampling(3, 2.0))

    with torch.inference_mode():
        together = run(slice(0, 4))
        for i in range(4):
            assert torch.allclose(together[i : i + 1], run(slice(i, i + 1)), atol=1e-5, rtol=1e-5)


def test_guidance_1_is_the_conditional_field_and_0_the_unconditional():
    def network(z, tau, text, pooled, actions):
        return z + text[:, :1, None, None, None] + actions.nan_to_num()[:, :1, :1, None, None, None]

    text, pooled = torch.ones(4, 1, 1), torch.zeros(4, 1)
    velocity = guided(network, Conditions(text, pooled, torch.ones(4, 1, 1)), Conditions(-text, pooled, None))
    z, tau = torch.randn(SHAPE), torch.ones(4, 5)
    assert torch.allclose(velocity(z, tau, 1.0), z + 2)
    assert torch.allclose(velocity(z, tau, 0.0), z - 1, atol=1e-6)
    assert torch.allclose(velocity(z, tau, 4.0), z + 11, atol=1e-5)
    alone = guided(network, Conditions(text, pooled, torch.ones(4, 1, 1)), None)
    assert torch.allclose(alone(z, tau, 4.0), z + 2)


def test_guidance_is_computed_at_every_nth_call_and_kept_between():
    """The conditional prediction is new at each; what guidance adds is the last computed."""
    batches = []

    def network(z, tau, text, pooled, actions):
        batches.append(len(z))
        return z + tau.mean() * text[:, :1, None, None, None]

    text, pooled = torch.ones(2, 1, 1), torch.zeros(2, 1)
    velocity = guided(network, Conditions(text, pooled, None), Conditions(0 * text, pooled, None), every=3)
    z, times = torch.randn(2, 5, 1, 3, 4, 8), (1.0, 0.75, 0.5, 0.25)
    seen = [velocity(z, torch.full((2, 5), tau), 4.0) for tau in times]
    assert batches == [4, 2, 2, 4]
    added = (3 * 1.0, 3 * 1.0, 3 * 1.0, 3 * 0.25)
    for v, tau, more in zip(seen, times, added, strict=True):
        assert torch.allclose(v, z + tau + more, atol=1e-5)
    velocity(z, torch.ones(2, 5), 1.0)  # without guidance: does not count
    velocity(z, torch.ones(2, 5), 4.0)
    assert batches == [4, 2, 2, 4, 2, 2]


def test_guidance_acts_within_its_range_of_tau():
    seen = {}

    def velocity(z, tau, scale):
        seen[round(float(tau[0, -1]), 3)] = scale
        return z

    eps = torch.randn(SHAPE)
    sample(velocity, eps[:, :0], eps, Sampling(4, 3.0, guidance_range=(0.3, 0.8)))
    assert seen == {1.0: 1.0, 0.75: 3.0, 0.5: 3.0, 0.25: 1.0}


def test_two_step_adams_bashforth_is_of_second_order():
    """A curved field: the error falls to a quarter with twice the steps, Euler's to a half."""
    eps = torch.ones(1, 1, 1, 1, 1, 1, dtype=torch.float64)

    def velocity(z, tau, _):
        return z * torch.cos(3 * tau).view(1, 1, 1, 1, 1, 1)

    def error(solver, steps):
        out = sample(velocity, eps[:, :0], eps, Sampling(steps, solver=solver))
        return float((out - torch.exp(torch.tensor(-math.sin(3) / 3))).abs())

    assert 1.8 < error("euler", 32) / error("euler", 64) < 2.2
    assert 3.5 < error("ab2", 32) / error("ab2", 64) < 4.5
    assert error("ab2", 16) < error("euler", 64)


def test_schedule_runs_from_1_to_0():
    schedule = tau_schedule(30, 3.0)
    assert schedule[0] == 1
    assert schedule[-1] == 0
    assert (schedule.diff() < 0).all()
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        Sampling(0)
    with pytest.raises(ConfigError, match="guidance range"):
        Sampling(guidance_range=(0.5, 1.5))
    with pytest.raises(ConfigError, match="no effect where the guidance scale is 1"):
        Sampling(guidance=1.0, guidance_every=2)
    with pytest.raises(ConfigError, match=r"guidance -1.* at least 0"):
        Sampling(guidance=-1)
    with pytest.raises(ConfigError, match="guidance every 0 steps"):
        Sampling(guidance_every=0)
    with pytest.raises(ConfigError, match="solver knows euler, ab2, not 'heun'"):
        Sampling(solver="heun")
