"""Datasets -> shards -> batches. Knows no network."""

from gwm import GwmError


class ShardError(GwmError):
    """A shard, an index or an output folder that cannot be read or written."""


class SourceError(GwmError):
    """A source video, image or table that cannot be read."""
