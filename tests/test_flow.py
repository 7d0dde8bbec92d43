"""Rectified flow."""

import pytest
import torch

from gwm.core.flow import data_from, flow_loss, interpolate, noise_from, sample_tau, shift_tau, unshift_tau, velocity


def random_latents(seed=0, shape=(2, 5, 1, 4, 4, 6)):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_round_trip_in_float64():
    z_0, eps = random_latents(0), random_latents(1)
    tau = torch.rand(2, 5, dtype=torch.float64)
    z_tau, v = interpolate(z_0, eps, tau), velocity(z_0, eps)
    assert torch.allclose(data_from(z_tau, v, tau), z_0, atol=1e-14)
    assert torch.allclose(noise_from(z_tau, v, tau), eps, atol=1e-14)


def test_tau_0_is_data_and_tau_1_is_noise():
    z_0, eps = random_latents(0), random_latents(1)
    assert torch.equal(interpolate(z_0, eps, torch.zeros(2, 5, dtype=torch.float64)), z_0)
    assert torch.equal(interpolate(z_0, eps, torch.ones(2, 5, dtype=torch.float64)), eps)


def test_velocity_is_the_derivative_of_the_path():
    z_0, eps = random_latents(0), random_latents(1)
    at = [interpolate(z_0, eps, torch.full((2, 5), tau, dtype=torch.float64)) for tau in (0.3, 0.3 + 1e-6)]
    assert torch.allclose((at[1] - at[0]) / 1e-6, velocity(z_0, eps), atol=1e-7)


def test_shift_keeps_the_ends_and_moves_the_middle_to_noise():
    tau = torch.linspace(0, 1, 11)
    shifted = shift_tau(tau, 3.0)
    assert shifted[0] == 0
    assert shifted[-1] == 1
    assert (shifted[1:-1] > tau[1:-1]).all()
    assert shift_tau(torch.tensor(0.5), 3.0) == 0.75


def test_training_tau_is_logit_normal():
    tau, inside = sample_tau(20_000, 1.0, torch.Generator().manual_seed(0))
    assert inside
    logits = torch.logit(tau)
    assert abs(logits.mean()) < 0.03
    assert abs(logits.std() - 1) < 0.03


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_tau_of_a_batch_lies_inside_or_outside_a_range_and_keeps_its_distribution(shift):
    g = torch.Generator().manual_seed(0)
    draws = [sample_tau(50, shift, g, (0.2, 0.5)) for _ in range(1000)]
    assert all(
        ((tau >= 0.2) & (tau <= 0.5)).all() if inside else ((tau < 0.2) | (tau > 0.5)).all() for tau, inside in draws
    )
    assert {inside for _, inside in draws} == {True, False}
    logits = torch.logit(unshift_tau(torch.cat([tau for tau, _ in draws]), shift))
    assert abs(logits.mean()) < 0.1
    assert abs(logits.std() - 1) < 0.1


def test_condition_frames_have_no_loss():
    v, wrong = random_latents(0), random_latents(0).clone()
    wrong[:, :2] += 100.0  # the condition frames
    m_c = torch.tensor([0.0, 0, 1, 1, 1]).expand(2, -1)
    assert flow_loss(wrong, v, m_c) == 0
    wrong[0, 3] += 1.0
    assert abs(float(flow_loss(wrong, v, m_c)) - 1 / 6) < 1e-6
