"""Stable Diffusion 3's weights: from a diffusers folder into a checkpoint of gwm, and back."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gwm.core import WeightsError
from gwm.core.config import ModelConfig, preset
from gwm.core.dit import VideoDiT
from gwm.core.fit import misfits
from gwm.core.sd3 import from_diffusers, links, to_diffusers
from gwm.core.sd3_autoencoder import CONFIG as AUTOENCODER_CONFIG
from gwm.core.sd3_autoencoder import SCALE, SHIFT, SD3Autoencoder
from gwm.pipelines.checkpoint import (
    FORMAT,
    Training,
    checkpoint_path,
    load_tensors,
    read_config,
    save_checkpoint,
    save_tensors,
)
from gwm.pipelines.sd3_text import SD3TextEncoder
from gwm.shards.files import make_folder, write_json

WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class ImportResult:
    """What an import found."""

    checkpoint: str
    parameters: int  # the transformer's, all placed
    autoencoder: bool  # whether vae/ was there, beside transformer/
    text_encoders: str  # "read", "absent", or why they were not read; they stay where they are
    new: tuple[str, ...]  # tensors that the paper adds, absent from the checkpoint; training initialises them


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and the configuration of a diffusers model folder: one safetensors file or an index of several.

    WeightsError where something is missing, doubled or damaged; pickles are refused.
    """
    config = _json(folder / "config.json", f"{folder} is no diffusers model folder")
    index = sorted(folder.glob(f"{WEIGHTS}*.safetensors.index.*json"))
    files = sorted(folder.glob(f"{WEIGHTS}*.safetensors"))
    if index:
        named = _json(index[0], "")["weight_map"]
        files = [folder / name for name in sorted(set(named.values()))]
    elif len(files) > 1:
        names = ", ".join(f.name for f in files)
        raise WeightsError(f"{folder} holds several versions of the weights ({names}); leave one of them")
    if not files:
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        found = f"only pickles ({', '.join(pickles)}), which gwm does not read" if pickles else "no weights"
        raise WeightsError(f"{folder} holds {found}; download the safetensors version")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as f:
                tensors |= {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  (not a dict)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{file} is not a readable safetensors file ({error})") from error
    if index and (lost := sorted(named.keys() - tensors.keys())):
        raise WeightsError(f"{index[0]} names tensors that its files do not hold: {', '.join(lost)}")
    return tensors, config


def _json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise WeightsError(f"{otherwise}: no {path.name} in it") from None
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} is damaged: {error}") from error


def transformer_config(config: dict[str, Any]) -> ModelConfig:
    """The ModelConfig, without the paper's parts, of diffusers' SD3Transformer2DModel configuration."""
    if config.get("qk_norm") or config.get("dual_attention_layers"):
        raise WeightsError("this is SD 3.5's transformer (qk_norm, dual_attention_layers); the paper's is SD3-medium")
    try:
        heads, patch = config["num_attention_heads"], config["patch_size"]
        width, depth = heads * config["attention_head_dim"], config["num_layers"]
        if width != config["caption_projection_dim"] or config["in_channels"] != config["out_channels"]:
            raise WeightsError("caption_projection_dim and out_channels differ from the transformer's own: no SD3")
        medium = preset("sd3-medium")
        return replace(
            medium, width=width, heads=heads, depth=depth, patch=patch, channels=config["in_channels"],
            decoder_depth=max(1, round(depth * medium.decoder_depth / medium.depth)),
            text_width=config["joint_attention_dim"], pooled_width=config["pooled_projection_dim"],
            position_grid=config["pos_embed_max_size"], position_base=config["sample_size"] // patch,
            temporal=False, reconstruction=False, actions=False,
        )  # fmt: skip
    except KeyError as error:
        raise WeightsError(f"the transformer's config.json has no {error}") from error


