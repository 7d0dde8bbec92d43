"""Stable Diffusion 3's transformer in diffusers' layout <-> the parts of `VideoDiT` that are SD3's.

What differs: diffusers keeps queries, keys and values apart, patches with a convolution, stores the positions that are
computed here, and puts scale before shift in its "continuous" adaptive norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gwm.core import WeightsError
from gwm.core.config import ModelConfig
from gwm.core.dit import VideoDiT
from gwm.core.embed import grid_positions
from gwm.core.fit import misfits

POSITIONS = "pos_embed.pos_embed"


@dataclass(frozen=True)
class Link:
    """One tensor here, and the tensors there that it is made of, stacked along the first axis."""

    ours: str
    theirs: tuple[str, ...]
    swap: bool = False  # halves change places: (scale, shift) there, (shift, scale) here


def links(depth: int) -> list[Link]:
    """Every SD3 tensor of a transformer of `depth` blocks, positions aside."""
    layers: list[tuple[str, tuple[str, ...], bool]] = [
        ("patch_in", ("pos_embed.proj",), False),
        ("tau_in.layers.layers.0", ("time_text_embed.timestep_embedder.linear_1",), False),
        ("tau_in.layers.layers.2", ("time_text_embed.timestep_embedder.linear_2",), False),
        ("pooled_in.layers.0", ("time_text_embed.text_embedder.linear_1",), False),
        ("pooled_in.layers.2", ("time_text_embed.text_embedder.linear_2",), False),
        ("text_in", ("context_embedder",), False),
        ("modulation_out.linear", ("norm_out.linear",), True),
        ("patch_out", ("proj_out",), False),
    ]
    for i in range(depth):
        ours, theirs, last = f"layers.{i}.spatial", f"transformer_blocks.{i}", i == depth - 1
        layers += [
            (f"{ours}.modulation.linear", (f"{theirs}.norm1.linear",), False),
            (f"{ours}.text_modulation.linear", (f"{theirs}.norm1_context.linear",), last),
            (f"{ours}.qkv", tuple(f"{theirs}.attn.to_{x}" for x in "qkv"), False),
            (f"{ours}.text_qkv", tuple(f"{theirs}.attn.add_{x}_proj" for x in "qkv"), False),
            (f"{ours}.out", (f"{theirs}.attn.to_out.0",), False),
            (f"{ours}.mlp.0", (f"{theirs}.ff.net.0.proj",), False),
            (f"{ours}.mlp.2", (f"{theirs}.ff.net.2",), False),
        ]
        if not last:
            layers += [
                (f"{ours}.text_out", (f"{theirs}.attn.to_add_out",), False),
                (f"{ours}.text_mlp.0", (f"{theirs}.ff_context.net.0.proj",), False),
                (f"{ours}.text_mlp.2", (f"{theirs}.ff_context.net.2",), False),
            ]
    return [
        Link(f"{ours}.{part}", tuple(f"{name}.{part}" for name in theirs), swap)
        for ours, theirs, swap in layers
        for part in ("weight", "bias")
    ]


def positions(config: ModelConfig) -> Tensor:
    """diffusers' buffer of positions (1 grid² d)."""
    side = config.position_grid
    return grid_positions(side, side, config.width, side, config.position_base, torch.device("cpu"))[None]


def from_diffusers(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Tensors of diffusers' SD3Transformer2DModel, by the names of `VideoDiT`.

    Nothing is left over: WeightsError names every tensor that is missing, surplus or misshapen, and positions that
    differ.
    """
    with torch.device("meta"):
        empty = VideoDiT(config).state_dict()
    wanted = to_diffusers(empty, config)
    problems = misfits(tensors, wanted)
    if POSITIONS in tensors and tensors[POSITIONS].shape == wanted[POSITIONS].shape:
        stored = tensors[POSITIONS]
        worst = float((stored.float() - wanted[POSITIONS]).abs().max())
        if not worst <= max(1e-5, torch.finfo(stored.dtype).eps):  # of rounding to the stored precision
            problems.append(f"{POSITIONS} differs by up to {worst:.2g} from SD3's sines and cosines")
    if problems:
        raise WeightsError("this is not the SD3 transformer of its configuration: " + "; ".join(problems))
    return {link.ours: _gather(link, tensors) for link in links(config.depth)}


def to_diffusers(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The other way, for the SD3 part of a `VideoDiT`'s tensors; what the paper adds has no place there.

    WeightsError names what is missing.
    """
    table = links(config.depth)
    if missing := [link.ours for link in table if link.ours not in tensors]:
        raise WeightsError(f"the checkpoint holds no {', '.join(missing)}")
    out = {POSITIONS: positions(config).to(tensors[table[0].ours].dtype)}
    for link in table:
        x = tensors[link.ours]
        x = torch.cat(x.chunk(2)[::-1]) if link.swap else x
        if link.ours == "patch_in.weight":
            x = x.unflatten(1, (config.channels, config.patch, config.patch))
        out |= {name: part.clone() for name, part in zip(link.theirs, x.chunk(len(link.theirs)), strict=True)}
    return out


def _gather(link: Link, tensors: Mapping[str, Tensor]) -> Tensor:
    x = torch.cat([tensors[name] for name in link.theirs])
    x = x.flatten(1) if link.ours == "patch_in.weight" else x
    return torch.cat(x.chunk(2)[::-1]) if link.swap else x
