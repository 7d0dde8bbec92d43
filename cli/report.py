"""`gwm report RESULT...`: one page from evaluations."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gwm.cli.run import Json, Out, new_folder, show


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT...", help="Folders of `gwm eval`, or their result.json.")
    ],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """One HTML page from evaluations, beside the published figures; it needs no network and no other file."""
    from gwm.pipelines.report import write_report

    show("report", asdict(write_report(results, out or new_folder("report"))), as_json)
