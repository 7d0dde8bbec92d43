"""Sizes of the networks: one frozen dataclass, presets in plain Python."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gwm.core import ConfigError

SD3_CHANNELS = 16
AUTOENCODER_FACTOR = 8  # f8: one latent place covers 8x8 pixels


@dataclass(frozen=True)
class ModelConfig:
    """Size of a world model, its parts (training adds them stage by stage), and the paper's ablations."""

    width: int = 128  # d, of all blocks
    heads: int = 4
    depth: int = 4  # spatial blocks, encoder and decoder together
    decoder_depth: int = 1  # the last of them form the decoder D of Eq. 2
    patch: int = 2  # latent places per token side
    channels: int = 12  # c, of the latent; SD3 has 16
    # autoencoder and text: nano's small ones, Stable Diffusion 3's (text embeddings are inputs), or inputs for both
    encoders: Literal["nano", "sd3", "none"] = "nano"
    text_tokens: int = 8  # s
    text_width: int = 128
    pooled_width: int = 128
    text_vocabulary: int = 1024  # hash buckets of nano's text encoder
    position_grid: int = 64  # largest token grid side that the spatial positions are laid out for
    position_base: int = 64  # length of that side, in units of position
    autoencoder_width: int = 64
    tau_shift: float = 1.0  # SD3's resolution shift of τ; 3.0 at 1024 px

    # parts
    temporal: bool = True  # temporal blocks, from stage 1b
    reconstruction: bool = True  # mask tokens and F, from stage 1c
    actions: bool = True  # action projections, from stage 2
    views: int = 1  # K, the most views that it was trained on; view blocks exist where it is more than 1
    view_attention: Literal["row", "place", "frame"] = "row"  # over KŴ (3.4), K or KĤŴ tokens

    # mask reconstruction
    mask_ratio: float = 0.25  # r
    mask_kinds: tuple[Literal["spatial", "time"], ...] = ("spatial", "time")  # drawn per batch; none = no masking
    time_attention: Literal["shifted", "masked"] = "shifted"  # what temporal blocks do under the time mask
    mask_token: Literal["eq3", "p", "noise", "latent"] = "eq3"  # Eq. 3, p alone, f_m(ε) alone, or f_m(z_τ)
    mask_tau: tuple[float, float] = (0.0, 1.0)  # only batches whose τ lie in this range are masked
    branches: Literal["two", "shared"] = "two"  # F of Eq. 4, or F_s and F_t in sequence for both masks
    branch_layers: int = 1  # blocks in a branch
    # Not in the paper: this share of the batches that could be masked is not, and skips F, as sampling does.
    unmasked_share: float = 1 / 3

    checkpointing: bool = False  # recompute layers and F in the backward pass instead of keeping their activations

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be, with the value."""
        for name, kind in get_type_hints(type(self)).items():
            check_type(name, getattr(self, name), kind)
        if self.width % self.heads or self.width % 4:
            raise ConfigError(f"width {self.width} does not divide into {self.heads} heads, or not by 4")
        if not self.decoder_depth < self.depth:
            raise ConfigError(f"decoder_depth {self.decoder_depth} must lie between 1 and depth - 1 = {self.depth - 1}")
        for name in ("mask_ratio", "unmasked_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} must lie in [0, 1)")
        if not 0 <= self.mask_tau[0] < self.mask_tau[1] <= 1:
            raise ConfigError(f"mask_tau {self.mask_tau} must be a range within [0, 1]")
        if not 0 < self.tau_shift < math.inf:
            raise ConfigError(f"tau_shift {self.tau_shift} must be a number above 0; 1 shifts nothing")
        if self.encoders == "sd3" and self.channels != SD3_CHANNELS:
            raise ConfigError(f"SD3's autoencoder has {SD3_CHANNELS} channels, not {self.channels}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The config that `dataclasses.asdict` wrote; ConfigError names fields that this version does not know."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown model config fields {unknown}; written by another version of gwm?")
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**known)


def check_type(name: str, value: Any, kind: Any) -> None:
    """ConfigError for a value of another type, a choice that there is not, and whole numbers below 1."""
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, tuple) or (kinds[-1] is not Ellipsis and len(value) != len(kinds)):
            count = "values" if kinds[-1] is Ellipsis else len(kinds)
            raise ConfigError(f"{name} must be a tuple of {count}, not {value!r}")
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        for x, part in zip(value, kinds, strict=True):
            check_type(name, x, part)
    elif get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{name} knows {', '.join(get_args(kind))}, not {value!r}")
    elif kind is int and (type(value) is not int or value < 1):
        raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
    elif kind is float and type(value) not in (int, float):
        raise ConfigError(f"{name} must be a number, not {value!r}")
    elif kind is bool and type(value) is not bool:
        raise ConfigError(f"{name} must be true or false, not {value!r}")
    elif kind is str and type(value) is not str:
        raise ConfigError(f"{name} must be a text, not {value!r}")


PRESETS = {
    "nano": ModelConfig(),
    # about 100 M parameters, with nano's autoencoder and text encoder, so that it needs no weights from elsewhere
    "small": ModelConfig(width=384, heads=6, depth=10, decoder_depth=2),
    "sd3-medium": ModelConfig(
        width=1536, heads=24, depth=24, decoder_depth=5, channels=16, encoders="sd3", text_tokens=154,
        text_width=4096, pooled_width=2048, position_grid=192, position_base=64, tau_shift=3.0,
    ),
}  # fmt: skip


def preset(name: str) -> ModelConfig:
    """The named preset; ConfigError lists those that exist."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]
