"""nano's small convolutional autoencoder, f8: 8x8 pixels become one latent place of `channels` channels.

Axes: i images, c channels, h w places.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gwm.core import ConfigError
from gwm.core.config import AUTOENCODER_FACTOR

KL_WEIGHT = 1e-6  # of latent-diffusion autoencoders (Rombach et al. 2022)
GRADIENT_WEIGHT = 1.0
TEXTURE_WEIGHT = 1.0
TEXTURE_CELL = 4  # pixels a side


def check_size(images: Tensor) -> None:
    """ConfigError for images (… h w) that latent places do not cover exactly."""
    h, w = images.shape[-2:]
    if h % AUTOENCODER_FACTOR or w % AUTOENCODER_FACTOR:
        raise ConfigError(f"image size {w}x{h} must be a multiple of {AUTOENCODER_FACTOR} in both directions")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(i c h w) -> (i c h w)."""
        out: Tensor = x + self.layers(x)
        return out


class Autoencoder(nn.Module):
    """Encoder to a diagonal Gaussian, decoder back, and the statistics that bring latents to unit variance."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, width // 2, 3, padding=1), nn.SiLU(),
            nn.PixelUnshuffle(2), nn.Conv2d(2 * width, width, 3, padding=1), ResidualBlock(width),
            nn.PixelUnshuffle(2), nn.Conv2d(4 * width, 2 * width, 1), ResidualBlock(2 * width),
            nn.GroupNorm(8, 2 * width), nn.SiLU(), nn.Conv2d(2 * width, 2 * channels, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 2 * width, 3, padding=1), ResidualBlock(2 * width), ResidualBlock(2 * width),
            nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2), ResidualBlock(width), ResidualBlock(width),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.PixelShuffle(2), nn.SiLU(),
            nn.Conv2d(width // 2, width // 2, 3, padding=1), nn.SiLU(),
            nn.Conv2d(width // 2, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
        self.register_buffer("latent_mean", torch.zeros(channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(channels, 1, 1))

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (i 3 h w) in [-1, 1] -> mean and log variance of the raw latent (i c h/8 w/8)."""
        check_size(images)
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def encode(self, images: Tensor) -> Tensor:
        """Images (i 3 h w) in [-1, 1] -> normalised latents (i c h/8 w/8); the posterior's mean."""
        return (self.posterior(images)[0] - self.latent_mean) / self.latent_std

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (i c h w) -> images (i 3 8h 8w), about in [-1, 1]."""
        out: Tensor = self.decoder(latents * self.latent_std + self.latent_mean)
        return out

    def forward(self, images: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training pass: images and noise (i c h/8 w/8) -> reconstruction, posterior mean and log variance."""
        mean, log_variance = self.posterior(images)
        return self.decoder(mean + (0.5 * log_variance).exp() * eps), mean, log_variance


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), mean over all latent values."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of horizontal and of vertical image gradients: what keeps edges sharp."""
    return F.l1_loss(a.diff(dim=-1), b.diff(dim=-1)) + F.l1_loss(a.diff(dim=-2), b.diff(dim=-2))


def texture_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference in how much there is of horizontal and of vertical gradient in overlapping cells.

    Not where: fine texture that cannot be kept is put in its place by something as fine, not by its mean. Not in the
    paper, nor in SD3's autoencoder, which has an adversarial loss for this.
    """
    return F.l1_loss(_texture(a, -1), _texture(b, -1)) + F.l1_loss(_texture(a, -2), _texture(b, -2))


def _texture(images: Tensor, axis: int) -> Tensor:
    """Mean absolute gradient along an axis in each cell of images (i 3 h w)."""
    return F.avg_pool2d(images.diff(dim=axis).abs().mean(dim=1), TEXTURE_CELL, TEXTURE_CELL // 2)


def autoencoder_loss(images: Tensor, reconstruction: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Pixels, gradients and texture in L1, plus a slight pull of the posterior to the normal distribution."""
    pixels = F.l1_loss(reconstruction, images)
    edges = gradient_difference(reconstruction, images)
    texture = texture_difference(reconstruction, images)
    kl = kl_divergence(mean, log_variance)
    return pixels + GRADIENT_WEIGHT * edges + TEXTURE_WEIGHT * texture + KL_WEIGHT * kl
