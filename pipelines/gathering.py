"""Features as they come: their statistics in blocks, and a uniform sample of them."""

from __future__ import annotations

import numpy as np

from gwm.core.frechet import GaussianStats
from gwm.pipelines.feature_file import Features

BLOCK = 1024  # features that enter the statistics together
SAMPLE = 10_000  # most features that a kernel distance draws from


class Statistics:
    """Count, mean and scatter of features (n, d), fed a few at a time."""

    def __init__(self) -> None:
        self._stats: GaussianStats | None = None
        self._waiting: list[Features] = []
        self._held = 0

    def add(self, features: Features) -> None:
        """Count some more."""
        self._waiting.append(features)
        self._held += len(features)
        if self._held >= BLOCK:
            self._enter()

    def done(self) -> GaussianStats:
        """Of all that were added, at least once."""
        self._enter()
        assert self._stats is not None
        return self._stats

    def _enter(self) -> None:
        if self._waiting:
            block = np.concatenate(self._waiting)
            self._stats = GaussianStats.of(block) if self._stats is None else self._stats.update(block)
            self._waiting, self._held = [], 0


class Sample:
    """At most SAMPLE features, drawn uniformly in one pass (Vitter 1985); the same of as many, whatever they are."""

    def __init__(self) -> None:
        self._kept: list[Features] = []
        self._seen = 0
        self._draw = np.random.default_rng(0)

    def add(self, features: Features) -> None:
        """Consider some more (n, d)."""
        for feature in features:
            if self._seen < SAMPLE:
                self._kept.append(feature.copy())  # a view would keep all of `features`
            elif (place := int(self._draw.integers(self._seen + 1))) < SAMPLE:
                self._kept[place] = feature.copy()
            self._seen += 1

    def drawn(self) -> Features:
        """(m, d)"""
        return np.stack(self._kept)
