"""gwm: a toolkit for the MaskGWM driving world model (arXiv 2502.11663)."""

__version__ = "0.1.0"


class GwmError(Exception):
    """A mistake that the user can mend: the message names the offending value and the remedy."""
