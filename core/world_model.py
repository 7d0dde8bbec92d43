"""The whole of a world model: autoencoder, text encoder and diffusion transformer, and its training objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from gwm.core import ConfigError
from gwm.core.autoencoder import Autoencoder
from gwm.core.config import ModelConfig
from gwm.core.dit import VideoDiT
from gwm.core.flow import flow_errors, interpolate, mean_over_predicted, sample_tau, velocity
from gwm.core.mask import TokenMask, spatial_mask, time_mask
from gwm.core.sd3_autoencoder import SD3Autoencoder
from gwm.core.seeds import seeded_generator
from gwm.core.text import HashedTextEncoder

MOST_IMAGINED = 0.8  # of τ: from more noise than this the imagined frames show another scene
IMAGINED_FRAMES = 8  # that are imagined together; the first of them may be condition frames


class WorldModel(nn.Module):
    """What a checkpoint holds. The autoencoder is trained on its own and frozen here."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.autoencoder: Autoencoder | SD3Autoencoder | None = None
        self.text: HashedTextEncoder | None = None
        if config.encoders == "nano":
            self.autoencoder = Autoencoder(config.channels, config.autoencoder_width).requires_grad_(False)
            self.text = HashedTextEncoder(config.text_vocabulary, config.text_tokens, config.text_width)
        elif config.encoders == "sd3":
            self.autoencoder = SD3Autoencoder().requires_grad_(False)
        self.dit = VideoDiT(config)

    @property
    def codec(self) -> Autoencoder | SD3Autoencoder:
        """The autoencoder; ConfigError where the model has none."""
        if self.autoencoder is None:
            raise ConfigError("this model holds no autoencoder: import its weights from a folder with vae/ in it")
        return self.autoencoder

    def encode_text(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> tokens (b s e) and pooled text (b e)."""
        if self.text is None:
            raise ConfigError("this model holds no text encoder: it takes the embeddings of SD3's three")
        return self.text.encode(texts)

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 RGB frames (b t k h w 3) -> normalised latents (b t k c h/8 w/8)."""
        b, t, k = frames.shape[:3]
        images = rearrange(frames, "b t k h w c -> (b t k) c h w").to(next(self.codec.parameters()).dtype) / 127.5 - 1
        return rearrange(self.codec.encode(images), "(b t k) c h w -> b t k c h w", b=b, t=t, k=k)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (b t k c h w) -> uint8 RGB frames (b t k 8h 8w 3)."""
        b, t, k = latents.shape[:3]
        images = self.codec.decode(rearrange(latents, "b t k c h w -> (b t k) c h w"))
        frames = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return rearrange(frames, "(b t k) c h w -> b t k h w c", b=b, t=t, k=k)


@dataclass(frozen=True)
class Draw:
    """The random numbers of one training step: drawn on the CPU from the step's generator, so that any device and
    any resumed run sees the same ones."""

    tau: Tensor  # (b t): m_c τ
    m_c: Tensor  # (b t): 0 on condition frames
    eps: Tensor  # like the latents
    mask: TokenMask | None
    imagined: Tensor | None = None  # (b): the τ that condition frames are imagined from; 0: they are the true ones
    following: Tensor | None = None  # (b t): m_c times the τ where the student's step ends, in distillation

    def to(self, device: torch.device) -> Draw:
        """The same draw on another device."""
        mask = None if self.mask is None else self.mask.to(device)
        imagined, following = (None if x is None else x.to(device) for x in (self.imagined, self.following))
        return Draw(self.tau.to(device), self.m_c.to(device), self.eps.to(device), mask, imagined, following)

    def part(self, rows: slice) -> Draw:
        """That of some samples of the batch."""
        mask = None if self.mask is None else self.mask.part(rows)
        imagined, following = (None if x is None else x[rows] for x in (self.imagined, self.following))
        return Draw(self.tau[rows], self.m_c[rows], self.eps[rows], mask, imagined, following)


def draw_step(
    shape: torch.Size,
    config: ModelConfig,
    condition_probabilities: tuple[float, ...],
    generator: torch.Generator,
    rows: slice = slice(None),
    imagined_share: float = 0.0,
) -> Draw:
    """Everything random in a training step on latents of `shape` (b t k c h w), for the samples `rows` of the batch.

    `imagined_share` of the samples have condition frames that the model imagines, see `imagine`.

    Each sample has the same numbers whichever rows are asked for, so that a batch may be shared by processes.
    The number of condition frames is drawn per sample, element i of `condition_probabilities` for i frames, and at
    least one frame stays to be predicted. The mask's branch (spatial or time) is drawn per batch, Eq. 4; a share of the
    batches has none.
    """
    b, t, k, _, h, w = shape
    counts = torch.multinomial(torch.tensor(condition_probabilities), b, replacement=True, generator=generator)
    m_c = (torch.arange(t) >= counts.clamp(max=t - 1)[:, None]).float()  # b t
    tau, maskable = sample_tau(b, config.tau_shift, generator, config.mask_tau)
    tau = tau[:, None] * m_c
    masked = torch.rand((), generator=generator) >= config.unmasked_share
    mask = draw_mask(b, t, k, h, w, config, generator) if config.reconstruction and maskable and masked else None
    seed = int(torch.randint(2**62, (), generator=generator))
    eps = [torch.randn(shape[1:], generator=seeded_generator(seed, i)) for i in range(*rows.indices(b))]
    imagined = None
    if imagined_share > 0:
        chosen = torch.rand(b, generator=generator) < imagined_share
        imagined = (torch.rand(b, generator=generator) * MOST_IMAGINED * chosen)[rows]
    return Draw(tau[rows], m_c[rows], torch.stack(eps), None if mask is None else mask.part(rows), imagined)


def draw_mask(
    b: int, t: int, k: int, h: int, w: int, config: ModelConfig, generator: torch.Generator
) -> TokenMask | None:
    """One of the configured kinds of mask for latents of h x w places; None where there is none to draw."""
    if not config.mask_kinds or config.mask_ratio == 0:
        return None
    kind = config.mask_kinds[int(torch.randint(len(config.mask_kinds), (), generator=generator))]
    h, w = h // config.patch, w // config.patch
    if kind == "time":
        return time_mask(b, t, k, h, w, config.mask_ratio, generator)
    return spatial_mask(b, t, k, h, w, config.mask_ratio, generator, by_row=config.views > 1)


def training_errors(
    dit: VideoDiT, z_0: Tensor, text: Tensor, pooled: Tensor, actions: Tensor | None, draw: Draw
) -> Tensor:
    """Squared errors (b t k h w) of the predicted flow, with condition frames and mask: clean latents (b t k c h w)."""
    z_tau = noised(dit, z_0, text, pooled, actions, draw)
    return flow_errors(dit(z_tau, draw.tau, text, pooled, actions, draw.mask, draw.eps), velocity(z_0, draw.eps))


def noised(dit: VideoDiT, z_0: Tensor, text: Tensor, pooled: Tensor, actions: Tensor | None, draw: Draw) -> Tensor:
    """What the network is given (b t k c h w): noisy latents, with condition frames that are clean or imagined."""
    z_tau = interpolate(z_0, draw.eps, draw.tau)
    if draw.imagined is None:
        return z_tau
    history = imagine(dit, z_0[:, :IMAGINED_FRAMES], text, pooled, actions, draw)
    shown = rearrange(draw.m_c[:, : history.shape[1]], "b t -> b t 1 1 1 1") == 0
    return torch.cat([history.where(shown, z_tau[:, : history.shape[1]]), z_tau[:, history.shape[1] :]], dim=1)


@torch.no_grad()
def imagine(dit: VideoDiT, z_0: Tensor, text: Tensor, pooled: Tensor, actions: Tensor | None, draw: Draw) -> Tensor:
    """The model's own idea of the first frames (b t k c h w), each sample's from noise at its τ in one step.

    Not in the paper. A rollout conditions on frames that the model made; with such frames in training it learns to
    go on from its own mistakes instead of adding to them. Where τ is 0 the frames come back as they are.
    """
    assert draw.imagined is not None
    t = z_0.shape[1]
    tau = repeat(draw.imagined, "b -> b t", t=t)
    z_tau = interpolate(z_0, draw.eps[:, :t], tau)
    v: Tensor = dit(z_tau, tau, text, pooled, actions)
    return z_tau - rearrange(tau, "b t -> b t 1 1 1 1") * v.to(z_tau.dtype)


def training_loss(
    dit: VideoDiT, z_0: Tensor, text: Tensor, pooled: Tensor, actions: Tensor | None, draw: Draw
) -> Tensor:
    """Eq. 1: the mean of `training_errors` over the predicted frames, a scalar."""
    return mean_over_predicted(training_errors(dit, z_0, text, pooled, actions, draw), draw.m_c)
