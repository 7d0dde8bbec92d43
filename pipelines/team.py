"""The processes that train together: one, or those of `torchrun`, each with its part of every batch.

Each computes the gradient of its own windows; the sum over all is the gradient of the whole batch. Each holds the whole
model, or with `spread` a part of it (FSDP2, see `sharding`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gwm.core import ConfigError
from gwm.pipelines.sharding import is_spread, local

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Team:
    """This process among `size` of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    spread: bool = False  # weights, averages and moments are spread over the processes

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def part_of(self, batch: int, passes: int = 1) -> slice:
        """The windows of a batch that this process reads, in so many passes. ConfigError where that is uneven."""
        if batch % (self.size * passes):
            raise ConfigError(
                f"a batch of {batch} windows cannot be shared by {self.size} processes in {passes} passes each; "
                "it must divide"
            )
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all processes, in place; of a spread model the backward pass has done so."""
        if not self.spread:
            self.add(parameter.grad for parameter in parameters if parameter.grad is not None)

    def clip_gradients(self, parameters: Iterable[nn.Parameter], most: float) -> Tensor:
        """Scale all gradients down where their common norm exceeds `most`; returns the norm before, a scalar."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        parts = [local(gradient) for gradient in gradients]
        norm = torch.nn.utils.get_total_norm(parts)
        if is_spread(gradients):
            square = norm.square()
            self.add([square])
            norm = square.sqrt()
        torch._foreach_mul_(parts, (most / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Sum tensors of one dtype over all processes, in place and in one message."""
        if self.size > 1:
            own = list(tensors)
            flat = torch.cat([tensor.flatten() for tensor in own])
            dist.all_reduce(flat)
            for tensor, total in zip(own, flat.split([tensor.numel() for tensor in own]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def any(self, *here: bool) -> tuple[bool, ...]:
        """Which of these is so in any process."""
        if self.size == 1:
            return here
        flags = torch.tensor(here, dtype=torch.int32, device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in flags.tolist())

    def gather(self, own: list[Any]) -> list[Any]:
        """The lists of all processes, in their order."""
        if self.size == 1:
            return own
        lists: list[list[Any] | None] = [None] * self.size
        dist.all_gather_object(lists, own)
        return list(chain.from_iterable(part for part in lists if part is not None))

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The block runs in the leader, then in the others, which find what it wrote."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_team(device: torch.device, spread: bool = False, patience: timedelta | None = None) -> Iterator[Team]:
    """The team that `torchrun` started this process in, or this process alone.

    On a machine with several GPUs each process takes its own, unless `device` names one. patience: how long they wait
    for each other, torch's own where None. ConfigError where one process is to spread its model.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield Team(dist.get_rank(), dist.get_world_size(), device, spread)
        return
    if size == 1:
        if spread:
            raise ConfigError("--fsdp spreads a model over processes, and this is one: start several with --nproc")
        yield Team(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    try:
        yield Team(dist.get_rank(), size, device, spread)
    finally:
        dist.destroy_process_group()
