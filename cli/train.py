"""`gwm train`, and its views `gwm pretrain`, `gwm finetune-mview` and `gwm distill`."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gwm.cli.run import Device, Json, Out, Seed, data_root, find_shards, show
from gwm.core import ConfigError

if TYPE_CHECKING:
    from gwm.pipelines.recipe import Recipe

WORLD_SCENES, WORLD_FRAMES = 200, 100  # of the world that is rendered where there are no shards

Variant = Annotated[str, typer.Option("--variant", help="long, or mview: six cameras, with stage 3.")]
Preset = Annotated[str, typer.Option("--preset", help="nano, small or sd3-medium.")]
Datasets = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Folders of shards, repeated or separated by commas: all alike by their frames, or as STAGE.data says. If "
        "absent, those in $GWM_DATA/shards that the stages name, or the only one there.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change the recipe: learning_rate=3e-4, model.mask_ratio=0.5, 2.steps=100, …; may be repeated."
    ),
]
StepsScale = Annotated[float, typer.Option("--steps-scale", help="Multiplies the steps of all stages, before --set.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the recipe as it would run, and stop. Needs no data.")]
Encoder = Annotated[
    Path | None, typer.Option("--autoencoder", help="A file or run of `gwm autoencoder`; the embedded one if absent.")
]
Start = Annotated[
    Path | None,
    typer.Option("--from", help="The checkpoint or run to begin with: `gwm weights import` for --preset sd3-medium."),
]
Stream = Annotated[
    bool, typer.Option("--stream", help="Read frames from the shards at every step, not once into memory, nor latents.")
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Processes that read ahead what is not in memory; 0: none.")
]
PreviewEvery = Annotated[int, typer.Option("--preview-every", min=0, help="Steps between two preview.png; 0: none.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Scalars and videos for TensorBoard, in RUN.")]
Wandb = Annotated[bool, typer.Option("--wandb", help="The same to Weights & Biases.")]
Processes = Annotated[
    int, typer.Option("--nproc", min=1, help="Processes on this machine, each with a part of every batch.")
]
Fsdp = Annotated[
    bool, typer.Option("--fsdp", help="Spread the model over the processes (FSDP2), not a whole one in each.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the blocks: slow to start, quicker from then on.")]
SkipNonfinite = Annotated[
    int,
    typer.Option("--skip-nonfinite", min=0, help="Steps of the run that may be left out, their gradient no number."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Where there are no shards, render the world without asking.")]


def train(
    variant: Variant = "long",
    preset: Preset = "nano",
    shards: Datasets = None,
    start: Start = None,
    out: Out = None,
    settings: Settings = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            help="Train to the end of this stage (1a, 1b, 1c, 2, 3) and stop; the stages before it must be finished. "
            "The same command without it goes on.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", help="Train this stage alone, with the sizes of the model that --from names: finetune."),
    ] = None,
    steps_scale: StepsScale = 1.0,
    dry_run: DryRun = False,
    encoder: Encoder = None,
    stream: Stream = False,
    workers: Workers = 1,
    seed: Seed = 0,
    device: Device = "auto",
    nproc: Processes = 1,
    fsdp: Fsdp = False,
    compiled: Compile = False,
    skip_nonfinite: SkipNonfinite = 0,
    preview_every: PreviewEvery = 500,
    tensorboard: TensorBoard = False,
    wandb: Wandb = False,
    as_json: Json = False,
    yes: Yes = False,
) -> None:
    """Train in the paper's stages 1a, 1b, 1c, 2 and 3. The same command again resumes; finished stages are skipped."""
    from gwm.pipelines.origin import sized_like
    from gwm.pipelines.recipe import make_recipe, override, select, stage_alone

    recipe = make_recipe(variant, preset, steps_scale, seed)
    if only is not None:
        if start is None:
            raise ConfigError(f"--only {only} trains a model that is there already: name its checkpoint with --from")
        recipe = stage_alone(sized_like(start, recipe), only)
    recipe = override(recipe, *(settings or ()))
    out = out or _run_folder(recipe, only)
    if dry_run:
        _show_recipe(recipe if stage is None else select(recipe, stage), as_json)
        return
    finished = {marker.stem for marker in (out / "stages").glob("*.done")}
    part = recipe if stage is None else select(recipe, stage, finished)
    hardware, reading, showing = (device, nproc, fsdp, compiled), (stream, workers), (preview_every, tensorboard, wandb)
    _train(recipe, part, shards, out, encoder, hardware, skip_nonfinite, reading, showing, as_json, yes, start)


