"""What a training step and a sampled frame cost: counted by PyTorch on the meta device, without memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from gwm.core import ConfigError
from gwm.core.config import AUTOENCODER_FACTOR, ModelConfig
from gwm.core.dit import Layer, VideoDiT
from gwm.core.flow import tau_quantiles
from gwm.core.mask import TokenMask
from gwm.core.world_model import Draw, WorldModel, draw_mask, training_loss
from gwm.pipelines.recipe import Recipe, Stage

aten: Any = torch.ops.aten

PEAK = {  # dense bf16 FLOP/s of the datasheets
    "A100": 312e12, "A800": 312e12, "H100": 989e12, "H800": 989e12, "H200": 989e12, "L40S": 362e12, "RTX4090": 165e12,
}  # fmt: skip
DAY = 86_400.0  # s
STATE_BYTES = 20  # per trained parameter: fp32 weight, gradient, two Adam moments and the average
PAPER_GPU, PAPER_STAGE_1_DAYS = "A800", 32 * 3  # section 7.2


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention as on a GPU: on the meta device PyTorch would take its plain form, which keeps n x n matrices."""
    plain = F.scaled_dot_product_attention

    def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return plain(q, k, v, mask) if mask is not None else aten._scaled_dot_product_flash_attention(q, k, v)[0]

    F.scaled_dot_product_attention = fused  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


@dataclass(frozen=True)
class StageCost:
    """One stage of a recipe on one kind of GPU."""

    stage: str
    steps: int
    batch: int
    flops: float  # of one step on the whole batch, forward and backward, mean over window lengths and masks
    activation_bytes: int  # kept for the backward pass, all in bf16, for one unmasked sample of the longest window
    gpu_days: float


def _places(size: tuple[int, int]) -> tuple[int, int]:
    return size[1] // AUTOENCODER_FACTOR, size[0] // AUTOENCODER_FACTOR


def _inputs(config: ModelConfig, t: int, places: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """One sample of meta latents, text, pooled text and actions."""
    shapes = [
        (1, t, config.views, config.channels, *places), (1, config.text_tokens, config.text_width),
        (1, config.pooled_width), (1, 4, 7),
    ]  # fmt: skip
    return tuple(torch.zeros(shape, device="meta", dtype=dtype) for shape in shapes)


def _count(loss: Callable[[], Tensor], aside: Iterable[Tensor]) -> tuple[int, int]:
    """FLOPs of `loss` and of its gradients, and bytes kept between the two, storages of `aside` not among them."""
    not_kept = {x.untyped_storage()._cdata for x in aside}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage()._cdata not in not_kept:
            kept[x.untyped_storage()._cdata] = x  # held, so that no other storage takes its address
        return x

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
    with fused_attention(), FlopCounterMode(display=False) as counter, hooks:
        out = loss()
        size_kept = sum(x.untyped_storage().nbytes() for x in kept.values())
        kept.clear()
        out.backward()
    return counter.get_total_flops(), size_kept


def count_step(config: ModelConfig, t: int, size: tuple[int, int], mask: TokenMask | None) -> tuple[int, int]:
    """FLOPs of forward and backward, and bytes kept between them (weights aside), for one bf16 sample of t frames."""
    with torch.device("meta"):
        dit = VideoDiT(config).to(torch.bfloat16)
    z, text, pooled, actions = _inputs(config, t, _places(size), torch.bfloat16)
    tau = torch.zeros(1, t, device="meta", dtype=torch.bfloat16)
    draw = Draw(tau, tau, z, None if mask is None else mask.to(torch.device("meta")))
    given = actions if config.actions else None
    return _count(lambda: training_loss(dit, z, text, pooled, given, draw), dit.parameters())


@lru_cache(maxsize=256)
def _count_unmasked(config: ModelConfig, t: int, size: tuple[int, int]) -> tuple[int, int]:
    return count_step(config, t, size, None)


@lru_cache(maxsize=256)
def _count_layer(
    config: ModelConfig, t: int, rows: int, tokens: int, places: TokenMask | None = None
) -> tuple[int, int]:
    """The same for one layer on `tokens` of every frame."""
    with torch.device("meta"):
        layer = Layer(config, updates_text=True).to(torch.bfloat16)
        k, s, d = config.views, config.text_tokens, config.width
        x, stream, c, text, actions = (
            torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True)
            for shape in ((1, t, k, tokens, d), (1, t, k, s, d), (1, t, d), (1, s, d), (1, t, d))
        )
    run = partial(checkpoint, layer, use_reentrant=False, preserve_rng_state=False) if config.checkpointing else layer

    def loss() -> Tensor:
        out, text_out = run(x, stream, c, text, actions if config.actions else None, rows, places)
        total: Tensor = out.sum() + text_out.sum()
        return total

    ids = () if places is None else (places.ids_keep, places.ids_hidden, places.ids_restore)
    return _count(loss, [*layer.parameters(), c, text, actions, *ids])


