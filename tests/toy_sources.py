"""Small datasets with captions and latents, and an autoencoder for them, for the tests of what training reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from conftest import TINY, tiny_chunk
from toy_shards import write

from gwm.core.autoencoder import Autoencoder
from gwm.pipelines.checkpoint import save_tensors
from gwm.pipelines.latent_shards import LatentEncoder, write_latents
from gwm.pipelines.state import newest_state
from gwm.shards.schema import Caption


def small_autoencoder() -> Autoencoder:
    """The same at every call."""
    torch.manual_seed(1)
    return Autoencoder(TINY.channels, TINY.autoencoder_width).requires_grad_(False)


def autoencoder_file(folder: Path) -> Path:
    """That one, as `gwm autoencoder` writes it."""
    header = {"format": "gwm-autoencoder", "channels": TINY.channels, "width": TINY.autoencoder_width}
    save_tensors(folder / "autoencoder.safetensors", small_autoencoder().state_dict(), header)
    return folder / "autoencoder.safetensors"


def captioned(i: int, **changes):
    """A chunk whose first frames are said to be something else."""
    said = (Caption(0, 12, "a bend"), Caption(12, 30, "a straight road"))
    return replace(tiny_chunk(i, split="val" if i == 4 else "train"), captions=said if i % 2 else (), **changes)


def dataset(folder: Path, first: int = 0, source: str | None = None, per_shard: int = 2) -> Path:
    """Five chunks in shards of their own kind."""
    write(folder, [captioned(first + i) for i in range(5)], per_shard)
    if source is not None:
        fields = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**fields, "source": source}))
    return folder


def with_latents(path: Path, network, **changes) -> Path:
    write_latents(path, replace(LatentEncoder("a checkpoint", network, None, "none: nano's own"), **changes))
    return path


def state_of(run: Path):
    state = newest_state(run)
    assert state is not None
    return state[0]


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())
