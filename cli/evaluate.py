"""`gwm eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gwm import GwmError
from gwm.cli.rollout import CheckpointFile, Guidance, GuidanceEvery, GuidanceRange, SolverName, Steps, parse_range
from gwm.cli.run import Device, Json, Out, Seed, data_root, new_folder, show

FEATURES = (
    "standard: Inception and I3D, as published (gwm weights fetch); lite: small ones that come with gwm; "
    "auto: standard where its files are here, else lite."
)
FeatureKind = Annotated[Literal["auto", "standard", "lite"], typer.Option("--features", help=FEATURES)]
Resize = Annotated[
    Literal["torch-fidelity", "clean", "pytorch-fid"], typer.Option("--resize", help="How FID's frames are resized.")
]
Form = Annotated[
    Literal["tats", "stylegan-v"], typer.Option("--fvd", help="Which of FVD's two common weight files is used.")
]
Fit = Annotated[
    Literal["squash", "crop"], typer.Option("--fvd-fit", help="How FVD's frames become square: squashed, or cropped.")
]


def evaluate(
    dataset: Annotated[Literal["nuscenes", "opendv", "waymo"], typer.Argument(help="What to score on.")],
    data: Annotated[Path | None, typer.Option("--data", help="Its shards; $GWM_DATA/shards/DATASET if absent.")] = None,
    checkpoint: CheckpointFile = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            help="nuscenes: maskgwm, vista, drivewm (for mview); opendv: long-horizon, ablation; waymo: zero-shot. "
            "If absent the first named, for nuscenes and a model of six views drivewm.",
        ),
    ] = None,
    zero_shot: Annotated[
        bool,
        typer.Option("--zero-shot", help="Refuse a checkpoint that was trained on this dataset; always so for waymo."),
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", help="So many clips only, evenly among all: a partial result.")
    ] = None,
    actions: Annotated[
        bool | None,
        typer.Option("--actions/--no-actions", help="Tell the model speed and steering; as the protocol if absent."),
    ] = None,
    out: Out = None,
    steps: Steps = None,
    solver: SolverName = "euler",
    guidance: Guidance = None,
    guidance_range: GuidanceRange = None,
    guidance_every: GuidanceEvery = 1,
    features: FeatureKind = "auto",
    resize: Resize = "torch-fidelity",
    fvd: Form = "tats",
    fvd_fit: Fit = "squash",
    keep_videos: Annotated[
        bool, typer.Option("--keep-videos", help="Keep every clip as videos/NUMBER.mp4, real above generated.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score without clips that cannot be read; the result names them.")
    ] = False,
    inverse_dynamics: Annotated[
        Path | None,
        typer.Option("--inverse-dynamics", help="Measure motion too, by this file or run of gwm inverse-dynamics."),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes on a CPU, one thread each; 0: one for each core.")
    ] = 0,
    ray: Annotated[
        str | None, typer.Option("--ray", help="Address of a Ray cluster to run on; local: start one here.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Generate and score under a published protocol: result.json, features.parquet and example videos.

    The same command again goes on where it was stopped. Several GPUs share the clips under torchrun.
    """
    shards = shards_of(dataset, data)
    from gwm.core.sampler import Sampling
    from gwm.pipelines.checkpoint import FORMAT, checkpoint_path, load_header, read_training
    from gwm.pipelines.device import choose_device
    from gwm.pipelines.evaluate import Wanted
    from gwm.pipelines.evaluate import evaluate as run_evaluation
    from gwm.pipelines.feature_choice import FeatureChoice
    from gwm.pipelines.launch import inside_torchrun
    from gwm.pipelines.workers import choose_workers

    training = read_training(load_header(checkpoint_path(checkpoint), FORMAT))
    scale = training.guidance if guidance is None else guidance
    steps = training.sampling_steps if steps is None else steps
    sampling = Sampling(steps, scale, solver, parse_range(guidance_range, scale), guidance_every)
    alone = inside_torchrun() or choose_device(device).type == "cuda"
    if alone and (workers > 1 or ray is not None):
        raise GwmError("--workers and --ray are for CPUs; for several GPUs or under torchrun leave them out")
    team = None if alone else choose_workers(workers, ray)
    wanted = Wanted(
        dataset, shards, FeatureChoice(data_root() / "weights", features, resize, fvd, fvd_fit), sampling,
        checkpoint, protocol, zero_shot, limit, actions, seed, keep_videos, allow_missing,
        inverse_dynamics,
    )  # fmt: skip
    folder = out or new_folder(f"eval-{dataset}")
    result = run_evaluation(wanted, folder, device, team)
    if result is not None:
        show(f"evaluation in {folder}", {"folder": str(folder), **(result if as_json else shown(result))}, as_json)


def shards_of(dataset: str, given: Path | None) -> Path:
    """The folder of shards: the one given, or the data root's."""
    folder = given or data_root() / "shards" / dataset
    if given is None and not (folder / "dataset.json").is_file():
        raise GwmError(
            f"no shards in {folder}: put {dataset} into {data_root() / dataset} and run `gwm preprocess {dataset}`; "
            f"`gwm world {data_root() / dataset} --as {dataset}` renders a stand-in; or name shards with --data"
        )
    return folder


def shown(result: dict[str, Any]) -> dict[str, Any]:
    """What is printed of a result."""
    protocol, checkpoint, features = result["protocol"], result["checkpoint"], result["features"]
    n = result["data"]["clips"] - len(result["missing"])
    values: dict[str, Any] = {
        "protocol": f"{protocol['title']}, version {protocol['version']}",
        "clips": f"{n} of {protocol['clips']}{' (partial)' if result['partial'] else ''}",
        "checkpoint": checkpoint["name"],
        "features": [features["frames"], features["clips"]],
    }
    for row in result["figures"]:
        values[f"at {row['horizon_s']:g} s"] = {k: v for k, v in row.items() if k != "horizon_s" and v is not None}
    return values | {"missing": [loss["key"] for loss in result["missing"]], "warnings": result["warnings"]}
