"""What all commands share: options that mean the same everywhere, one way to fail, one way to print."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gwm import GwmError

Out = Annotated[Path | None, typer.Option("-o", "--out", help="Output folder.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of all random numbers.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

error_console = Console(stderr=True)


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command with `--debug`: a user's mistake is one message and exit code 1, no traceback."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, debug: bool = False, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except (GwmError, OSError, KeyboardInterrupt) as error:
                if debug:
                    raise
                message = "stopped" if isinstance(error, KeyboardInterrupt) else str(error)
                error_console.print("[bold red]error:[/]", end=" ")
                error_console.print(message, markup=False, highlight=False, soft_wrap=True)
                raise typer.Exit(1) from None

        signature = inspect.signature(function, eval_str=True)
        parameter = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DEBUG)
        guarded.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), parameter]
        )
        guarded.__annotations__ = {p.name: p.annotation for p in guarded.__signature__.parameters.values()}  # type: ignore[attr-defined]
        app.command(name)(guarded)
        return function

    return register


def show(title: str, values: dict[str, Any], as_json: bool) -> None:
    """Print a result: JSON on standard output, or a table for people."""
    if as_json:
        sys.stdout.write(json.dumps(values, indent=2, default=str) + "\n")
        return
    table = Table(title=escape(title), show_header=False, title_justify="left")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), escape(_text(value)))
    Console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if type(value) is int:
        return f"{value:,}"
    if isinstance(value, dict):
        return "\n".join(f"{k}: {_text(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        parts = [_text(v) for v in value]
        together = ", ".join(parts)
        return (together if len(together) <= 60 and "\n" not in together else "\n".join(parts)) or "none"
    return str(value)


def data_root() -> Path:
    """$GWM_DATA, else ./data."""
    return Path(os.environ.get("GWM_DATA", "data"))


def new_folder(kind: str) -> Path:
    """The first unused ./out/<kind>-NNN."""
    return next(p for i in range(1, 100_000) if not (p := Path("out") / f"{kind}-{i:03d}").exists())


def find_shards(given: Path | None) -> Path:
    """The dataset to read: the one given, or the only one below the data root."""
    if given is not None:
        return given
    folder = data_root() / "shards"
    found = sorted(p.parent for p in folder.glob("*/dataset.json"))
    if len(found) == 1:
        return found[0]
    if found:
        raise GwmError(f"several datasets in {folder} ({', '.join(p.name for p in found)}); choose one with --data")
    raise GwmError(
        f"no shards in {folder}: make some with `gwm preprocess video FOLDER`, or render a stand-in with "
        "`gwm preprocess world`, or name a dataset with --data"
    )


def parse_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT in pixels."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) >= 16 and int(height) >= 16):
        raise GwmError(f"--size {text}: write WIDTHxHEIGHT in pixels, at least 16x16, such as 512x288")
    return int(width), int(height)
