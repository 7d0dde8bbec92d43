"""Whether tensors from a file fit a module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def misfits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Every tensor that is missing, surplus or of another shape than in `wanted`, in words."""
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"surplus {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tuple(x.shape)}, not {tuple(wanted[name].shape)}"
        for name, x in tensors.items()
        if name in wanted and x.shape != wanted[name].shape
    ]
    return problems
