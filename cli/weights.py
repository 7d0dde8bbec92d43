"""`gwm weights …`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gwm.cli.run import Json, Out, command, show

weights_app = typer.Typer(help="Weights from elsewhere.", no_args_is_help=True)


@command(weights_app, "import")
def import_weights(
    source: Annotated[
        Path,
        typer.Argument(help="SD3-medium in diffusers' layout: with transformer/ and vae/, or a transformer/."),
    ],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Stable Diffusion 3's transformer and autoencoder into a checkpoint: every tensor placed, or an error."""
    from gwm.pipelines.weights import import_sd3, summarize

    result = import_sd3(source, out or Path("runs/sd3-medium"))
    shown = asdict(result) if as_json else {**asdict(result), "new": summarize(result.new)}
    show("import", shown, as_json)


@command(weights_app, "export")
def export_weights(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint or run.")],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The SD3 part of a checkpoint's transformer as a diffusers folder."""
    from gwm.pipelines.weights import export_sd3

    show("export", export_sd3(checkpoint, out or Path("out/sd3-transformer")), as_json)
