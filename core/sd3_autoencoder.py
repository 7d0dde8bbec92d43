"""Stable Diffusion 3's autoencoder: diffusers' AutoencoderKL in SD3's configuration, f8, 16 channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gwm.core.autoencoder import check_size
from gwm.core.config import SD3_CHANNELS

SCALE, SHIFT = 1.5305, 0.0609  # normalised latent = (raw - SHIFT) * SCALE; vae/config.json of SD3-medium
CONFIG = {
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": SD3_CHANNELS,
    "norm_num_groups": 32, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip


class SD3Autoencoder(nn.Module):
    """Images (i 3 h w) in [-1, 1] <-> normalised latents (i 16 h/8 w/8), as `gwm.core.autoencoder.Autoencoder`."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import AutoencoderKL  # seconds to import, and nano needs none of it

        self.kl: Any = AutoencoderKL(**CONFIG)

    def encode(self, images: Tensor) -> Tensor:
        """The posterior's mean."""
        check_size(images)
        mean: Tensor = self.kl.encode(images).latent_dist.mean
        return (mean - SHIFT) * SCALE

    def decode(self, latents: Tensor) -> Tensor:
        """Images, about in [-1, 1]."""
        images: Tensor = self.kl.decode(latents / SCALE + SHIFT).sample
        return images
