"""`gwm inverse-dynamics`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gwm.cli.run import Device, Json, Out, Seed, find_shards, show


def inverse_dynamics(
    data: Annotated[Path | None, typer.Option("--data", help="Shards with front frames whose motion is known.")] = None,
    out: Out = None,
    steps: Annotated[int, typer.Option("--steps", help="Training steps of 64 pairs of frames.")] = 2500,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train the network that reads speed and yaw rate from frames, for `gwm eval --inverse-dynamics`. Minutes."""
    from gwm.pipelines.inverse_dynamics import train_inverse_dynamics

    folder = out or Path("runs/inverse-dynamics")
    result = train_inverse_dynamics(find_shards(data), folder, steps, seed, device)
    show("inverse dynamics", asdict(result), as_json)
