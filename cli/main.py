"""The command line: `gwm COMMAND`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gwm import GwmError, __version__
from gwm.cli import data, evaluate, inverse, report, rollout, runs, score, train, weights, world
from gwm.cli.run import Device, Json, Out, Seed, command, find_shards, new_folder, parse_size, show

app = typer.Typer(
    help="A generalizable driving world model with video mask reconstruction (MaskGWM).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data.preprocess_app, name="preprocess")
app.add_typer(data.shards_app, name="shards")
app.add_typer(weights.weights_app, name="weights")

Shards = Annotated[
    Path | None, typer.Option("--data", help="A folder of shards; the only one in $GWM_DATA/shards if absent.")
]


def version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main_options(
    _: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options of gwm itself."""


@command(app, "demo")
def demo(
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run the whole chain on a small rendered world: shards, training, a 200-frame rollout, scores. Minutes."""
    from gwm.pipelines.demo import run_demo

    result = run_demo(out or new_folder("demo"), seed, device)
    show("demo", asdict(result), as_json)


@command(app, "autoencoder")
def autoencoder(
    shards: Shards = None,
    out: Out = None,
    steps: Annotated[int, typer.Option("--steps", help="Training steps.")] = 3000,
    batch: Annotated[int, typer.Option("--batch", help="Images of a step.")] = 16,
    size: Annotated[str, typer.Option("--size", help="Frame size WIDTHxHEIGHT it is trained at.")] = "128x64",
    decoder_of: Annotated[
        Path | None,
        typer.Option(
            "--decoder-of",
            help="A checkpoint or run: train its decoder alone further and write the checkpoint with it. What it has "
            "learned of latents stays.",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train nano's small autoencoder. The same command again resumes."""
    from gwm.pipelines.autoencoder import train_autoencoder

    out = out or Path("runs/autoencoder")
    result = train_autoencoder(find_shards(shards), out, steps, parse_size(size), seed, device, batch, decoder_of)
    show("autoencoder", asdict(result), as_json)


@command(app, "info")
def info(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="A checkpoint or run, or nano-long, nano-student, nano-mview.")
    ] = None,
    variant: Annotated[str | None, typer.Option("--variant", help="long or mview: describe a recipe instead.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="nano, small or sd3-medium: the same.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="GPU of a recipe's estimate; A800 if absent.")] = None,
    utilisation: Annotated[
        float | None, typer.Option("--utilisation", help="Share of its bf16 peak that training reaches; 0.4 if absent.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Parameters by part, FLOPs, memory, and what a checkpoint was trained on; or what a recipe costs."""
    from gwm.pipelines.info import describe_checkpoint, describe_recipe

    if variant or preset:
        if checkpoint:
            raise GwmError("give a checkpoint, or --variant and --preset, not both")
        values = describe_recipe(
            variant or "long", preset or "nano", gpu or "A800", 0.4 if utilisation is None else utilisation
        )
    elif gpu is not None or utilisation is not None:
        raise GwmError("--gpu and --utilisation estimate a recipe: add --variant long or --variant mview")
    else:
        values = describe_checkpoint(checkpoint)
    show("model", values, as_json)


command(app, "rollout")(rollout.rollout)
command(app, "eval")(evaluate.evaluate)
command(app, "score")(score.score)
command(app, "inverse-dynamics")(inverse.inverse_dynamics)
command(app, "report")(report.report)
command(app, "train")(train.train)
command(app, "pretrain")(train.pretrain)
command(app, "finetune-mview")(train.finetune_mview)
command(app, "distill")(train.distill)
command(app, "runs")(runs.runs)
command(app, "world")(world.world)


def main() -> None:
    """Entry point of the `gwm` command."""
    app()


if __name__ == "__main__":
    main()