def pretrain(
    variant: Variant = "long",
    preset: Preset = "nano",
    shards: Datasets = None,
    start: Start = None,
    out: Out = None,
    settings: Settings = None,
    steps_scale: StepsScale = 1.0,
    dry_run: DryRun = False,
    encoder: Encoder = None,
    stream: Stream = False,
    workers: Workers = 1,
    seed: Seed = 0,
    device: Device = "auto",
    nproc: Processes = 1,
    fsdp: Fsdp = False,
    compiled: Compile = False,
    skip_nonfinite: SkipNonfinite = 0,
    preview_every: PreviewEvery = 500,
    tensorboard: TensorBoard = False,
    wandb: Wandb = False,
    as_json: Json = False,
    yes: Yes = False,
) -> None:
    """Stage 1 alone: 1a, 1b, 1c. `gwm train` with the same options goes on with the run."""
    from gwm.pipelines.recipe import make_recipe, override
    from gwm.pipelines.recipe import pretrain as pretraining

    recipe = override(make_recipe(variant, preset, steps_scale, seed), *(settings or ()))
    if dry_run:
        _show_recipe(pretraining(recipe), as_json)
        return
    out = out or _run_folder(recipe)
    hardware, reading, showing = (device, nproc, fsdp, compiled), (stream, workers), (preview_every, tensorboard, wandb)
    _train(
        recipe,
        pretraining(recipe),
        shards,
        out,
        encoder,
        hardware,
        skip_nonfinite,
        reading,
        showing,
        as_json,
        yes,
        start,
    )


def finetune_mview(
    start: Annotated[
        Path | None, typer.Option("--from", help="The run or checkpoint of --variant long that it starts from.")
    ] = None,
    preset: Preset = "nano",
    shards: Datasets = None,
    out: Out = None,
    settings: Settings = None,
    steps_scale: StepsScale = 1.0,
    dry_run: DryRun = False,
    encoder: Encoder = None,
    stream: Stream = False,
    workers: Workers = 1,
    seed: Seed = 0,
    device: Device = "auto",
    nproc: Processes = 1,
    fsdp: Fsdp = False,
    compiled: Compile = False,
    skip_nonfinite: SkipNonfinite = 0,
    preview_every: PreviewEvery = 500,
    tensorboard: TensorBoard = False,
    wandb: Wandb = False,
    as_json: Json = False,
    yes: Yes = False,
) -> None:
    """Stage 3 alone: view blocks for six cameras, from a run of stage 2, whose sizes the network keeps."""
    from gwm.pipelines.origin import sized_like
    from gwm.pipelines.recipe import finetune_mview as finetuning
    from gwm.pipelines.recipe import make_recipe, override

    recipe = make_recipe("mview", preset, steps_scale, seed)
    if start is not None:
        recipe = sized_like(start, recipe)
    recipe = finetuning(override(recipe, *(settings or ())))
    if dry_run:
        _show_recipe(recipe, as_json)
        return
    if start is None:
        raise ConfigError("stage 3 needs a start: name a run or checkpoint of --variant long with --from")
    out = out or Path("runs") / f"finetune-mview-{preset}"
    hardware, reading, showing = (device, nproc, fsdp, compiled), (stream, workers), (preview_every, tensorboard, wandb)
    _train(recipe, recipe, shards, out, encoder, hardware, skip_nonfinite, reading, showing, as_json, yes, start)


def distill(
    start: Annotated[
        Path | None, typer.Option("--from", help="The run or checkpoint that the student learns from.")
    ] = None,
    student_steps: Annotated[
        int, typer.Option("--student-steps", min=1, help="Steps that the student samples a window in.")
    ] = 4,
    shards: Datasets = None,
    out: Out = None,
    settings: Settings = None,
    steps_scale: StepsScale = 1.0,
    dry_run: DryRun = False,
    stream: Stream = False,
    workers: Workers = 1,
    seed: Seed = 0,
    device: Device = "auto",
    nproc: Processes = 1,
    compiled: Compile = False,
    skip_nonfinite: SkipNonfinite = 0,
    preview_every: PreviewEvery = 500,
    tensorboard: TensorBoard = False,
    wandb: Wandb = False,
    as_json: Json = False,
    yes: Yes = False,
) -> None:
    """A student that samples in few steps without guidance what a trained model samples in many with it."""
    from gwm.pipelines.origin import student_recipe
    from gwm.pipelines.recipe import override

    if start is None:
        raise ConfigError("a student needs a teacher: name a run or checkpoint with --from")
    recipe = override(student_recipe(start, student_steps, steps_scale, seed), *(settings or ()))
    if dry_run:
        _show_recipe(recipe, as_json)
        return
    out = out or Path("runs") / f"distill-{recipe.variant}-{recipe.preset}"
    hardware, showing = (device, nproc, False, compiled), (preview_every, tensorboard, wandb)
    _train(recipe, recipe, shards, out, None, hardware, skip_nonfinite, (stream, workers), showing, as_json, yes, start)


