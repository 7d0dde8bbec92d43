"""Weight files of the standard networks' names and shapes, with random numbers in them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gwm.pipelines import network_files
from gwm.pipelines.network_files import digests


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that keep a signal's size through the network, and norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            fan = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan) ** 0.5, generator=generator)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.weight.data.uniform_(0.7, 1.3, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.7, 1.3, generator=generator)
    return network.eval().requires_grad_(False)


def install(monkeypatch: pytest.MonkeyPatch, store: Path, record: str, content: object) -> None:
    """Save `content` as the file of a record of network_files, and expect its bytes instead of the public file's."""
    known = getattr(network_files, record)
    store.mkdir(exist_ok=True)
    torch.save(content, store / known.file)
    expect(monkeypatch, store, record)


def expect(monkeypatch: pytest.MonkeyPatch, store: Path, record: str) -> None:
    """Take the bytes that lie in `store` for the right ones."""
    known = getattr(network_files, record)
    changed = replace(known, sha256=digests(store / known.file).sha256, git_blob="")
    monkeypatch.setattr(network_files, record, changed)
    monkeypatch.setattr(network_files, "KNOWN", tuple(changed if k is known else k for k in network_files.KNOWN))


def names_digest(state: dict[str, Tensor]) -> str:
    """Of all names and shapes."""
    lines = sorted(f"{name} {tuple(x.shape)}" for name, x in state.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
