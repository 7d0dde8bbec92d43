"""Training state on disk, so that a resumed run repeats an unbroken one (on a CPU, bit for bit).

A state is a safetensors file, or where the model is spread over processes a folder that each of them writes a part of.
Each kind is read by any number of processes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gwm.core import WeightsError
from gwm.core.fit import misfits
from gwm.pipelines import sharding
from gwm.pipelines.checkpoint import load_tensors, save_tensors
from gwm.pipelines.progress import console

FORMAT = "gwm-training-state"
KEPT = 2  # newest states on disk


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def state_files(run: Path) -> list[Path]:
    """The states of a run, files and folders, newest first."""
    return sorted((run / "states").glob("state-*"), reverse=True)


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a state by name: weights, EMA, and Adam's moments where there are any. Not copies."""
    tensors = {f"model.{k}": t for k, t in model.state_dict().items()} | {f"ema.{k}": t for k, t in ema.items()}
    for name, parameter in trainable(model).items():
        tensors |= {f"adam.{key}.{name}": t for key, t in optimizer.state.get(parameter, {}).items()}
    return tensors


def save_state(
    run: Path, position: int, model: nn.Module, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor], **header: Any
) -> None:
    """Write a state as `states/state-<position>`; keep the one before it. Every process that holds a part calls.

    States further on are dropped too: the run would have gone on from them if they could be read.
    """
    tensors, header = state_tensors(model, optimizer, ema), {"format": FORMAT, "position": position, **header}
    (run / "states").mkdir(exist_ok=True)
    path = run / "states" / f"state-{position:09d}"
    if sharding.is_spread(tensors.values()):
        sharding.save_sharded(path, tensors, header)
    else:
        save_tensors(path.with_suffix(".safetensors"), tensors, header)
    kept = [file for file in state_files(run) if file.stem <= path.name][:KEPT]
    for old in set(state_files(run)) - set(kept):
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def newest_state(run: Path) -> tuple[dict[str, Tensor] | Path, dict[str, Any]] | None:
    """The newest readable state of a run and its header; a damaged one is skipped with a warning. None for a fresh run.

    WeightsError where all are damaged: a run is not begun anew over what it has reached.
    Of a folder its path is given: what is read from it depends on how the model is spread now.
    """
    files = state_files(run)
    for path in files:
        try:
            return (path, sharding.read_header(path, FORMAT)) if path.is_dir() else load_tensors(path, FORMAT)
        except WeightsError as error:
            console.print(f"warning: skipped a damaged training state: {error}", markup=False)
    if files:
        raise WeightsError(
            f"none of the training states in {run / 'states'} can be read; choose another -o, or delete that folder to "
            "train from the start"
        )
    return None


def restore_state(
    state: dict[str, Tensor] | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
    source: str,
) -> None:
    """Put a state of `newest_state` back, in place: weights, EMA, Adam's moments and step counts."""
    names = sharding.names_in(state) if isinstance(state, Path) else set(state)
    for name, parameter in trainable(model).items():
        if f"adam.step.{name}" in names:
            moments = {key: torch.zeros_like(parameter, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    targets = state_tensors(model, optimizer, ema)
    if isinstance(state, Path):
        if names != set(targets):
            raise WeightsError(f"{state} does not fit the configuration: {', '.join(sorted(names ^ set(targets)))}")
        sharding.load_sharded(state, targets)
        return
    if problems := misfits(state, targets):
        raise WeightsError(f"{source} does not fit the configuration: " + "; ".join(problems))
    with torch.no_grad():
        for name, target in targets.items():
            sharding.place(target, state[name])
