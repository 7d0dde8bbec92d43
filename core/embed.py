"""Sinusoidal embeddings of times, positions and scalars."""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from gwm.core import ConfigError


def sinusoid(x: Tensor, frequencies: Tensor) -> Tensor:
    """[cos, sin] of x (…) at angular frequencies (f,) -> (… 2f)."""
    angle = x[..., None].float() * frequencies
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def falling_frequencies(count: int, device: torch.device) -> Tensor:
    """1 down to 1/10000, geometric: the frequencies of transformer positions and of SD3's time embedding."""
    return torch.exp(-math.log(10_000) * torch.arange(count, device=device, dtype=torch.float32) / count)


def frame_positions(t: int, width: int, device: torch.device) -> Tensor:
    """(t width) embedding of the frame index."""
    return sinusoid(torch.arange(t, device=device), falling_frequencies(width // 2, device))


def grid_positions(h: int, w: int, width: int, grid: int, base: int, device: torch.device) -> Tensor:
    """(h w) x width embedding of token places, centred in SD3's grid x grid layout whose side measures `base`.

    Half of the width encodes the column, half the row, sines before cosines. Places near the centre mean the same at
    every image size.
    """
    if max(h, w) > grid:
        raise ConfigError(f"{w}x{h} tokens exceed the {grid}x{grid} grid of positions")
    frequencies = 1 / 10_000 ** (torch.arange(width // 4, device=device, dtype=torch.float64) / (width // 4))
    row, column = (
        ((torch.arange(n, device=device) + (grid - n) // 2) / (grid / base)).double()[:, None] * frequencies
        for n in (h, w)
    )  # angles, rounded as diffusers does
    row, column = (torch.cat([angle.sin(), angle.cos()], dim=-1).float() for angle in (row, column))
    row, column = repeat(row, "h f -> h w f", w=w), repeat(column, "w f -> h w f", h=h)
    return rearrange(torch.cat([column, row], dim=-1), "h w d -> (h w) d")


class VectorEmbedding(nn.Module):
    """A two-layer perceptron from a vector to the conditioning width, SD3's for τ and for the pooled text."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(… inputs) -> (… width)."""
        out: Tensor = self.layers(x)
        return out


class TauEmbedding(nn.Module):
    """SD3's embedding of τ: 256 sinusoids of 1000 τ, then two layers."""

    SINUSOIDS = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = VectorEmbedding(self.SINUSOIDS, width)

    def forward(self, tau: Tensor) -> Tensor:
        """(b t) -> (b t width)."""
        frequencies = falling_frequencies(self.SINUSOIDS // 2, tau.device)
        out: Tensor = self.layers(sinusoid(1000 * tau, frequencies).to(tau.dtype))
        return out