def step_cost(config: ModelConfig, t: int, size: tuple[int, int], mask: TokenMask | None) -> tuple[int, int]:
    """`count_step` in seconds for a deep model: layers of the encoder cost alike, and so do those of the decoder."""
    few = replace(config, depth=2, decoder_depth=1)
    unmasked = replace(few, reconstruction=False)  # F is not run: stages that only differ in it cost the same
    w, rows = (n // config.patch for n in _places(size)[::-1])
    decoder = _count_layer(unmasked, t, rows, rows * w)
    if mask is None:
        base, encoder = _count_unmasked(unmasked, t, size), decoder
    else:
        places = mask.to(torch.device("meta")) if (mask.kind, config.time_attention) == ("time", "masked") else None
        base, encoder = count_step(few, t, size, mask), _count_layer(unmasked, t, rows, mask.ids_keep.shape[-1], places)
    encoders, decoders = config.depth - config.decoder_depth - 1, config.decoder_depth - 1
    flops, kept = (b + encoders * e + decoders * d for b, e, d in zip(base, encoder, decoder, strict=True))
    return flops, kept


def _masks(config: ModelConfig, t: int, size: tuple[int, int]) -> list[tuple[float, TokenMask | None]]:
    """Every kind of batch with its probability."""
    if not config.reconstruction or not config.mask_kinds or config.mask_ratio == 0:
        return [(1.0, None)]
    shape, g = (1, t, config.views, *_places(size)), torch.Generator()
    masks = [draw_mask(*shape, replace(config, mask_kinds=(kind,)), g) for kind in config.mask_kinds]
    low, high = tau_quantiles(config.tau_shift, config.mask_tau)
    share = (high - low) * (1 - config.unmasked_share)
    return [(1 - share, None), *((share / len(masks), mask) for mask in masks)]


def stage_cost(recipe: Recipe, stage: Stage, gpu: str, utilisation: float) -> StageCost:
    """FLOPs, memory and GPU-days of a stage; ConfigError for an unknown GPU."""
    if gpu not in PEAK or not 0 < utilisation <= 1:
        raise ConfigError(f"--gpu knows {', '.join(PEAK)}, and --utilisation lies in (0, 1]; not {gpu}, {utilisation}")
    config = stage.model(recipe.model)
    flops = 0.0
    for t in stage.frames:
        for probability, mask in _masks(config, t, recipe.size):
            count, kept = step_cost(config, t, recipe.size, mask)
            flops += stage.batch * count * probability / len(stage.frames)
            if t == max(stage.frames) and mask is None:
                activations = kept
    days = stage.steps * flops / (PEAK[gpu] * utilisation) / DAY
    return StageCost(stage.name, stage.steps, stage.batch, flops, activations, days)


def sampling_cost(
    config: ModelConfig, t: int, size: tuple[int, int], steps: int, guidance: float, condition_frames: int
) -> float:
    """FLOPs of one new frame of a rollout: all passes over a window of t frames, and decoding."""
    two, three = (_count_pass(replace(config, depth=n, decoder_depth=1), t, size) for n in (2, 3))
    one_pass = two + (config.depth - 2) * (three - two)
    new = t - condition_frames
    with torch.device("meta"):
        model = WorldModel(config)
    decoding = 0
    if model.autoencoder is not None:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.decode(_inputs(config, new, _places(size), torch.float32)[0])
        decoding = int(counter.get_total_flops())
    return (one_pass * steps * (1 if guidance == 1 else 2) + decoding) / new


def _count_pass(config: ModelConfig, t: int, size: tuple[int, int]) -> int:
    """FLOPs of one pass over one sample, without gradients."""
    with torch.device("meta"):
        dit, tau = VideoDiT(config), torch.zeros(1, t)
    z, text, pooled, actions = _inputs(config, t, _places(size), torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        dit(z, tau, text, pooled, actions if config.actions else None)
    return int(counter.get_total_flops())
