"""What an evaluation needs, at its smallest: shards that pass for Waymo's, and a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import TINY, tiny_chunk, tiny_recipe
from toy_shards import write

from gwm.core.config import ModelConfig
from gwm.core.world_model import WorldModel
from gwm.pipelines.checkpoint import Training, save_checkpoint
from gwm.shards.index import DATASET_FILE


def write_waymo(out: Path, samples: int = 6, frames: int = 30, source: str = "waymo") -> Path:
    """Samples for validation, of 30 frames one clip of 25 each; or what passes for another dataset."""
    write(out, [tiny_chunk(i, frames, "val") for i in range(samples)])
    file = out / DATASET_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "source": source}))
    return out


def save_tiny(path: Path, *data: str, config: ModelConfig = TINY) -> Path:
    """The checkpoint of a tiny model that was trained on `data`."""
    torch.manual_seed(0)
    save_checkpoint(path, config, WorldModel(config).state_dict(), Training(tiny_recipe().size, 6, data=data))
    return path
