"""What a model is: its size and what it was trained on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gwm.core.config import ModelConfig, preset
from gwm.core.dit import Layer, VideoDiT
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import checkpoint_path, load_checkpoint


def count(module: nn.Module | None) -> int:
    """Number of parameters."""
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def parameters_by_part(model: WorldModel) -> dict[str, int]:
    """Parameters of every part of a world model; the parts add up to `total`."""
    dit: VideoDiT = model.dit
    layers: list[Layer] = [layer for layer in dit.layers if isinstance(layer, Layer)]
    in_blocks = sum(p.numel() for name, p in dit.named_parameters() if "action_kv" in name)
    parts = {
        "autoencoder": count(model.autoencoder),
        "text encoder": count(model.text),
        "spatial blocks": sum(count(layer.spatial) for layer in layers),
        "temporal blocks": sum(count(layer.temporal) for layer in layers) - in_blocks,
        "reconstruction": count(dit.reconstruction),
        "actions": count(dit.action_in) + in_blocks,
    }
    total = count(model)
    parts["embeddings and output"] = total - sum(parts.values())
    return {**parts, "total": total}


def describe_config(config: ModelConfig) -> dict[str, Any]:
    """Parameters by part, counted without memory for the weights, and the configuration."""
    with torch.device("meta"):
        model = WorldModel(config)
    return {"parameters": parameters_by_part(model), "config": asdict(config)}


def describe_preset(name: str) -> dict[str, Any]:
    """The same for a preset."""
    return {"preset": name, **describe_config(preset(name))}


def describe_checkpoint(given: Path | None) -> dict[str, Any]:
    """The same for a checkpoint, with its training record."""
    checkpoint = load_checkpoint(given)
    path = checkpoint_path(given)
    training = asdict(checkpoint.training)
    return {
        "checkpoint": checkpoint.name,
        "bytes": path.stat().st_size,
        "training": training,
        **describe_config(checkpoint.model.config),
    }
