"""`gwm world`: the rendered world as a dataset."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gwm import GwmError
from gwm.cli import data
from gwm.cli.run import Json, Seed, parse_size, show


def world(
    out: Annotated[str, typer.Argument(help="Folder of the dataset; it must be empty or not there yet.")],
    kind: Annotated[
        str, typer.Option("--as", help="shards (as `gwm preprocess world`), nuscenes, waymo, waymo-v2 or opendv.")
    ] = "shards",
    scenes: Annotated[int, typer.Option("--scenes", help="Scenes; of the official formats every fifth is val.")] = 10,
    frames: Annotated[int, typer.Option("--frames", help="Frames of a scene at 10 Hz.")] = 100,
    size: Annotated[
        str | None,
        typer.Option("--size", help="WIDTHxHEIGHT of the front camera; the data set's own if absent, else 512x288."),
    ] = None,
    rig: Annotated[str | None, typer.Option("--rig", help="front, nuscenes or waymo, for shards only.")] = None,
    weather: data.Weather = None,
    time: data.Time = None,
    junctions: data.Junctions = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Render a driving world and write it in a dataset's official format, with the truth in it."""
    from gwm.pipelines.world import find_format, write_world
    from gwm.shards.sources.world import WorldSource

    if kind == "shards":
        data.world(
            out, scenes, frames, size or "512x288", rig=rig or "front", weather=weather, time=time,
            junctions=junctions, seed=seed, as_json=as_json,
        )  # fmt: skip
        return
    chosen = find_format(kind)
    if rig is not None:
        raise GwmError(f"--rig {rig}: --as {kind} has its own cameras; leave --rig out, or use --as shards")
    if "://" in out:
        raise GwmError(f"{out}: --as {kind} writes into a folder of this machine; copy it from there")
    wanted = parse_size(size) if size else chosen.size
    source = WorldSource(scenes, seed, frames, wanted, rig=chosen.rig, weather=weather, time=time, junctions=junctions)
    show("world", asdict(write_world(kind, source, Path(out))), as_json)
