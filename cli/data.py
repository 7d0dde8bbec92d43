"""`gwm preprocess …` and `gwm shards …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gwm.cli.run import Device, Json, Seed, command, data_root, parse_size, show

if TYPE_CHECKING:
    from gwm.shards.cuts import FindCuts
    from gwm.shards.plan import Source
    from gwm.shards.storage import AnyPath

preprocess_app = typer.Typer(help="Turn a dataset into WebDataset shards.", no_args_is_help=True)
shards_app = typer.Typer(help="Look into a folder of shards.", no_args_is_help=True)

OutUrl = Annotated[str | None, typer.Option("-o", "--out", help="Output folder, or a URL such as s3://bucket/shards.")]
NAMED = 10  # skipped items that the table names
WAYMO_VIEWS = "front,front_left,front_right,side_left,side_right"
NUSCENES_VIEWS = "front,front_right,back_right,back,back_left,front_left"

DatasetFolder = Annotated[str | None, typer.Argument(help="The dataset as downloaded; else below the data root.")]
NativeSize = Annotated[str, typer.Option("--size", help="Frame size WIDTHxHEIGHT, or native: images as they are.")]
Fit = Annotated[str, typer.Option("--fit", help="crop or letterbox, where the shape differs.")]
Views = Annotated[str, typer.Option("--views", help="Cameras, separated by commas.")]
Frames = Annotated[int, typer.Option("--frames", help="Most frames of one sample.")]
Cuts = Annotated[
    bool,
    typer.Option(
        "--cuts/--no-cuts",
        help="Look for scene cuts and split there. That is most of the work: leave it out for footage without any, "
        "such as a dashcam's.",
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes; 0: one for each CPU.")]
Ray = Annotated[str | None, typer.Option("--ray", help="Address of a Ray cluster to run on; local: start one here.")]
Size = Annotated[str, typer.Option("--size", help="Frame size WIDTHxHEIGHT in the shards.")]
Latents = Annotated[
    str | None,
    typer.Option(
        "--latents",
        help="Write latent shards too, of this checkpoint: nano, a run, a file, or SD3-medium's folder (texts too). "
        "In this process, on --device.",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad item instead of skipping it.")]
Rig = Annotated[str, typer.Option("--rig", help="Cameras: front, or those of nuscenes or waymo.")]
Weather = Annotated[
    str | None, typer.Option("--weather", help="clear, overcast, rain, fog or mixed; clear or overcast if absent.")
]
Time = Annotated[str | None, typer.Option("--time", help="day, dusk, night or mixed; the plain world's if absent.")]
Junctions = Annotated[bool, typer.Option("--junctions", help="With crossings and side roads.")]
ShardFolder = Annotated[str, typer.Argument(help="A folder that `gwm preprocess` wrote.")]


@command(preprocess_app, "video")
def video(
    source: Annotated[str, typer.Argument(help="A folder of videos, searched through, or one video.")],
    out: OutUrl = None,
    size: Size = "512x288",
    fit: Fit = "crop",
    frames: Frames = 100,
    cuts: Cuts = True,
    val_every: Annotated[int, typer.Option("--val-every", help="About one video in n is validation; 0: none.")] = 10,
    workers: Workers = 0,
    ray: Ray = None,
    latents: Latents = None,
    device: Device = "auto",
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Any folder of videos: read by timestamp at 10 Hz, split at scene cuts."""
    from gwm.shards.clips import Cutting
    from gwm.shards.sources.video import VideoSource
    from gwm.shards.storage import as_path

    cutting = Cutting(_finder(cuts), parse_size(size), fit, frames)
    _preprocess(VideoSource(as_path(source), cutting, val_every), out, workers, ray, strict, as_json, latents, device)


