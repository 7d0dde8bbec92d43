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

    WeightsError where something is missing, there twice or damaged; pickles are refused.
    """
    config = _json(folder / "config.json", f"{folder} is no diffusers model folder")
    indices = sorted(folder.glob(f"{WEIGHTS}*.safetensors.index*.json"))
    indexed = _json(indices[0]).get("weight_map") if indices else {}
    if not isinstance(indexed, dict) or not all(isinstance(x, str) for x in indexed.values()):
        raise WeightsError(f"{indices[0]} is damaged: its weight_map does not map tensors to files")
    names = set(indexed.values())
    others = {p.name for p in folder.glob(f"{WEIGHTS}*.safetensors")} - names
    if len(indices) + len(others) > 1:
        versions = ", ".join(sorted({p.name for p in indices} | others))
        raise WeightsError(f"{folder} holds several versions of the weights ({versions}); leave one of them")
    if not (names := names or others):
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        found = f"only pickles ({', '.join(pickles)}), which gwm does not read" if pickles else "no weights"
        raise WeightsError(f"{folder} holds {found}; download the safetensors version")
    tensors: dict[str, Tensor] = {}
    for name in sorted(names):
        try:
            with safe_open(folder / name, framework="pt") as f:
                held = set(f.keys())
                if indexed and held != (listed := {k for k, v in indexed.items() if v == name}):
                    wrong = ", ".join(sorted(held ^ listed))
                    raise WeightsError(f"{folder / name} and {indices[0].name} disagree on {wrong}")
                tensors |= {k: f.get_tensor(k) for k in held}
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{folder / name} is not a readable safetensors file ({error})") from error
    return tensors, config


def _json(path: Path, otherwise: str = "") -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise WeightsError(f"{otherwise}: no {path.name} in it") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} is damaged: not a JSON object")
    return value


def transformer_config(config: dict[str, Any]) -> ModelConfig:
    """The ModelConfig, without the paper's parts, of diffusers' SD3Transformer2DModel configuration."""
    if config.get("qk_norm") or config.get("dual_attention_layers"):
        raise WeightsError("this is SD 3.5's transformer (qk_norm, dual_attention_layers); the paper's is SD3-medium")
    names = (
        "num_attention_heads", "attention_head_dim", "num_layers", "patch_size", "in_channels", "out_channels",
        "sample_size", "joint_attention_dim", "caption_projection_dim", "pooled_projection_dim", "pos_embed_max_size",
    )  # fmt: skip
    if wrong := [f"{x} = {config.get(x)!r}" for x in names if type(config.get(x)) is not int or config[x] < 1]:
        raise WeightsError(f"the transformer's config.json has no whole number of at least 1 in {', '.join(wrong)}")
    heads, patch, depth = config["num_attention_heads"], config["patch_size"], config["num_layers"]
    width = heads * config["attention_head_dim"]
    if width != config["caption_projection_dim"] or config["in_channels"] != config["out_channels"]:
        raise WeightsError("caption_projection_dim or out_channels differ from the transformer's own: no SD3")
    medium = preset("sd3-medium")
    return replace(
        medium, width=width, heads=heads, depth=depth, patch=patch, channels=config["in_channels"], encoders="none",
        decoder_depth=max(1, round(depth * medium.decoder_depth / medium.depth)),
        text_width=config["joint_attention_dim"], pooled_width=config["pooled_projection_dim"],
        position_grid=config["pos_embed_max_size"], position_base=config["sample_size"] // patch,
        temporal=False, reconstruction=False, actions=False,
    )  # fmt: skip


def import_sd3(folder: Path, out: Path) -> ImportResult:
    """Read an SD3 folder (the pipeline's, or its transformer alone) into `out`/model.safetensors, strictly.

    The checkpoint is the paper's starting point: the spatial blocks, without what stages 1b to 3 add.
    """
    if not folder.is_dir():
        raise WeightsError(f"no folder at {folder}; give a local copy of SD3-medium in diffusers' layout")
    if (out / "recipe.json").exists():
        raise WeightsError(f"{out} holds a training run, whose checkpoint an import would replace; choose another -o")
    whole = folder.parent if folder.name == "transformer" else folder
    transformer = whole / "transformer" if (whole / "transformer").is_dir() else folder
    text_encoders = _try_text_encoders(whole)  # first, and forgotten: T5 alone is larger than the transformer
    tensors, found = read_folder(transformer)
    config = transformer_config(found)
    weights = {f"dit.{name}": x for name, x in from_diffusers(tensors, config).items()}
    placed = sum(x.numel() for x in weights.values())
    autoencoder = whole / "vae"
    if autoencoder.is_dir():
        config = replace(config, encoders="sd3")
        weights |= {f"autoencoder.{name}": x for name, x in read_autoencoder(autoencoder).items()}
    with torch.device("meta"):
        grown = VideoDiT(replace(config, temporal=True, reconstruction=True, actions=True, views=6))
    new = tuple(name for name in grown.state_dict() if f"dit.{name}" not in weights)
    path = make_folder(out) / "model.safetensors"
    training = Training((512, 288), 1, preset="sd3-medium", stages={}, data=(f"SD3 weights of {whole.name}",))
    save_checkpoint(path, config, weights, training)
    return ImportResult(str(path), placed, autoencoder.is_dir(), text_encoders, new)


def read_autoencoder(folder: Path) -> dict[str, Tensor]:
    """The tensors of `vae/` in diffusers' layout, by `SD3Autoencoder`'s names. WeightsError for another autoencoder."""
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
    if others := [p.name for p in out.glob(f"{WEIGHTS}*") if p != file]:
        raise WeightsError(f"{out} holds other weights ({', '.join(others)}); choose another -o")
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