def _train(
    recipe: Recipe,
    part: Recipe,
    shards: list[str] | None,
    out: Path,
    encoder: Path | None,
    hardware: tuple[str, int, bool, bool],
    skip_nonfinite: int,
    reading: tuple[bool, int],
    showing: tuple[int, bool, bool],
    as_json: bool,
    yes: bool,
    start: Path | None,
) -> None:
    """Train `recipe` to the end of `part`, its first stages; exit code 1 where a signal came before that."""
    from gwm.pipelines.datasets import Reading
    from gwm.pipelines.launch import inside_torchrun, launch
    from gwm.pipelines.train import train as run_training
    from gwm.pipelines.watch import Showing

    data = _find_data([name.strip() for given in shards or () for name in given.split(",")], recipe, yes)
    device, processes, fsdp, compiled = hardware
    if processes > 1 and not inside_torchrun():
        if not launch(processes, sys.argv[1:]):
            raise typer.Exit(1)
        return
    result = run_training(
        data, out, recipe, encoder, device, part.steps, skip_nonfinite, Showing(*showing), fsdp=fsdp,
        reading=Reading(*reading), start=start, compiled=compiled,
    )  # fmt: skip
    result = replace(result, finished=result.steps >= part.steps)
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one speaks
        show("training", asdict(result), as_json)
    if not result.finished:
        raise typer.Exit(1)


def _run_folder(recipe: Recipe, only: str | None = None) -> Path:
    name = f"{recipe.variant}-{recipe.preset}"
    return Path("runs") / (name if only is None else f"{name}-{only}")


def _find_data(named: list[str], recipe: Recipe, yes: bool) -> list[Path]:
    """The datasets named; those below the data root that the recipe names, or the only one there; or the world.

    The world is rendered where there is none, if the user agrees.
    """
    if named:
        return [Path(name) for name in dict.fromkeys(named)]
    folder = data_root() / "shards"
    wanted = [folder / name for name in dict.fromkeys(name for stage in recipe.stages for name, _ in stage.data or ())]
    if wanted and all((path / "dataset.json").is_file() for path in wanted):
        return wanted
    if any(folder.glob("*/dataset.json")) or recipe.model.encoders != "nano":
        return [find_shards(None)]
    width, height = recipe.size
    what = f"{WORLD_SCENES} scenes of {WORLD_FRAMES} frames at {width}x{height} into {folder / 'world'}"
    if not (yes or _agrees(f"There are no shards in {folder}. Render a driving world, {what}? It takes minutes.")):
        return [find_shards(None)]
    from gwm.pipelines.preprocess import preprocess
    from gwm.pipelines.workers import default_workers, in_processes
    from gwm.shards.sources.world import WorldSource

    rig = "nuscenes" if any(stage.views > 1 for stage in recipe.stages) else "front"
    source = WorldSource(WORLD_SCENES, 0, WORLD_FRAMES, recipe.size, rig=rig)
    preprocess(source, folder / "world", workers=in_processes(default_workers()))
    return [folder / "world"]


def _agrees(question: str) -> bool:
    """The user's answer; no where nobody is there to answer. Standard output stays free for results."""
    typer.echo(f"{question} [y/N]: ", nl=False, err=True)
    try:
        return typer.confirm("", prompt_suffix="", show_default=False)
    except typer.Abort:
        typer.echo(err=True)
        return False


def _show_recipe(recipe: Recipe, as_json: bool) -> None:
    """The recipe as JSON, or as two tables: one column for each stage, and what holds for all of them."""
    values = asdict(recipe)
    if as_json:
        show("recipe", values, True)
        return
    stages, model = values.pop("stages"), values.pop("model")
    table = Table(title="stages", title_justify="left")
    table.add_column("stage", no_wrap=True)
    for stage in stages:
        table.add_column(stage["name"], overflow="fold")
    for name in list(stages[0])[1:]:
        table.add_row(name, *(escape(_cell(stage[name])) for stage in stages))
    common = Table("setting", "all stages", title="the whole recipe", title_justify="left")
    for name, value in values.items():
        common.add_row(name, escape(_cell(value)))
    for name, value in model.items():
        if name not in stages[0]:  # which says it for each
            common.add_row(f"model.{name}", escape(_cell(value)))
    console = Console()
    console.print(table)
    console.print(common)


def _cell(value: Any) -> str:
    """A value in the spelling of `--set`, but with spaces, where a table may break it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ", ".join(f"{name} {share:g}" for name, share in value)
    if isinstance(value, tuple):
        return ", ".join(_cell(x) for x in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
