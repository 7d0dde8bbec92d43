"""Training state on disk, so that a resumed run repeats an unbroken one (on a CPU, bit for bit)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gwm.core import WeightsError
from gwm.pipelines.checkpoint import load_tensors, load_weights, save_tensors
from gwm.pipelines.progress import console

FORMAT = "gwm-training-state"
KEPT = 2  # newest states on disk


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def state_files(run: Path) -> list[Path]:
    """The states of a run, newest first."""
    return sorted((run / "states").glob("state-*.safetensors"), reverse=True)


def save_state(
    run: Path, position: int, model: nn.Module, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor], **header: Any
) -> None:
    """Write weights, EMA and Adam moments as `states/state-<position>.safetensors`; drop all but the newest two."""
    tensors = {f"model.{k}": t for k, t in model.state_dict().items()}
    tensors |= {f"ema.{k}": t for k, t in ema.items()}
    for name, parameter in trainable(model).items():
        tensors |= {f"adam.{key}.{name}": t for key, t in optimizer.state.get(parameter, {}).items()}
    (run / "states").mkdir(exist_ok=True)
    path = run / "states" / f"state-{position:09d}.safetensors"
    save_tensors(path, tensors, {"format": FORMAT, "position": position, **header})
    for old in state_files(run)[KEPT:]:
        old.unlink()


def newest_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest readable state of a run; a damaged one is skipped with a warning. None for a fresh run."""
    for path in state_files(run):
        try:
            return load_tensors(path, FORMAT)
        except WeightsError as error:
            console.print(f"warning: skipped a damaged training state: {error}", markup=False)
    return None


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below `prefix.`, without it."""
    return {k[len(prefix) + 1 :]: t for k, t in tensors.items() if k.startswith(prefix + ".")}


def restore_state(
    tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor], source: str
) -> None:
    """Put a state back, in place: weights, EMA, Adam moments and step counts."""
    load_weights(model, part(tensors, "model"), source)
    for name, average in ema.items():
        average.copy_(tensors[f"ema.{name}"])
    for name, parameter in trainable(model).items():
        keys = ("step", "exp_avg", "exp_avg_sq")
        if f"adam.step.{name}" in tensors:
            moments = {key: tensors[f"adam.{key}.{name}"].clone() for key in keys}
            optimizer.state[parameter] = {key: t.to(parameter.device) for key, t in moments.items()}
