"""Euler sampling of the flow with clean condition frames and classifier-free guidance (paper 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from einops import repeat
from torch import Tensor

from gwm.core import ConfigError
from gwm.core.flow import shift_tau

Velocity = Callable[[Tensor, Tensor], Tensor]  # z (b t k c h w), tau (b t) -> v (b t k c h w)


def tau_schedule(steps: int, shift: float) -> Tensor:
    """τ from 1 to 0 in `steps` steps (steps + 1,), shifted as in training."""
    if steps < 1:
        raise ConfigError(f"sampling steps must be at least 1, not {steps}")
    return shift_tau(torch.linspace(1, 0, steps + 1), shift)


def guided(conditional: Velocity, unconditional: Velocity, scale: float) -> Velocity:
    """Classifier-free guidance: v_u + scale (v_c - v_u). Scale 1 is the conditional prediction alone."""
    if scale == 1:
        return conditional

    def velocity(z: Tensor, tau: Tensor) -> Tensor:
        v_u = unconditional(z, tau)
        return v_u + scale * (conditional(z, tau) - v_u)

    return velocity


def euler_sample(velocity: Velocity, condition: Tensor, eps: Tensor, steps: int, shift: float = 1.0) -> Tensor:
    """Integrate the flow from noise to data.

    condition (b n_c k c h w): clean latents of the first frames, which leave unchanged; n_c may be 0.
    eps (b t k c h w): the noise, t frames in all. Returns z_0 (b t k c h w).
    """
    b, t, n_c = eps.shape[0], eps.shape[1], condition.shape[1]
    m_c = (torch.arange(t, device=eps.device) >= n_c).to(eps.dtype)  # 0 on condition frames
    z = torch.cat([condition, eps[:, n_c:]], dim=1)
    schedule = tau_schedule(steps, shift).to(eps)
    for tau, following in pairwise(schedule):
        v = velocity(z, repeat(tau * m_c, "t -> b t", b=b))
        z = torch.cat([condition, (z + (following - tau) * v)[:, n_c:]], dim=1)
    return z
