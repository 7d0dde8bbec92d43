"""Exponential moving average of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ema_decay(step: int, longest: float) -> float:
    """Decay at a step: short memory at first, so that the average does not carry the initial weights along."""
    return min(longest, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, in place, for every parameter."""
    parameters = dict(model.named_parameters())
    torch._foreach_lerp_(list(average.values()), [parameters[name].detach() for name in average], 1 - decay)


def start_ema(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters, fp32."""
    return {name: p.detach().float().clone() for name, p in model.named_parameters()}
