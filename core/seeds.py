"""Random numbers that depend on what they are for, never on what was drawn before."""

from __future__ import annotations

import numpy as np
import torch


def seeded_generator(*seed: int) -> torch.Generator:
    """The CPU generator of one purpose, from (seed, rank, stage, step) in training, (seed, window) in a rollout."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
