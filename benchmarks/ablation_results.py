"""The ablation's scores over seeds: means and spreads, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gwm.shards.files import replacing

SeedScores = Mapping[str, Mapping[int, Mapping[str, float]]]  # variant -> seed -> metric -> score
TITLES = {"loss": "flow loss, unmasked", "psnr": "PSNR of one window, dB", "ratio": "time of a step, × no masking"}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (None for one seed) and the values themselves."""
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "seeds": list(values)}


def summarize(scores: SeedScores, base: str) -> dict[str, Any]:
    """Of every variant that has scores: each metric's spread, and that of its differences to `base`, seed by seed."""
    found = {}
    for name, of_variant in scores.items():
        both = sorted(of_variant.keys() & scores[base].keys())
        metrics = list(next(iter(of_variant.values()), {}))
        if metrics:
            found[name] = {
                "scores": {m: spread([of_variant[seed][m] for seed in sorted(of_variant)]) for m in metrics},
                f"minus {base}": {m: spread([of_variant[s][m] - scores[base][s][m] for s in both]) for m in metrics}
                if both
                else {},
            }
    return found


def _row(name: str, cells: Sequence[str], width: int) -> str:
    return name.ljust(width) + "".join(cell.rjust(18) for cell in cells)


def _cell(value: Mapping[str, Any]) -> str:
    text = f"{value['mean']:.4g}"
    return text if value["std"] is None else f"{text} ± {value['std']:.2g}"


def table(
    variants: Mapping[str, Any], tables: Mapping[str, Sequence[str]], references: Mapping[str, Mapping[str, float]],
    ratios: Mapping[str, float],
) -> str:  # fmt: skip
    """A line for each variant of each ablation: mean ± spread of all scores, and time per step; then the references."""
    metrics = list(next(iter(variants.values()))["scores"])
    width = max(len(name) for name in (*variants, *references)) + 2
    lines = [_row("", [*metrics, "time of a step"], width)]
    for title, names in tables.items():
        lines += ["", title]
        for name in (name for name in names if name in variants):
            cells = [_cell(variants[name]["scores"][m]) for m in metrics]
            lines.append(_row(name, [*cells, f"{ratios[name]:.3f}" if name in ratios else "-"], width))
    lines.append("")
    for name, values in references.items():
        lines.append(_row(name, [f"{values[m]:.4g}" if m in values else "-" for m in metrics], width))
    return "\n".join(lines)


def write_plot(path: Path, variants: Mapping[str, Any], ratios: Mapping[str, float]) -> None:
    """A panel for each score and one for the time of a step: every seed a point, mean and spread a bar."""
    metrics = list(next(iter(variants.values()))["scores"])
    names = list(variants)
    figure = Figure(figsize=(18, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, -(-(len(metrics) + 1) // 2), sharey=True).flatten().tolist()
    for panel, metric in zip(panels, [*metrics, "ratio"], strict=False):
        panel.set_title(TITLES.get(metric, metric.replace("_", ", ").replace("frechet", "frame Fréchet")), loc="left")
        panel.grid(alpha=0.25)
        panel.locator_params(axis="x", nbins=5)
        for y, name in enumerate(names):
            if metric == "ratio":
                panel.plot(ratios.get(name, float("nan")), y, "o", color="C0")
                continue
            value = variants[name]["scores"][metric]
            panel.plot(value["seeds"], [y] * len(value["seeds"]), ".", color="0.6")
            panel.errorbar(value["mean"], y, xerr=value["std"] or 0.0, fmt="o", color="C0", capsize=4)
    for panel in panels[len(metrics) + 1 :]:
        panel.set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