def import_sd3(folder: Path, out: Path) -> ImportResult:
    """Read an SD3 folder (the pipeline's, or its transformer alone) into `out`/model.safetensors, strictly.

    The checkpoint is the paper's starting point: the spatial blocks, without what stages 1b to 3 add.
    """
    if not folder.is_dir():
        raise WeightsError(f"no folder at {folder}; give a local copy of SD3-medium in diffusers' layout")
    transformer = folder / "transformer" if (folder / "transformer").is_dir() else folder
    autoencoder = transformer.parent / "vae"
    tensors, found = read_folder(transformer)
    config = transformer_config(found)
    weights = from_diffusers(tensors, config)
    with torch.device("meta"):
        whole = VideoDiT(replace(config, temporal=True, reconstruction=True, actions=True))
    placed = sum(x.numel() for x in weights.values())
    weights = {f"dit.{name}": x for name, x in weights.items()}
    if autoencoder.is_dir():
        weights |= {f"autoencoder.{name}": x for name, x in _read_autoencoder(autoencoder).items()}
    else:
        config = replace(config, encoders="none")
    text_encoders = _try_text_encoders(transformer.parent)
    new = tuple(name for name in whole.state_dict() if f"dit.{name}" not in weights)
    path = make_folder(out) / "model.safetensors"
    training = Training((512, 288), 1, preset="sd3-medium", stages={}, data=(f"SD3 weights of {folder.name}",))
    dtype = weights["dit.patch_in.weight"].dtype
    save_checkpoint(path, config, weights, training, dtype)
    return ImportResult(str(path), placed, autoencoder.is_dir(), text_encoders, new)


def _read_autoencoder(folder: Path) -> dict[str, Tensor]:
    tensors, config = read_folder(folder)
    wanted = {**AUTOENCODER_CONFIG, "scaling_factor": SCALE, "shift_factor": SHIFT}
    if other := [f"{k} = {config.get(k)}, not {v}" for k, v in wanted.items() if config.get(k) != v]:
        raise WeightsError(f"{folder} is not SD3's autoencoder: {'; '.join(other)}")
    with torch.device("meta"):
        empty = SD3Autoencoder().kl.state_dict()
    if problems := misfits(tensors, empty):
        raise WeightsError(f"{folder} is not SD3's autoencoder: {'; '.join(problems)}")
    return {f"kl.{name}": x for name, x in tensors.items()}


def _try_text_encoders(folder: Path) -> str:
    if not (folder / "text_encoder").is_dir():
        return "absent"
    if find_spec("transformers") is None:
        return "not read: pip install 'gwm[sd3]'"
    SD3TextEncoder(folder, torch.device("cpu"))
    return "read"


def export_sd3(checkpoint: Path, out: Path) -> dict[str, Any]:
    """Write the SD3 part of a checkpoint's transformer as a diffusers model folder; what the paper adds is left out."""
    tensors, header = load_tensors(checkpoint_path(checkpoint), FORMAT)
    config = read_config(header)
    ours = {name.removeprefix("dit."): x for name, x in tensors.items() if name.startswith("dit.")}
    written = to_diffusers(ours, config)
    file = make_folder(out) / f"{WEIGHTS}.safetensors"
    save_tensors(file, written, {"format": "sd3-transformer"})
    write_json(
        out / "config.json",
        {
            "_class_name": "SD3Transformer2DModel", "sample_size": config.position_base * config.patch,
            "patch_size": config.patch, "in_channels": config.channels, "out_channels": config.channels,
            "num_layers": config.depth, "num_attention_heads": config.heads,
            "attention_head_dim": config.width // config.heads, "joint_attention_dim": config.text_width,
            "caption_projection_dim": config.width, "pooled_projection_dim": config.pooled_width,
            "pos_embed_max_size": config.position_grid,
        },
    )  # fmt: skip
    left = len(ours) - len(links(config.depth))
    return {"folder": str(out), "tensors": len(written), "left out": left}


def summarize(names: tuple[str, ...]) -> list[str]:
    """Tensor names with layer numbers folded: "layers.*.temporal.qkv.weight (24)"."""
    folded = Counter(re.sub(r"\.\d+\.", ".*.", name, count=1) for name in names)
    return [f"{name} ({count})" for name, count in folded.items()]
