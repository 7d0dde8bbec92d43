"""Rectified flow (paper 3.1), with SD3's sign: v = ε - z_0. τ = 1 is noise, τ = 0 is data.

Axes: b batch, t frames, k views, c channels, h w latent places.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def per_frame(tau: Tensor) -> Tensor:
    """τ of every frame (b t), laid out to scale latents (b t k c h w)."""
    return rearrange(tau, "b t -> b t 1 1 1 1")


def interpolate(z_0: Tensor, eps: Tensor, tau: Tensor) -> Tensor:
    """z_τ = (1-τ) z_0 + τ ε. Latents (b t k c h w), τ (b t)."""
    tau = per_frame(tau)
    return (1 - tau) * z_0 + tau * eps


def velocity(z_0: Tensor, eps: Tensor) -> Tensor:
    """v = ε - z_0, what the network predicts. The paper's Eq. 1 has the opposite sign; the loss is the same."""
    return eps - z_0


def data_from(z_tau: Tensor, v: Tensor, tau: Tensor) -> Tensor:
    """z_0 = z_τ - τ v."""
    return z_tau - per_frame(tau) * v


def noise_from(z_tau: Tensor, v: Tensor, tau: Tensor) -> Tensor:
    """ε = z_τ + (1-τ) v."""
    return z_tau + (1 - per_frame(tau)) * v


def shift_tau(tau: Tensor, shift: float) -> Tensor:
    """SD3's resolution shift (Esser et al. 2024, Eq. 23): more time at high noise for shift > 1."""
    return shift * tau / (1 + (shift - 1) * tau)


def unshift_tau(tau: Tensor, shift: float) -> Tensor:
    """The inverse of `shift_tau`."""
    return tau / (shift - (shift - 1) * tau)


def tau_quantiles(shift: float, within: tuple[float, float]) -> tuple[float, float]:
    """The shares of training τ below the two ends of a range."""
    low, high = torch.special.ndtr(torch.logit(unshift_tau(torch.tensor(within), shift))).tolist()
    return low, high


def sample_tau(
    batch: int, shift: float, generator: torch.Generator, within: tuple[float, float] = (0.0, 1.0)
) -> tuple[Tensor, bool]:
    """τ (b,) for training: logit-normal(0, 1), then shifted; and whether they lie in the range `within`.

    All of a batch lie inside the range or all outside, so that masking can depend on it; over many batches τ has its
    distribution whatever the range. Not in the paper: SD3's default is taken.
    """
    low, high = tau_quantiles(shift, within)
    mass = high - low
    inside = bool(torch.rand((), generator=generator) < mass)
    u = torch.rand(batch, generator=generator)
    if inside:
        u = low + u * mass
    else:
        u = u * (1 - mass)
        u = u + mass * (u >= low)
    return shift_tau(torch.sigmoid(torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))), shift), inside


def flow_errors(v_hat: Tensor, v: Tensor) -> Tensor:
    """Squared error of every latent place, mean over channels: (b t k c h w) twice -> (b t k h w), at least fp32."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    return (v_hat.to(dtype) - v.to(dtype)).square().mean(dim=3)


def mean_over_predicted(errors: Tensor, m_c: Tensor, predicted: Tensor | None = None) -> Tensor:
    """Eq. 1 over the predicted frames: mean of errors (b t k h w) where m_c (b t) is 1; condition frames have no loss.

    predicted: how many frames that is in the whole batch, where this is a part of it: the parts' losses add up.
    Not in the paper: visible and hidden tokens count alike.
    """
    count = m_c.sum() if predicted is None else predicted
    return (errors.mean(dim=(2, 3, 4)) * m_c).sum() / count.clamp(min=1)


def flow_loss(v_hat: Tensor, v: Tensor, m_c: Tensor) -> Tensor:
    """Eq. 1: prediction and truth (b t k c h w), m_c (b t) -> scalar."""
    return mean_over_predicted(flow_errors(v_hat, v), m_c)
