"""What a training step and a sampled frame cost: counted by PyTorch on the meta device, without memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from gwm.core import ConfigError
from gwm.core.config import AUTOENCODER_FACTOR, ModelConfig
from gwm.core.dit import VideoDiT
from gwm.core.flow import tau_quantiles
from gwm.core.mask import TokenMask
from gwm.core.world_model import Draw, WorldModel, draw_mask, training_loss
from gwm.pipelines.recipe import Recipe, Stage

PEAK = {  # dense bf16 FLOP/s of the datasheets
    "A100": 312e12, "A800": 312e12, "H100": 989e12, "H800": 989e12, "H200": 989e12, "L40S": 362e12, "RTX4090": 165e12,
}  # fmt: skip
DAY = 86_400.0  # s
STATE_BYTES = 20  # per trained parameter: fp32 weight, gradient, two Adam moments and the average
PAPER_STAGE_1_DAYS = 32 * 3  # A800-days, section 7.2


class FusedAttention(TorchFunctionMode):
    """Attention as on a GPU: on the meta device PyTorch would take its plain form, which keeps n x n matrices."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and args[3:] in ((), (None,)) and not kwargs:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args[:3])[0]
        return func(*args, **(kwargs or {}))


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


@lru_cache(maxsize=256)
def _count_unmasked(config: ModelConfig, t: int, size: tuple[int, int]) -> tuple[int, int]:
    return count_step(config, t, size, None)


def count_step(config: ModelConfig, t: int, size: tuple[int, int], mask: TokenMask | None) -> tuple[int, int]:
    """FLOPs of forward and backward, and bytes kept between them (weights aside), for one bf16 sample of t frames."""
    with torch.device("meta"):
        dit = VideoDiT(config).to(torch.bfloat16)
    z, text, pooled, actions = _inputs(config, t, _places(size), torch.bfloat16)
    tau = torch.zeros(1, t, device="meta", dtype=torch.bfloat16)
    draw = Draw(tau, tau, z, None if mask is None else mask.to(torch.device("meta")))
    weights = {p.untyped_storage()._cdata for p in dit.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage()._cdata not in weights:
            kept[x.untyped_storage()._cdata] = x  # held, so that no other storage takes its address
        return x

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
    with FusedAttention(), FlopCounterMode(display=False) as counter, hooks:
        loss = training_loss(dit, z, text, pooled, actions if config.actions else None, draw)
        size_kept = sum(x.untyped_storage().nbytes() for x in kept.values())
        kept.clear()
        loss.backward()
    return counter.get_total_flops(), size_kept


def step_cost(config: ModelConfig, t: int, size: tuple[int, int], mask: TokenMask | None) -> tuple[int, int]:
    """The same, in seconds for a deep model: layers of encoder and decoder cost alike, so few are counted."""

    def of(encoder: int, decoder: int) -> tuple[int, int]:
        few = replace(config, depth=encoder + decoder, decoder_depth=decoder)
        if mask is None:  # without a mask F is not run: stages that only differ in it cost the same
            return _count_unmasked(replace(few, reconstruction=False), t, size)
        return count_step(few, t, size, mask)

    base, deeper_encoder = of(1, 1), of(2, 1)
    deeper_decoder = deeper_encoder if mask is None else of(1, 2)
    encoder, decoder = config.depth - config.decoder_depth - 1, config.decoder_depth - 1
    flops, kept = (
        b + encoder * (e - b) + decoder * (d - b) for b, e, d in zip(base, deeper_encoder, deeper_decoder, strict=True)
    )
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
    with torch.device("meta"):
        model = WorldModel(config)
    z, text, pooled, actions = _inputs(config, t, _places(size), torch.float32)
    new = t - condition_frames
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.dit(z, torch.zeros(1, t, device="meta"), text, pooled, actions if config.actions else None)
        one_pass = int(counter.get_total_flops())
        if model.autoencoder is not None:
            model.decode(z[:, :new])
        decoding = int(counter.get_total_flops()) - one_pass
    return (one_pass * steps * (1 if guidance == 1 else 2) + decoding) / new
