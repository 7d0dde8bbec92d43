"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def ema_decay(step: int, longest: float) -> float:
    """Decay at a step: short memory at first, so that the average does not carry the initial weights along."""
    return min(longest, (1 + step) / (10 + step))


def start_ema(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of the parameters, fp32."""
    return {name: p.detach().float().clone() for name, p in parameters.items()}


@torch.no_grad()
def update_ema(average: dict[str, Tensor], parameters: Mapping[str, Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * parameters, in place, fp32."""
    torch._foreach_lerp_(list(average.values()), [parameters[n].detach().float() for n in average], 1 - decay)
