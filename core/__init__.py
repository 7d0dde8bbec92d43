"""Mathematics and networks. Knows no files, no shards, no loops."""

from gwm import GwmError


class ConfigError(GwmError):
    """A value in a model, mask, sampler or training configuration that cannot be."""


class WeightsError(GwmError):
    """Weights that are missing, damaged, or belong to another configuration."""
