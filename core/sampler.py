"""Sampling of the flow: clean condition frames, classifier-free guidance, Euler's method (paper 3.1) or a quicker one.

Axes: b batch, t frames, k views, c channels, h w latent places, s text tokens, e their width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Literal, NamedTuple

import torch
from einops import repeat
from torch import Tensor

from gwm.core import ConfigError
from gwm.core.config import check_type
from gwm.core.flow import shift_tau

Solver = Literal["euler", "ab2"]
Velocity = Callable[[Tensor, Tensor, float], Tensor]  # z (b t k c h w), tau (b t), guidance scale -> v like z
Network = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]  # z, tau and the conditions' three -> v


@dataclass(frozen=True)
class Sampling:
    """How a window is drawn. The paper: 30 Euler steps with guidance 4.0 throughout. ConfigError for what cannot be."""

    steps: int = 30
    guidance: float = 4.0  # scale; 1 is none
    solver: Solver = "euler"  # or ab2: two-step Adams-Bashforth, of second order at the same price
    guidance_range: tuple[float, float] = (0.0, 1.0)  # of τ; outside it the conditional prediction is taken alone
    guidance_every: int = 1  # guided step; those between take over what guidance added

    def __post_init__(self) -> None:
        """Refuse values that cannot be, with the value."""
        check_type("solver", self.solver, Solver)
        if self.steps < 1:
            raise ConfigError(f"sampling steps must be at least 1, not {self.steps}")
        if self.guidance_every < 1:
            raise ConfigError(f"guidance every {self.guidance_every} steps: must be at least 1")
        if self.guidance_every > 1 and self.guidance == 1:
            raise ConfigError("guidance every few steps has no effect where the guidance scale is 1; leave it out")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise ConfigError(f"guidance {self.guidance} must be a finite number of at least 0; 1 is none")
        low, high = self.guidance_range
        if not 0 <= low <= high <= 1:
            raise ConfigError(f"guidance range {low:g} to {high:g} must be a range of τ within [0, 1]")

    def scale(self, tau: float) -> float:
        """The guidance scale at τ."""
        return self.guidance if self.guidance_range[0] <= tau <= self.guidance_range[1] else 1.0


class Conditions(NamedTuple):
    """What b samples are conditioned on."""

    text: Tensor  # (b s e)
    pooled: Tensor  # (b e)
    actions: Tensor | None  # (b waypoints 7), NaN where absent


def tau_schedule(steps: int, shift: float) -> Tensor:
    """τ from 1 to 0 in `steps` steps (steps + 1,), shifted as in training."""
    return shift_tau(torch.linspace(1, 0, steps + 1), shift)


def guided(network: Network, conditional: Conditions, unconditional: Conditions | None, every: int = 1) -> Velocity:
    """Classifier-free guidance: v_u + scale (v_c - v_u), both from one pass of the network.

    Scale 1 is the conditional prediction alone, and so is every scale where there is no unconditional one. v_c - v_u
    changes slowly along a path: it is computed at every `every`-th guided call and kept for those between, so that the
    calls have to follow one path.
    """
    both = None if unconditional is None else _beside(conditional, unconditional)
    calls, kept = count(), [torch.empty(0)]

    def velocity(z: Tensor, tau: Tensor, scale: float) -> Tensor:
        if both is None or scale == 1:
            return network(z, tau, *conditional)
        if next(calls) % every:
            return network(z, tau, *conditional) + (scale - 1) * kept[0]
        v_c, v_u = network(torch.cat([z, z]), torch.cat([tau, tau]), *both).chunk(2)
        kept[0] = v_c - v_u
        return v_u + scale * kept[0]

    return velocity


def _beside(a: Conditions, b: Conditions) -> Conditions:
    """The samples of both; absent actions are NaN where only one has none."""
    actions = [x.actions for x in (a, b)]
    known = next((x for x in actions if x is not None), None)
    filled = [torch.full_like(known, torch.nan) if x is None else x for x in actions] if known is not None else []
    return Conditions(
        torch.cat([a.text, b.text]), torch.cat([a.pooled, b.pooled]), torch.cat(filled) if filled else None
    )


def sample(velocity: Velocity, condition: Tensor, eps: Tensor, sampling: Sampling, shift: float = 1.0) -> Tensor:
    """Integrate the flow from noise to data.

    condition (b n_c k c h w): clean latents of the first frames, which leave unchanged; n_c may be 0.
    eps (b t k c h w): the noise, t frames in all. Returns z_0 (b t k c h w).
    """
    b, t, n_c = eps.shape[0], eps.shape[1], condition.shape[1]
    m_c = (torch.arange(t, device=eps.device) >= n_c).to(eps.dtype)  # 0 on condition frames
    z = torch.cat([condition, eps[:, n_c:]], dim=1)
    before: tuple[Tensor, float] | None = None  # the last step's velocity and length
    for tau, following in pairwise(tau_schedule(sampling.steps, shift).double().tolist()):
        v = velocity(z, repeat(tau * m_c, "t -> b t", b=b), sampling.scale(tau))
        step = following - tau
        slope = v if before is None or sampling.solver == "euler" else _adams_bashforth(v, *before, step)
        z = torch.cat([condition, (z + step * slope)[:, n_c:]], dim=1)
        before = v, step
    return z


def _adams_bashforth(v: Tensor, v_before: Tensor, step_before: float, step: float) -> Tensor:
    """Mean velocity of a step by the line through this velocity and the one before."""
    share = step / (2 * step_before)
    return v + share * (v - v_before)
