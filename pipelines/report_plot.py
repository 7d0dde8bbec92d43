"""Curves against the horizon as SVG that stands inside a page and takes its colours from there."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = ("#3b82c4", "#d97a1f", "#2f9e6e", "#b05cc4", "#cf4f5b", "#8c8a2b")  # seen on white and on black
GREY = "#8a8a8a"  # of what is published
DASHES = ("6 3", "2 3", "8 3 2 3")
INK = "#010203"  # stands for the page's own text colour
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
    "ytick.color": INK, "grid.color": INK, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Values by horizon (s), with their standard errors where those are known."""

    name: str
    points: tuple[tuple[float, float], ...]
    errors: tuple[float, ...] = ()
    colour: str = GREY
    dashes: str = ""  # as SVG writes them; none for a line without gaps


def draw(curves: Sequence[Curve], title: str, measure: str) -> str:
    """An <svg> of all curves over a linear axis from 0. `title` is read to those who do not see it; no two alike.

    The curves' names are not in it: they are the page's to print.
    """
    with rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        panel = figure.subplots()
        for curve in curves:
            x, y = zip(*curve.points, strict=True)
            on_off = tuple(float(n) for n in curve.dashes.split())
            panel.errorbar(
                x, y, yerr=curve.errors or None, color=curve.colour, marker="o", markersize=4, capsize=3,
                linestyle=(0, on_off) if on_off else "-",
            )  # fmt: skip
        panel.set_xlabel("horizon, s")
        panel.set_ylabel(measure)
        panel.set_xticks(sorted({x for curve in curves for x, _ in curve.points}))
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.15)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    return _inline(file.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """The element alone, as wide as its place; HTML knows its namespaces by itself."""
    root, rest = svg[svg.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[\d. ]+"', root)
    assert box, root
    label = re.sub(r"[<>&\"]", " ", title)
    rest = re.sub(r'<g id="\w+(\.\w+)?">', "<g>", rest.strip())  # the same names in every figure, and nothing uses them
    return f'<svg {box[0]} role="img" aria-label="{label}">{rest}'.replace(INK, "currentColor")
