"""A model spread over processes by PyTorch's FSDP2, and its training state, each process writing its own part."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gwm.core import WeightsError
from gwm.core.world_model import WorldModel

HEADER = "gwm.json"  # of a state's folder


def shard_model(model: WorldModel, device: torch.device) -> WorldModel:
    """Keep of each trained tensor this process's part on `device`; a block is gathered while it works.

    Gradients are summed over the processes, not averaged: the loss is a sum over them.
    """
    # every call warns that a block's output is a view: harmless, as nothing changes it in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    branches = model.dit.reconstruction
    blocks = [*model.dit.layers, *([] if branches is None else [*branches.spatial, *branches.temporal])]
    for module in (*blocks, model.dit, *([] if model.text is None else [model.text])):
        fully_shard(module, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot divide
    return model


def reshard(model: nn.Module) -> None:
    """Let go of what a forward pass without a backward pass gathered, as after weights were changed in place."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; of one that is not spread, all of it. It shares the memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """All of every tensor in fp16 on the CPU, or nothing where this process does not `keep` them; all have to ask."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            found[name] = full.to("cpu", torch.float16)
    return found


def place(into: Tensor, values: Tensor) -> None:
    """Copy a whole tensor into one of the same shape that may be spread."""
    if isinstance(into, DTensor):
        values = distribute_tensor(values.to(into.device), into.device_mesh, into.placements, src_data_rank=None)
    into.copy_(values)


def is_spread(tensors: Iterable[Tensor]) -> bool:
    """Whether any of them is spread over processes."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def save_sharded(folder: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a state as a folder of torch.distributed.checkpoint; complete or absent. Every process calls this.

    Raises WeightsError in all of them where one cannot write.
    """
    leads, temporary = dist.get_rank() == 0, folder.with_name(f".{folder.name}.tmp")
    if leads:
        shutil.rmtree(temporary, ignore_errors=True)
    dist.barrier()
    failure: list[str | None] = [None]
    try:
        state_dict_saver.save(dict(tensors), checkpoint_id=temporary)
    except CheckpointException as error:
        failure[0] = _reason(error)
    if leads and failure[0] is None:
        try:
            sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
            (temporary / HEADER).write_text(json.dumps({**header, "files": sizes}))
            temporary.replace(folder)
            _sync(folder.parent)
        except OSError as error:
            failure[0] = str(error.strerror or error)
    dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        if leads:
            shutil.rmtree(temporary, ignore_errors=True)
        raise WeightsError(f"cannot write {folder}: {failure[0]}")


def read_header(folder: Path, expect: str) -> dict[str, Any]:
    """The header of a folder of `save_sharded`; WeightsError where a file is missing or shorter than it was written."""
    try:
        header: dict[str, Any] = json.loads((folder / HEADER).read_text())
        sizes = dict(header["files"])
        found = {name: (folder / name).stat().st_size for name in sizes}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder} is no readable training state ({error})") from error
    if header.get("format") != expect:
        raise WeightsError(f"{folder} is no {expect} but {header.get('format')!r}")
    if bad := [
        f"{name} has {found[name]} bytes instead of {size}" for name, size in sizes.items() if found[name] != size
    ]:
        raise WeightsError(f"{folder} is damaged: {'; '.join(bad)}")
    return header


def names_in(folder: Path) -> set[str]:
    """The tensors in a folder of `save_sharded`."""
    return set(FileSystemReader(folder).read_metadata().state_dict_metadata)


def load_sharded(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fill tensors, spread in any way or not at all, from a folder of `save_sharded`. Every process calls this."""
    try:
        state_dict_loader.load(dict(into), checkpoint_id=folder)
    except CheckpointException as error:
        raise WeightsError(f"{folder} is damaged: {_reason(error)}") from error


def _reason(error: CheckpointException) -> str:
    first = next(iter(error.failures.values()))[0]
    return str(getattr(first, "strerror", None) or first)


def _sync(folder: Path) -> None:
    """Make a rename last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