@command(preprocess_app, "opendv")
def opendv(
    source: DatasetFolder = None,
    out: OutUrl = None,
    split: Annotated[str, typer.Option("--split", help="train, val or all.")] = "all",
    subset: Annotated[str, typer.Option("--subset", help="mini or full (mini is part of it).")] = "full",
    video_list: Annotated[str | None, typer.Option("--list", help="The official list, CSV or JSON.")] = None,
    annotations: Annotated[str | None, typer.Option("--annotations", help="Folder of the language files.")] = None,
    size: Size = "512x288",
    fit: Fit = "crop",
    frames: Frames = 100,
    cuts: Cuts = True,
    workers: Workers = 0,
    ray: Ray = None,
    latents: Latents = None,
    device: Device = "auto",
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """OpenDV-2K's YouTube part: its videos as downloaded, or its extracted frames, with commands and captions."""
    from gwm.shards.clips import Cutting
    from gwm.shards.sources.opendv import OpenDVSource
    from gwm.shards.storage import as_path

    cutting = Cutting(_finder(cuts), parse_size(size), fit, frames)
    sheet, said = (None if path is None else as_path(path) for path in (video_list, annotations))
    shards = OpenDVSource(_folder(source, "opendv"), cutting, split, subset, sheet, said)
    _preprocess(shards, out, workers, ray, strict, as_json, latents, device)


@command(preprocess_app, "nuscenes")
def nuscenes(
    source: DatasetFolder = None,
    out: OutUrl = None,
    version: Annotated[str | None, typer.Option("--version", help="v1.0-mini, …; else the largest there is.")] = None,
    split: Annotated[
        str, typer.Option("--split", help="train, val, test, train_detect, train_track, mini_train, mini_val or all.")
    ] = "all",
    rate: Annotated[str, typer.Option("--rate", help="10 (Hz), or raw: the 12 Hz images one by one.")] = "10",
    size: NativeSize = "512x288",
    fit: Fit = "crop",
    frames: Annotated[int, typer.Option("--frames", help="Most frames of one sample; a scene has about 200.")] = 300,
    views: Views = NUSCENES_VIEWS,
    annotations: Annotated[
        str | None, typer.Option("--annotations", help="Vista's JSON: its clips of 25 front images are the samples.")
    ] = None,
    export_vista: Annotated[
        str | None, typer.Option("--export-vista", help="Write such a JSON of the split to this file, and no shards.")
    ] = None,
    workers: Workers = 0,
    ray: Ray = None,
    latents: Latents = None,
    device: Device = "auto",
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """nuScenes: six cameras, key frames and sweeps at common moments, poses, CAN bus."""
    from gwm.shards.sources.nuscenes import NuScenesSource
    from gwm.shards.storage import as_path

    clips = None if annotations is None else as_path(annotations)
    shards = NuScenesSource(
        _folder(source, "nuscenes"), version, split, _native(size), fit, _names(views), rate, clips, frames
    )
    if export_vista is None:
        _preprocess(shards, out, workers, ray, strict, as_json, latents, device)
    else:
        show(export_vista, asdict(shards.export_clips(as_path(export_vista))), as_json)


@command(preprocess_app, "waymo")
def waymo(
    source: DatasetFolder = None,
    out: OutUrl = None,
    size: NativeSize = "512x288",
    fit: Fit = "crop",
    frames: Annotated[int, typer.Option("--frames", help="Most frames of one sample; a segment has 198.")] = 200,
    views: Views = WAYMO_VIEWS,
    workers: Workers = 0,
    ray: Ray = None,
    latents: Latents = None,
    device: Device = "auto",
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Waymo's perception dataset, version 1 (TFRecord) or 2 (Parquet): five cameras, poses, speed."""
    from gwm.shards.sources.waymo import WaymoSource

    shards = WaymoSource(_folder(source, "waymo"), _native(size), fit, _names(views), frames)
    _preprocess(shards, out, workers, ray, strict, as_json, latents, device)


@command(preprocess_app, "world")
def world(
    out: OutUrl = None,
    scenes: Annotated[int, typer.Option("--scenes", help="Scenes, one sample each.")] = 200,
    frames: Annotated[int, typer.Option("--frames", help="Frames of a scene at 10 Hz.")] = 100,
    size: Size = "512x288",
    val_every: Annotated[int, typer.Option("--val-every", help="Every n-th scene is validation.")] = 10,
    rig: Rig = "front",
    weather: Weather = None,
    time: Time = None,
    junctions: Junctions = False,
    seed: Seed = 0,
    workers: Workers = 0,
    ray: Ray = None,
    latents: Latents = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The rendered driving world: one camera or all around, with actions, poses and calibration."""
    from gwm.shards.sources.world import WorldSource

    source = WorldSource(scenes, seed, frames, parse_size(size), val_every, rig, weather, time, junctions)
    _preprocess(source, out, workers, ray, False, as_json, latents, device)


def _folder(source: str | None, name: str) -> AnyPath:
    from gwm.shards.storage import as_path

    return as_path(source or data_root() / name)


def _finder(cuts: bool) -> FindCuts | None:
    """TransNetV2, or nothing: then PyTorch is not loaded either."""
    if not cuts:
        return None
    from gwm.pipelines.cuts import TransNetCuts

    return TransNetCuts()


def _native(size: str) -> tuple[int, int] | None:
    return None if size == "native" else parse_size(size)


def _names(views: str) -> tuple[str, ...]:
    return tuple(view.strip() for view in views.split(","))


def _preprocess(
    source: Source,
    out: str | None,
    workers: int,
    ray: str | None,
    strict: bool,
    as_json: bool,
    latents: str | None = None,
    device: str = "auto",
) -> None:
    from gwm.pipelines.preprocess import preprocess
    from gwm.pipelines.workers import choose_workers
    from gwm.shards.storage import as_path

    team = choose_workers(workers, ray)
    folder = as_path(out or data_root() / "shards" / source.name)
    encoder = None
    if latents is not None:  # before the images, so that a wrong checkpoint costs no hours
        from gwm.pipelines.latent_shards import load_encoder, write_latents

        encoder = load_encoder(latents, device)
    report = vars(preprocess(source, folder, strict, team))
    if encoder is not None:
        report["latents"] = vars(write_latents(folder, encoder))
    if not as_json:
        report["skipped"] = [f"{skip['item']}: {skip['cause']}" for skip in report["skipped"][:NAMED]]
        more = sum(report["skipped_by_cause"].values()) - NAMED
        report["skipped"] += [f"and {more} more, all in {folder / 'report.json'}"] if more > 0 else []
    show("preprocessed", report, as_json)


@command(shards_app, "info")
def info(folder: ShardFolder, as_json: Json = False) -> None:
    """What is inside: source, samples, frames, views, sizes, what is present, what was skipped."""
    from gwm.shards.storage import as_path
    from gwm.shards.verify import info as describe

    show(folder, describe(as_path(folder)), as_json)


@command(shards_app, "verify")
def verify(folder: ShardFolder, as_json: Json = False) -> None:
    """Check every byte: hashes, tar structure, index, JPEGs, JSON. Exit code 1 if anything is wrong."""
    from gwm.shards.storage import as_path
    from gwm.shards.verify import verify as check

    report = check(as_path(folder))
    show(folder, asdict(report), as_json)
    if report.problems:
        raise typer.Exit(1)
