"""What a model is: its size and what it was trained on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gwm.core.config import ModelConfig
from gwm.core.dit import Layer, VideoDiT
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import (
    FORMAT,
    checkpoint_name,
    checkpoint_path,
    load_header,
    read_config,
    read_training,
)
from gwm.pipelines.cost import PAPER_GPU, PAPER_STAGE_1_DAYS, STATE_BYTES, sampling_cost, stage_cost, step_cost
from gwm.pipelines.recipe import make_recipe
from gwm.pipelines.rollout import RolloutSettings


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
        "view blocks": sum(count(layer.view) for layer in layers),
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


def describe_recipe(variant: str, preset_name: str, gpu: str, utilisation: float) -> dict[str, Any]:
    """Size and cost of a recipe: parameters, FLOPs, activation memory, and GPU-days of every stage."""
    recipe = make_recipe(variant, preset_name, 1.0, 0)
    last = recipe.stages[-1]
    model, costs = last.model(recipe.model), [stage_cost(recipe, stage, gpu, utilisation) for stage in recipe.stages]
    new_frame = sampling_cost(
        model, max(last.frames), recipe.size, RolloutSettings.steps, recipe.guidance, RolloutSettings.condition_frames
    )
    described = describe_config(model)
    trained = described["parameters"]["total"] - described["parameters"]["autoencoder"]
    out = {
        "variant": variant,
        "preset": preset_name,
        **described,
        "flops_per_sampled_frame": new_frame,
        "state_bytes": trained * STATE_BYTES,
        "gpu": gpu,
        "utilisation": utilisation,
        "stages": {cost.stage: asdict(cost) for cost in costs},
    }
    if preset_name == "sd3-medium" and gpu == PAPER_GPU:
        out["stage_1_gpu_days"] = sum(cost.gpu_days for cost in costs if cost.stage.startswith("1"))
        out["stage_1_a800_days_of_the_paper"] = PAPER_STAGE_1_DAYS
    return out


def describe_checkpoint(given: Path | None) -> dict[str, Any]:
    """The same for a checkpoint, with its training record; only the file's header is read."""
    path = checkpoint_path(given)
    header = load_header(path, FORMAT)
    config, training = read_config(header), read_training(header)
    t, condition = training.frames, min(RolloutSettings.condition_frames, training.frames - 1)
    flops, kept = step_cost(config, t, training.size, None)
    return {
        "checkpoint": checkpoint_name(given),
        "bytes": path.stat().st_size,
        "training": asdict(training),
        "flops_per_training_sample": flops,
        "flops_per_sampled_frame": sampling_cost(
            config, t, training.size, training.sampling_steps, training.guidance, condition
        ),
        "activation_bytes_per_sample": kept,
        **describe_config(config),
    }
