"""What is measured between two logged steps: losses by what was predicted, and where the time goes.

Sums stay on the device until a line is logged, so that no step waits for them.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from einops import reduce
from torch import Tensor

from gwm.core.world_model import Draw
from gwm.pipelines.metrics import TAU_BUCKETS, Losses


class LossMeter:
    """Sums of errors and their weights by τ, by frame, and of visible and hidden tokens."""

    def __init__(self, frames: int, device: torch.device) -> None:
        """`frames`: the longest window's."""
        parts = {"tau": TAU_BUCKETS, "frame": frames, "token": 2, "all": 1}
        self.sums = {name: torch.zeros(2, n, device=device) for name, n in parts.items()}  # of errors, of weights
        self.empty = True

    @torch.no_grad()
    def add(self, errors: Tensor, draw: Draw, patch: int) -> None:
        """Errors (b t k h w) of one batch. Condition frames have no part in anything."""
        self.empty = False
        per_frame, weight = errors.mean(dim=(2, 3, 4)), draw.m_c  # b t
        both = torch.stack([per_frame * weight, weight])  # 2 b t
        bucket = (draw.tau * TAU_BUCKETS).long().clamp(0, TAU_BUCKETS - 1)
        self.sums["tau"].index_add_(1, bucket.flatten(), both.flatten(1))
        self.sums["frame"][:, : both.shape[2]] += both.sum(dim=1)
        self.sums["all"] += both.sum(dim=(1, 2))[:, None]
        if draw.mask is not None:
            tokens = reduce(errors, "b t k (h p) (w q) -> b t k (h w)", "mean", p=patch, q=patch)
            hidden = draw.mask.mask.to(tokens.dtype)
            for i, chosen in enumerate((1 - hidden, hidden)):
                chosen = chosen * weight[:, :, None, None]
                self.sums["token"][:, i] += torch.stack([(tokens * chosen).sum(), chosen.sum()])

    def take(self) -> tuple[float, Losses, Losses, Losses]:
        """Mean loss; by τ; by frame; of visible and hidden tokens; None where nothing fell. Starts anew."""
        means = {name: _means(*sums.tolist()) for name, sums in self.sums.items()}
        for sums in self.sums.values():
            sums.zero_()
        self.empty = True
        loss = means["all"][0]
        assert loss is not None, "no step was added"
        frames = means["frame"]
        last = max((i for i, value in enumerate(frames) if value is not None), default=-1)
        return loss, means["tau"], frames[: last + 1], means["token"]


def _means(sums: list[float], weights: list[float]) -> Losses:
    return tuple(s / w if w > 0 else None for s, w in zip(sums, weights, strict=True))


class Clock:
    """Time since the last logged line, and the part of it spent waiting for data."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.began = time.monotonic()
        self.waited, self.steps, self.tokens = 0.0, 0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what gets a batch."""
        began = time.monotonic()
        yield
        self.waited += time.monotonic() - began

    def count(self, tokens: int) -> None:
        """One more step of so many tokens."""
        self.steps, self.tokens = self.steps + 1, self.tokens + tokens

    def take(self) -> tuple[float, float, float]:
        """Seconds per step, share of the time that was waiting for data, tokens per second. Starts anew."""
        seconds = time.monotonic() - self.began
        values = seconds / max(self.steps, 1), self.waited / seconds, self.tokens / seconds
        self._start()
        return values


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU what PyTorch allocated at most, else the process's largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
