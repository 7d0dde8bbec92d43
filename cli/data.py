"""`gwm preprocess …` and `gwm shards …`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gwm.cli.run import Json, Out, Seed, command, data_root, parse_size, show

preprocess_app = typer.Typer(help="Turn a dataset into WebDataset shards.", no_args_is_help=True)
shards_app = typer.Typer(help="Look into a folder of shards.", no_args_is_help=True)

Size = Annotated[str, typer.Option("--size", help="Frame size WIDTHxHEIGHT in the shards.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad item instead of skipping it.")]
ShardFolder = Annotated[Path, typer.Argument(help="A folder that `gwm preprocess` wrote.")]


@command(preprocess_app, "video")
def video(
    source: Annotated[Path, typer.Argument(help="A folder of videos, searched through, or one video.")],
    out: Out = None,
    size: Size = "512x288",
    fit: Annotated[str, typer.Option("--fit", help="crop or letterbox, where the shape differs.")] = "crop",
    frames: Annotated[int, typer.Option("--frames", help="Most frames of one sample.")] = 100,
    val_every: Annotated[int, typer.Option("--val-every", help="Every n-th video is validation; 0: none.")] = 10,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Any folder of videos: read by timestamp at 10 Hz, split at scene cuts."""
    from gwm.pipelines.cuts import transnet_cuts
    from gwm.pipelines.preprocess import preprocess
    from gwm.shards.sources.video import VideoSource

    shape = parse_size(size)
    videos = VideoSource(source, shape, fit, frames, val_every=val_every, find_cuts=transnet_cuts())
    result = preprocess(videos, out or data_root() / "shards" / "video", strict=strict)
    show("preprocessed", asdict(result), as_json)


@command(preprocess_app, "world")
def world(
    out: Out = None,
    scenes: Annotated[int, typer.Option("--scenes", help="Scenes, one sample each.")] = 200,
    frames: Annotated[int, typer.Option("--frames", help="Frames of a scene at 10 Hz.")] = 100,
    size: Size = "512x288",
    val_every: Annotated[int, typer.Option("--val-every", help="Every n-th scene is validation.")] = 10,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0: one for each CPU.")] = 0,
    as_json: Json = False,
) -> None:
    """The rendered driving world: front camera, with actions, poses and calibration."""
    from gwm.pipelines.preprocess import default_workers, preprocess
    from gwm.shards.sources.world import WorldSource

    source = WorldSource(scenes, seed, frames, parse_size(size), val_every)
    result = preprocess(source, out or data_root() / "shards" / "world", workers or default_workers())
    show("rendered", asdict(result), as_json)


@command(shards_app, "info")
def info(folder: ShardFolder, as_json: Json = False) -> None:
    """What is inside: source, samples, frames, views, sizes, what is present, what was skipped."""
    from gwm.shards.verify import info as describe

    show(str(folder), describe(folder), as_json)


@command(shards_app, "verify")
def verify(folder: ShardFolder, as_json: Json = False) -> None:
    """Check every byte: hashes, tar structure, index, JPEGs, JSON. Exit code 1 if anything is wrong."""
    from gwm.shards.verify import verify as check

    report = check(folder)
    show(str(folder), asdict(report), as_json)
    if report.problems:
        raise typer.Exit(1)
