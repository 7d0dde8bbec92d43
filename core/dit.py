"""The diffusion transformer G_θ: SD3's joint blocks with temporal blocks between, cut into encoder and decoder (Eq. 2).

Axes: b batch, t frames, k views, c channels, h w latent places, n tokens of a frame, m kept ones, d width, s text.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gwm.core import ConfigError
from gwm.core.actions import SCALARS, ActionEncoder
from gwm.core.blocks import Modulation, SpatialBlock, TemporalBlock, ViewBlock, layer_norm, modulate
from gwm.core.config import ModelConfig
from gwm.core.embed import TauEmbedding, VectorEmbedding, grid_positions
from gwm.core.mask import TokenMask, keep_tokens, restore_tokens


class Layer(nn.Module):
    """One spatial block, from stage 1b on the temporal block after it, and from stage 3 on a view block."""

    def __init__(self, config: ModelConfig, updates_text: bool) -> None:
        super().__init__()
        d, heads = config.width, config.heads
        self.spatial = SpatialBlock(d, heads, updates_text)
        self.temporal = TemporalBlock(d, heads, config.actions) if config.temporal else None
        self.view = ViewBlock(d, heads, config.view_attention) if config.views > 1 else None

    def forward(
        self, x: Tensor, stream: Tensor, c: Tensor, text: Tensor, actions: Tensor | None, rows: int,
        places: TokenMask | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """x (b t k n d), text stream (b t k s d), c (b t d), text (b s d), actions (b t d) -> x, text stream."""
        x, stream = self.spatial(x, stream, c)
        if self.temporal is not None:
            x = self.temporal(x, text, c, actions, places)
        if self.view is not None:
            x = self.view(x, c, rows)
        return x, stream


class MaskToken(nn.Module):
    """Eq. 3: m_τ = (1-τ) f_m(ε) + τ p, with p learnable and f_m a small network that reads the token's noise.

    The ablation's others: p alone, f_m(ε) alone, f_m(z_τ).
    """

    def __init__(self, patch_width: int, width: int, kind: Literal["eq3", "p", "noise", "latent"]) -> None:
        super().__init__()
        self.kind = kind
        self.p = nn.Parameter(torch.randn(width) * 0.02) if kind in ("eq3", "p") else None
        self.f_m = VectorEmbedding(patch_width, width) if kind != "p" else None

    def forward(self, eps: Tensor, z: Tensor, tau: Tensor) -> Tensor:
        """Hidden tokens' noise and noisy latents (b t k m e), τ (b t) -> (b t k m d)."""
        if self.f_m is None:
            return self.p.expand(*eps.shape[:-1], -1)  # type: ignore[union-attr]
        token: Tensor = self.f_m(z if self.kind == "latent" else eps)
        if self.p is not None:
            tau = rearrange(tau, "b t -> b t 1 1 1")
            token = (1 - tau) * token + tau * self.p
        return token


class Reconstruction(nn.Module):
    """Mask tokens and F (Eq. 4), between encoder and decoder. New blocks are the identity."""

    def __init__(self, config: ModelConfig, patch_width: int) -> None:
        super().__init__()
        d, heads = config.width, config.heads
        self.shared = config.branches == "shared"
        spatial, temporal = (
            config.branch_layers if self.shared or kind in config.mask_kinds else 0 for kind in ("spatial", "time")
        )
        self.mask_token = MaskToken(patch_width, d, config.mask_token)
        self.spatial = nn.ModuleList(SpatialBlock(d, heads, updates_text=False) for _ in range(spatial))
        self.temporal = nn.ModuleList(TemporalBlock(d, heads, actions=False) for _ in range(temporal))

    def forward(self, x: Tensor, stream: Tensor, c: Tensor, text: Tensor, kind: Literal["spatial", "time"]) -> Tensor:
        """Give restored tokens x (b t k n d) context: F_s for the spatial mask, F_t for the time mask, or both."""
        if self.shared or kind == "spatial":
            for block in self.spatial:
                x = block(x, stream, c)[0]
        if self.shared or kind == "time":
            for block in self.temporal:
                x = block(x, text, c, None)
        return x


