"""`gwm runs RUN`: what a training run did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gwm.cli.run import Json, show

if TYPE_CHECKING:
    from gwm.pipelines.runs import RunSummary, StageSummary


def runs(
    run: Annotated[Path, typer.Argument(help="The folder of a `gwm train`.")],
    as_json: Json = False,
) -> None:
    """Summarize a training run by stage, and draw its curves into RUN/curves.png."""
    from gwm.pipelines.runs import summarize_run

    summary = summarize_run(run)
    show("run", asdict(summary) if as_json else _for_people(summary), as_json)


def _for_people(summary: RunSummary) -> dict[str, Any]:
    """Rows of the table; what differs by stage has a line for each stage that has begun."""
    from gwm.pipelines.runs import RECENT

    def each(text: Callable[[StageSummary], str]) -> dict[str, str]:
        return {name: text(stage) for name, stage in summary.stages.items() if stage.loss is not None}

    steps = {
        name: f"{stage.steps:,} of {stage.planned:,}{', finished' if stage.finished else ''}"
        for name, stage in summary.stages.items()
    }
    return {
        "folder": summary.folder,
        "variant": summary.variant,
        "preset": summary.preset,
        "data": summary.data,
        "steps": {**steps, "all": f"{summary.steps:,} of {summary.planned:,}"},
        "loss, last": each(lambda s: f"{s.loss:.4f}"),
        f"loss, mean of {RECENT} lines": each(lambda s: f"{s.mean_loss:.4f}, best {s.best_mean_loss:.4f}"),
        "hours": {**each(lambda s: f"{s.hours:.3g}"), "all": f"{summary.hours:.3g}"},
        "tokens/s": each(lambda s: f"{s.tokens_per_second:,.0f}"),
        "waiting for data": each(lambda s: f"{s.data_wait:.1%}"),
        "damaged windows replaced": {name: stage.replaced for name, stage in summary.stages.items() if stage.replaced},
        "memory, peak": each(lambda s: f"{(s.memory_bytes or 0) / 1e9:.2f} GB"),
        "states": summary.states,
        "checkpoint": summary.checkpoint or "none",
        "curves": summary.curves,
    }
