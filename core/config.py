"""Sizes of the networks: one frozen dataclass, presets in plain Python."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from gwm.core import ConfigError

AUTOENCODER_FACTOR = 8  # f8: one latent place covers 8x8 pixels


@dataclass(frozen=True)
class ModelConfig:
    """Size of a world model and which parts of it exist yet; training adds the parts stage by stage."""

    width: int = 128  # d, of all blocks
    heads: int = 4
    depth: int = 4  # spatial blocks, encoder and decoder together
    decoder_depth: int = 1  # the last of them form the decoder D of Eq. 2
    patch: int = 2  # latent places per token side
    channels: int = 16  # c, of the latent
    text_tokens: int = 8  # s
    text_width: int = 128
    text_vocabulary: int = 1024  # hash buckets of the text encoder
    position_grid: int = 64  # largest token grid side that the spatial positions are laid out for
    autoencoder_width: int = 64
    tau_shift: float = 1.0  # SD3's resolution shift of τ; 3.0 at 1024 px
    mask_ratio: float = 0.25  # r
    # Not in the paper: this share of training batches is not masked and skips F, as sampling does.
    unmasked_share: float = 1 / 3
    temporal: bool = True  # temporal blocks, from stage 1b
    reconstruction: bool = True  # mask tokens and F, from stage 1c
    actions: bool = True  # action projections, from stage 2

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be, with the value."""
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} does not divide into {self.heads} heads")
        if not 0 < self.decoder_depth < self.depth:
            raise ConfigError(f"decoder_depth {self.decoder_depth} must lie between 1 and depth - 1 = {self.depth - 1}")
        for name in ("mask_ratio", "unmasked_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must lie in [0, 1)")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The config that `dataclasses.asdict` wrote; ConfigError names fields that this version does not know."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown model config fields {unknown}; written by another version of gwm?")
        return cls(**values)


PRESETS = {
    "nano": ModelConfig(),
}


def preset(name: str) -> ModelConfig:
    """The named preset; ConfigError lists those that exist."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
