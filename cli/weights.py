"""`gwm weights …`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gwm import GwmError
from gwm.cli.run import Json, Out, command, data_root, show

if TYPE_CHECKING:
    from gwm.pipelines.network_files import FileState

weights_app = typer.Typer(help="Weights from elsewhere.", no_args_is_help=True)


@command(weights_app, "list")
def list_weights(as_json: Json = False) -> None:
    """The networks of FID, FVD and LPIPS, and whether their files are here and whole."""
    from gwm.pipelines.network_files import states

    _show_files("weights", states(_store()), as_json)


@command(weights_app, "fetch")
def fetch_weights(
    names: Annotated[list[str], typer.Argument(help="Names from `gwm weights list`, or all.")],
    as_json: Json = False,
) -> None:
    """Download the networks of FID, FVD and LPIPS from their authors, and check every byte."""
    from gwm.pipelines.network_files import fetch

    _show_files("fetch", fetch(names, _store()), as_json)


@command(weights_app, "import")
def import_weights(
    source: Annotated[
        Path,
        typer.Argument(
            help="SD3-medium in diffusers' layout: with transformer/ and vae/, or a transformer/. "
            "Or a file of `gwm weights list`, under any name."
        ),
    ],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Stable Diffusion 3 into a checkpoint, every tensor placed or an error; or a network of FID, FVD or LPIPS."""
    if source.is_file():
        from gwm.pipelines.network_files import import_file

        if out is not None:
            raise GwmError(f"-o {out}: a file of `gwm weights list` goes to {_store()}; leave -o out")
        _show_files("import", [import_file(source, _store())], as_json)
        return
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


def _store() -> Path:
    """Where the weight files of networks lie."""
    return data_root() / "weights"


def _show_files(title: str, found: list[FileState], as_json: bool) -> None:
    if as_json:
        show(title, {"folder": str(_store()), "files": [asdict(state) for state in found]}, as_json)
        return
    lines = {state.name: [f"{state.state}: {state.file}", state.purpose, _sha256(state)] for state in found}
    show(f"{title}: {_store()}", lines, as_json)


def _sha256(state: FileState) -> str:
    return f"SHA-256 {state.sha256}" if state.sha256 else f"get it with `gwm weights fetch {state.name}`"