class VideoDiT(nn.Module):
    """G_θ(z_τ, τ, c, M), which predicts v = ε - z_0. T, K and the token grid are free at run time."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        d, patch_width = config.width, config.channels * config.patch**2
        self.patch_in = nn.Linear(patch_width, d)
        self.tau_in = TauEmbedding(d)
        self.pooled_in = VectorEmbedding(config.pooled_width, d)
        self.text_in = nn.Linear(config.text_width, d)
        self.action_in = ActionEncoder(d) if config.actions else None
        last = config.depth - 1
        self.layers = nn.ModuleList(Layer(config, updates_text=i < last) for i in range(config.depth))
        self.reconstruction = Reconstruction(config, patch_width) if config.reconstruction else None
        self.norm_out = layer_norm(d)
        self.modulation_out = Modulation(d, 2)
        self.patch_out = nn.Linear(d, patch_width)
        nn.init.zeros_(self.patch_out.weight)
        nn.init.zeros_(self.patch_out.bias)

    def forward(
        self,
        z: Tensor,
        tau: Tensor,
        text: Tensor,
        pooled: Tensor,
        actions: Tensor | None = None,
        mask: TokenMask | None = None,
        eps: Tensor | None = None,
    ) -> Tensor:
        """Predict the velocity of every latent.

        z (b t k c h w); tau (b t), already m_c·τ, so 0 on condition frames; text (b s e), pooled (b e);
        actions (b waypoints 7) with NaN where absent; mask and the noise eps (like z) in masked training only.
        Returns v (b t k c h w).
        """
        self._check(z, tau, text, pooled, actions)
        tokens, (h, w) = self.patches(z)
        config = self.config
        positions = grid_positions(h, w, config.width, config.position_grid, config.position_base, z.device).to(z.dtype)
        x = self.patch_in(tokens) + positions  # b t k n d
        c = self.tau_in(tau) + rearrange(self.pooled_in(pooled), "b d -> b 1 d")  # b t d
        text = self.text_in(text).to(z.dtype)  # b s d; like x, not rounded by autocast
        stream = repeat(text, "b s d -> b t k s d", t=z.shape[1], k=z.shape[2])
        action = self._encode_actions(actions, z.shape[1])  # b t d
        split = config.depth - config.decoder_depth
        places = mask if mask is not None and mask.kind == "time" and config.time_attention == "masked" else None

        if mask is not None:
            x = keep_tokens(x, mask.ids_keep)  # b t k m d
        for layer in self.layers[:split]:
            x, stream = self._run(layer, x, stream, c, text, action, h, places)
        if mask is not None:
            x = self._reconstruct(x, stream, c, text, mask, positions, tokens, eps, tau)  # b t k n d
        for layer in self.layers[split:]:
            x, stream = self._run(layer, x, stream, c, text, action, h, None)

        shift, scale = self.modulation_out(c)
        return self.unpatch(self.patch_out(modulate(self.norm_out(x), shift, scale)), h, w)

    def _check(self, z: Tensor, tau: Tensor, text: Tensor, pooled: Tensor, actions: Tensor | None) -> None:
        """Refuse shapes that do not fit each other or the configuration."""
        config = self.config
        if z.ndim != 6 or 0 in z.shape or z.shape[3] != config.channels:
            raise ConfigError(f"latents of shape {tuple(z.shape)}; wanted (b t k {config.channels} h w)")
        if z.shape[2] > config.views:
            raise ConfigError(f"{z.shape[2]} views given to a model of {config.views}")
        b, t = z.shape[:2]
        wanted = {
            "tau": (tau, (b, t)), "text": (text, (b, text.shape[1] if text.ndim == 3 else 1, config.text_width)),
            "pooled": (pooled, (b, config.pooled_width)),
        }  # fmt: skip
        if actions is not None:
            wanted["actions"] = (actions, (b, actions.shape[1] if actions.ndim == 3 else 1, len(SCALARS)))
        for name, (x, shape) in wanted.items():
            if x.shape != shape:
                raise ConfigError(f"{name} of shape {tuple(x.shape)}; wanted {shape}")

    def patches(self, z: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Latents (b t k c h w) -> tokens (b t k n e) and the token grid; ConfigError where the patch does not fit."""
        p, (h, w) = self.config.patch, z.shape[-2:]
        if h % p or w % p:
            raise ConfigError(f"latent of {w}x{h} does not divide into {p}x{p} patches")
        return rearrange(z, "b t k c (h p) (w q) -> b t k (h w) (c p q)", p=p, q=p), (h // p, w // p)

    def unpatch(self, tokens: Tensor, h: int, w: int) -> Tensor:
        """Output tokens (b t k n e) -> (b t k c h w); the channel runs fastest, as in SD3."""
        p = self.config.patch
        return rearrange(tokens, "b t k (h w) (p q c) -> b t k c (h p) (w q)", h=h, w=w, p=p, q=p)

    def _encode_actions(self, actions: Tensor | None, t: int) -> Tensor | None:
        if actions is None or self.action_in is None:
            return None
        out: Tensor = self.action_in(actions, t)
        return out

    def _run(self, module: nn.Module, *inputs: Any) -> Any:
        if self.config.checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False, preserve_rng_state=False)
        return module(*inputs)

    def _reconstruct(
        self, x: Tensor, stream: Tensor, c: Tensor, text: Tensor, mask: TokenMask, positions: Tensor, tokens: Tensor,
        eps: Tensor | None, tau: Tensor,
    ) -> Tensor:  # fmt: skip
        """F(E(z) ⊙ M + m_τ ⊙ (1-M)). Not in the paper: mask tokens get their place's position, as in MAE."""
        if self.reconstruction is None or eps is None:
            raise ConfigError("a mask needs the reconstruction parts (stage 1c) and the noise eps")
        noise, noisy = (keep_tokens(y, mask.ids_hidden) for y in (self.patches(eps)[0], tokens))  # b t k n-m e
        hidden = self.reconstruction.mask_token(noise, noisy, tau) + positions[mask.ids_hidden]
        x = restore_tokens(x, hidden, mask)
        out: Tensor = self._run(self.reconstruction, x, stream, c, text, mask.kind)
        return out
