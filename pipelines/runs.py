"""What a training run did: a summary of its folder, and its curves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from gwm.core import ConfigError
from gwm.pipelines.checkpoint import FORMAT, load_header, read_training
from gwm.pipelines.metrics import FILE, TAU_BUCKETS, Metrics, read
from gwm.pipelines.state import state_files
from gwm.shards.files import replacing
from gwm.shards.schema import Floats

RECENT = 50  # logged lines that a mean loss is over
CURVES = "curves.png"
SMOOTHED = 40  # a smoothed point is the mean over a fortieth of a stage,
SMOOTHED_LINES = 5  # or over so many lines where that is fewer


@dataclass(frozen=True)
class StageSummary:
    """What one stage did. Values are None before its first logged line."""

    steps: int  # done, as far as they were logged
    planned: int
    finished: bool
    loss: float | None = None  # of the last line
    mean_loss: float | None = None  # over the last RECENT lines, or all where there are fewer
    best_mean_loss: float | None = None  # the least of such means: one line's loss is mostly chance
    hours: float | None = None  # of training
    tokens_per_second: float | None = None
    data_wait: float | None = None  # share of the time, 0 to 1
    memory_bytes: int | None = None  # peak
    replaced: int = 0  # damaged windows that others stood in for


@dataclass(frozen=True)
class RunSummary:
    """What `gwm runs` shows."""

    folder: str
    variant: str
    preset: str
    data: tuple[str, ...]  # the datasets
    steps: int
    planned: int
    finished: bool
    hours: float  # of training, over all stages; neither validation nor pauses
    stages: dict[str, StageSummary]
    states: tuple[str, ...]  # files that a resume may start from, newest first
    checkpoint: str | None
    curves: str


def summarize_run(folder: Path) -> RunSummary:
    """Read a run's folder and draw its curves into it.

    ConfigError where the folder is not there, is no run, has logged nothing yet, is damaged, or cannot be written to.
    """
    recipe = _read_recipe(folder)
    lines = read(folder / FILE)
    if not lines:
        raise ConfigError(
            f"the run in {folder} has logged no step yet: its first line comes after a few steps; `gwm train` with "
            "the same -o continues it"
        )
    planned = {str(stage["name"]): int(stage["steps"]) for stage in recipe["stages"]}
    stages = {
        name: _summarize_stage(lines, name, steps, (folder / "stages" / f"{name}.done").is_file())
        for name, steps in planned.items()
    }
    write_curves(folder / CURVES, lines, f"{folder.resolve().name}: {recipe['variant']} {recipe['preset']}")
    checkpoint = folder / "model.safetensors"
    hashes = recipe.get("data", [])
    data = tuple(f"sha256:{value}" for value in ([hashes] if isinstance(hashes, str) else hashes))
    if checkpoint.is_file():
        data = read_training(load_header(checkpoint, FORMAT)).data
    return RunSummary(
        folder=str(folder),
        variant=recipe["variant"],
        preset=recipe["preset"],
        data=data,
        steps=sum(stage.steps for stage in stages.values()),
        planned=sum(planned.values()),
        finished=all(stage.finished for stage in stages.values()),
        hours=sum(stage.hours or 0.0 for stage in stages.values()),
        stages=stages,
        states=tuple(file.name for file in state_files(folder)),
        checkpoint=str(checkpoint) if checkpoint.is_file() else None,
        curves=str(folder / CURVES),
    )


def _read_recipe(folder: Path) -> dict[str, Any]:
    """What of recipe.json is needed here: variant, preset and the stages' names and steps."""
    if not folder.is_dir():
        raise ConfigError(f"no folder at {folder}; give the -o of a `gwm train`")
    file = folder / "recipe.json"
    if not file.is_file():
        raise ConfigError(f"{folder} is no training run ({file.name} is missing); give the -o of a `gwm train`")
    try:
        recipe = dict(json.loads(file.read_text(encoding="utf-8")))
        _ = str(recipe["variant"]), str(recipe["preset"]), [(s["name"], int(s["steps"])) for s in recipe["stages"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{file} is damaged ({error!r}); it is written when a run begins") from error
    return recipe


def _summarize_stage(lines: Sequence[Metrics], name: str, planned: int, finished: bool) -> StageSummary:
    seconds = _seconds(lines)
    chosen = [(m, s) for m, s in zip(lines, seconds, strict=True) if m.stage == name]
    if not chosen:
        return StageSummary(planned if finished else 0, planned, finished)
    own, times = [m for m, _ in chosen], np.array([s for _, s in chosen])
    losses = np.array([m.loss for m in own])
    width = min(RECENT, len(losses))
    means = np.convolve(losses, np.full(width, 1 / width), "valid")
    shares = times / max(times.sum(), 1e-9)
    return StageSummary(
        steps=planned if finished else own[-1].step,
        planned=planned,
        finished=finished,
        loss=own[-1].loss,
        mean_loss=float(means[-1]),
        best_mean_loss=float(means.min()),
        hours=float(times.sum() / 3600),
        tokens_per_second=float(shares @ [m.tokens_per_second for m in own]),
        data_wait=float(shares @ [m.data_wait for m in own]),
        memory_bytes=max(m.memory_bytes for m in own),
        replaced=sum(m.replaced for m in own),
    )


def _seconds(lines: Sequence[Metrics]) -> list[float]:
    """Training time that each line stands for: of the steps since the line before."""
    before = [0, *(m.position for m in lines)]
    return [m.seconds_per_step * max(0, m.position - start) for m, start in zip(lines, before, strict=False)]


# Curves ---------------------------------------------------------------------------------------------------------------


def write_curves(path: Path, lines: Sequence[Metrics], title: str) -> None:
    """Draw loss, gradient norm, learning rate and speed into a PNG; ConfigError where it cannot be written.

    Raw values are faint, their running means within a stage are not. The steps are on a linear axis: each stage begins
    anew, and a logarithmic one would leave the last stages no room.
    """
    figure = Figure(figsize=(15, 9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3, sharex=True).flatten().tolist()
    figure.suptitle(title)
    curves = _Curves(lines)
    loss, by_tau, by_mask, norm, rate, speed = panels

    curves.draw(loss, [m.loss for m in lines], "C0")
    colours = colormaps["viridis"](np.linspace(0.0, 0.9, TAU_BUCKETS))
    for i in range(TAU_BUCKETS):
        label = f"{i / TAU_BUCKETS:g} to {(i + 1) / TAU_BUCKETS:g}"
        curves.draw(by_tau, [m.loss_tau[i] for m in lines], colours[i], label, raw=False)
    curves.draw(by_mask, [m.loss_visible for m in lines], "C0", "visible")
    curves.draw(by_mask, [m.loss_hidden for m in lines], "C3", "hidden")
    curves.draw(norm, [m.gradient_norm for m in lines], "C4")
    curves.draw(rate, [m.lr for m in lines], "C2", smooth=False)
    curves.draw(speed, [m.tokens_per_second for m in lines], "C1")

    titles = ("loss", "loss by τ", "loss of visible and hidden tokens", "gradient norm", "learning rate", "tokens/s")
    for panel, name in zip(panels, titles, strict=True):
        panel.set_title(name, loc="left", fontsize=11, pad=14)
        panel.grid(alpha=0.25)
        curves.mark_stages(panel)
        if panel in (loss, by_tau, by_mask, norm):
            _log_axis(panel)
        else:
            panel.set_ylim(bottom=0)
    if by_tau.get_legend_handles_labels()[0]:
        by_tau.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), title="τ", frameon=False)
    if by_mask.get_legend_handles_labels()[0]:
        by_mask.legend(fontsize=8, ncols=2, loc="upper right")
    for panel in panels[3:]:
        panel.set_xlabel("steps over all stages")
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; free some space or copy the run") from error


class _Curves:
    """The steps of a run as the x axis of several panels."""

    def __init__(self, lines: Sequence[Metrics]) -> None:
        self.positions = np.array([m.position for m in lines])
        self.names = [m.stage for m in lines]
        starts = [i for i in range(len(lines)) if i == 0 or self.names[i] != self.names[i - 1]]
        self.parts = [slice(a, b) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]
        self.begins = [lines[a].position - lines[a].step for a in starts]  # position at which each stage begins

    def draw(
        self, panel: Axes, values: Sequence[float | None], colour: Any, label: str | None = None, raw: bool = True,
        smooth: bool = True,
    ) -> None:  # fmt: skip
        """One curve, broken where a stage ends and where there is no value."""
        y = np.array([np.nan if value is None else value for value in values])
        if np.isnan(y).all():
            return
        for part in self._each(y):
            x = self.positions[part]
            mark = "." if len(x) == 1 else None  # a line of one point is not seen
            if raw and smooth:
                panel.plot(x, y[part], color=colour, alpha=0.25, linewidth=0.8)
            panel.plot(x, smoothed(y[part]) if smooth else y[part], color=colour, label=label, marker=mark)
            label = None

    def _each(self, y: Floats) -> Iterator[Any]:
        """Indices of the values of each stage that has any."""
        for part in self.parts:
            there = np.flatnonzero(~np.isnan(y[part])) + part.start
            if len(there):
                yield there

    def mark_stages(self, panel: Axes) -> None:
        """A line where each stage begins, with its name above the panel."""
        for begin, part in zip(self.begins, self.parts, strict=True):
            panel.axvline(begin, color="0.5", linewidth=0.8, linestyle="--")
            panel.annotate(
                self.names[part.start], (begin, 1), (0, 2), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="left", color="0.35", fontsize=8,
            )  # fmt: skip


def smoothed(values: Floats) -> Floats:
    """Running mean, centred, over a part of the values; near the ends over what there is."""
    width = min(max(SMOOTHED_LINES, len(values) // SMOOTHED), len(values))
    kernel = np.ones(2 * ((width - 1) // 2) + 1)
    out: Floats = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
    return out


def _log_axis(panel: Axes) -> None:
    """A logarithmic y axis with plain numbers, also where it spans less than a decade; not where all values are 0."""
    if not np.isfinite(panel.dataLim.minposy):
        return
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(FuncFormatter(_label_some))


def _label_some(value: float, _: int | None) -> str:
    """Labels between the powers of ten: where there is room for them."""
    text = f"{value:g}"
    return text if text.lstrip("0.")[:1] in ("2", "3", "5") else ""
