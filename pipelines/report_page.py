"""The HTML page of evaluation results: everything in one text, nothing fetched, no script. Reads no file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from typing import Any

from gwm.pipelines.published import Published, published_for
from gwm.pipelines.report_html import NONE, STYLE, notice, number, pairs, table, words
from gwm.pipelines.report_plot import COLOURS, DASHES, Curve, draw
from gwm.pipelines.report_result import STANDARD, WORLD, Example, Figures, Measure, Result

PRINTED = tuple(measure for measure in STANDARD if measure.key in ("fid", "fid_without_condition", "fvd"))
HERE = "this page"  # the source of a result's own figures
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"  # nothing from elsewhere


@dataclass(frozen=True)
class Entry:
    """A result with its name on the page, no two alike, and the bytes of its examples' videos (None: not there)."""

    name: str
    result: Result
    videos: tuple[bytes | None, ...]


def render(groups: Sequence[Sequence[Entry]]) -> str:
    """The page: a section for each group, whose results share protocol and features."""
    parts = ["<h1>Evaluation of a driving world model</h1>"]
    if len(groups) > 1:
        parts.append(
            notice(
                f"These results are of {len(groups)} kinds: they differ in protocol or in the networks that judge "
                "them. Each kind has its own section, and figures of different sections do not compare."
            )
        )
    for group in groups:
        parts += _section(group)
    title = " and ".join(dict.fromkeys(group[0].result.rules.title for group in groups))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _section(group: Sequence[Entry]) -> Iterator[str]:
    rules, published = group[0].result.rules, published_for(group[0].result.rules.name)
    yield f"<section>\n<h2>{escape(rules.title)}</h2>"
    for entry in group:
        yield from _notices(entry, len(group) > 1)
    yield from _head(group)
    yield f"<h3>{'This run' if len(group) == 1 else 'These runs'}</h3>"
    yield from _unlike(group)
    yield _own_table(group)
    yield "<h3>Published</h3>"
    yield from _published(group, published)
    yield from _plots(group, published)
    for entry in group:
        yield from _clips(entry)
    yield "<h3>What made it</h3>"
    yield f'<div class="side">{"".join(_made(entry) for entry in group)}</div>\n</section>'


# Head -----------------------------------------------------------------------------------------------------------------


def _notices(entry: Entry, several: bool) -> Iterator[str]:
    """What a reader has to know before any figure."""
    result, who = entry.result, f"{entry.name}: " if several else ""
    whole = result.rules.clips
    if result.partial:
        limit = f" (--limit {result.limit})" if result.limit is not None else ""
        yield notice(
            f"{who}Partial result: {result.clips:,} of the protocol's {NONE if whole is None else f'{whole:,}'} clips"
            f"{limit}. Its figures are not those of the protocol and do not compare with published ones."
        )
    if result.missing:
        n = len(result.missing)
        yield notice(f"{who}{n:,} {'clip is' if n == 1 else 'clips are'} missing; the causes are at the end.")
    for line in result.warnings:
        yield notice(f"{who}{line}")


def _head(group: Sequence[Entry]) -> Iterator[str]:
    rules = group[0].result.rules
    for entry in group:
        result = entry.result
        training = words(result.checkpoint.get("training_data"))
        zero = f" Zero-shot: nothing of {rules.dataset} is in it." if result.zero_shot and training else ""
        about = escape(f"trained on: {training or 'not recorded'}.{zero}")
        yield f"<p><strong>{escape(entry.name)}</strong>, {about}</p>"
    lines = [(name, value) for name, value in rules.values.items() if name not in ("title", "decisions", "command")]
    yield f"<details><summary>The protocol: {escape(rules.source)}</summary>{pairs(lines)}"
    if rules.decisions:
        yield f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in rules.decisions)}</ul>"
    yield "</details>"


def _unlike(group: Sequence[Entry]) -> Iterator[str]:
    """In what the results of a table differ, beside what made them."""
    asked: dict[str, list[Any]] = {
        "number of clips": [e.result.clips for e in group],
        "list of clips": [e.result.data.get("clip_list_sha256") for e in group],
        "size of the frames": [e.result.size for e in group],
        "whether the model is told the actions": [e.result.actions for e in group],
    }
    unlike = [what for what, values in asked.items() if any(value != values[0] for value in values)]
    if unlike:
        yield notice(f"Not the same in all of these results: {', '.join(unlike)}. Compare them with care.")


# Tables ---------------------------------------------------------------------------------------------------------------


def _own_table(group: Sequence[Entry]) -> str:
    """Rows are measures, columns the horizons of each result."""
    columns = [figures for entry in group for figures in entry.result.figures]
    rows = [
        ["frames", *(f"{figures.n_frames:,}" for figures in columns)],
        ["clips", *(f"{figures.n_clips:,}" for figures in columns)],
    ]
    for measure in group[0].result.measures:
        if measure in WORLD and all(figures.values.get(measure.key) is None for figures in columns):
            continue
        rows.append([f"{measure.title} {measure.better}", *(_figure(figures, measure) for figures in columns)])
    spans = [("", 1), *((entry.name, len(entry.result.figures)) for entry in group)]
    return table([spans, [("", 1), *((f"{figures.horizon:g} s", 1) for figures in columns)]], rows)


def _published(group: Sequence[Entry], published: Sequence[Published]) -> Iterator[str]:
    """What is published for these clips; results stand in the same table only where they are the same measures."""
    first = group[0].result
    if not published:
        yield f"<p>No figures are known here that are published for protocol {escape(first.rules.name)}.</p>"
        return
    if not first.standard:
        names = ", ".join(words(first.features.get(key)) for key in ("frames", "clips"))
        yield notice(
            "The figures above are other measures than published FID and FVD: they come from other networks "
            f"({names}). What is published stands here by itself; the two do not compare."
        )
    horizons = first.rules.horizons
    measures = [m for m in PRINTED if any(getattr(line, m.key) for line in published)]
    lines = [_own_line(entry, horizons) for entry in group if first.standard]
    lines += [_published_line(line, len(horizons)) for line in published]
    if len(horizons) == 1:
        head = [f"{m.title} {m.better}" for m in measures]
        rows = [[line.name, *(line.cells[m.key][0] for m in measures), *line.words] for line in lines]
    else:
        head = [f"{s:g} s" for s in horizons]
        rows = [
            [f"{m.title} {m.better}: {line.name}", *line.cells[m.key], *line.words]
            for m in measures
            for line in lines
            if set(line.cells[m.key]) != {NONE}
        ]
    own = {i for i, row in enumerate(rows) if row[-1] == HERE}
    yield table([[("", 1), *((text, 1) for text in (*head, "setting", "source"))]], rows, texts=2, own=own)


@dataclass(frozen=True)
class _Line:
    """What one method has in the table of published figures: texts by a measure's key, one for each horizon."""

    name: str
    cells: dict[str, list[str]]
    words: tuple[str, str]  # setting and source


def _own_line(entry: Entry, horizons: Sequence[float]) -> _Line:
    there = {figures.horizon: figures for figures in entry.result.figures}
    cells = {m.key: [_figure(there[s], m) if s in there else NONE for s in horizons] for m in PRINTED}
    return _Line(entry.name, cells, (_setting(entry.result), HERE))


def _published_line(line: Published, n: int) -> _Line:
    cells = {m.key: [number(value) for value in getattr(line, m.key)] or [NONE] * n for m in PRINTED}
    return _Line(line.method, cells, (line.setting, line.source))


def _setting(result: Result) -> str:
    whole = NONE if result.rules.clips is None else f"{result.rules.clips:,}"
    size = f"{result.size[0]}x{result.size[1]}"
    return f"{result.clips:,} of {whole} clips, frames of {size}{', partial' if result.partial else ''}"


def _figure(figures: Figures, measure: Measure) -> str:
    """A figure with its standard error where it has one, that to two digits."""
    value = figures.values.get(measure.key)
    error = figures.values.get(measure.error) if measure.error else None
    return number(value) + (f" ± {number(float(f'{error:.2g}'))}" if value is not None and error is not None else "")


# Pictures -------------------------------------------------------------------------------------------------------------


def _plots(group: Sequence[Entry], published: Sequence[Published]) -> Iterator[str]:
    """Distance of frames and of videos against the horizon, where a result has two horizons or more."""
    first = group[0].result
    keys = ("fid", "fvd") if first.standard else ("frame_frechet", "video_frechet")
    measures = [measure for measure in first.measures if measure.key in keys]
    plots: list[str] = []
    names: dict[str, Curve] = {}
    for measure in measures:
        curves = [c for i, entry in enumerate(group) if (c := _own_curve(entry, measure, COLOURS[i % len(COLOURS)]))]
        if not any(len(curve.points) > 1 for curve in curves):
            continue
        if first.standard:
            curves += list(_published_curves(published, measure, first.rules.horizons))
        names |= {curve.name: curve for curve in curves}
        title = f"{measure.title} against the horizon: {first.rules.title}"
        plots.append(f"<figure>{draw(curves, title, measure.title)}</figure>")
    if plots:
        yield "<h3>Against the horizon</h3>"
        yield f'<div class="side">{"".join(plots)}</div>'
        yield f'<ul class="legend">{"".join(_legend(curve) for curve in names.values())}</ul>'


def _own_curve(entry: Entry, measure: Measure, colour: str) -> Curve | None:
    found = [
        (figures.horizon, value, figures.values.get(measure.error) if measure.error else None)
        for figures in entry.result.figures
        if (value := figures.values.get(measure.key)) is not None
    ]
    if not found:
        return None
    errors = tuple(error for _, _, error in found if error is not None)
    return Curve(
        entry.name + (", partial" if entry.result.partial else ""),
        tuple((horizon, value) for horizon, value, _ in found),
        errors if len(errors) == len(found) else (),
        colour,
    )


def _published_curves(published: Sequence[Published], measure: Measure, horizons: Sequence[float]) -> Iterator[Curve]:
    for line, dashes in zip(published, cycle(DASHES), strict=False):
        values = getattr(line, measure.key)
        if len(values) == len(horizons):
            yield Curve(f"{line.method}, published", tuple(zip(horizons, values, strict=True)), dashes=dashes)


def _legend(curve: Curve) -> str:
    stroke = f'stroke="{curve.colour}" stroke-width="2" stroke-dasharray="{curve.dashes}"'
    line = f'<svg viewBox="0 0 34 10" aria-hidden="true"><line x1="0" y1="5" x2="34" y2="5" {stroke}/></svg>'
    return f"<li>{line}{escape(curve.name)}</li>"


def _clips(entry: Entry) -> Iterator[str]:
    """The worst clips, then the best, playing."""
    shown = list(zip(entry.result.examples, entry.videos, strict=True))
    if shown:
        yield f"<h3>Clips of {escape(entry.name)}</h3>"
        yield '<p class="soft">The real drive is above, the generated one below.</p>'
    for kind in ("worst", "best"):
        figures = [_video(example, video) for example, video in shown if example.kind == kind]
        if figures:
            yield f'<h4>{kind.capitalize()}</h4><div class="clips">{"".join(figures)}</div>'


def _video(example: Example, video: bytes | None) -> str:
    psnr = f"PSNR {number(example.psnr)} dB" if example.psnr is not None else "PSNR not measured"
    caption = f"<figcaption>{escape(example.key)}, {psnr}</figcaption>"
    if video is None:
        return f'<figure><p class="notice">{escape(example.video)} is not there.</p>{caption}</figure>'
    data = base64.b64encode(video).decode("ascii")
    playing = f'<video controls muted loop autoplay playsinline src="data:video/mp4;base64,{data}"></video>'
    return f"<figure>{playing}{caption}</figure>"


# What made it ---------------------------------------------------------------------------------------------------------


def _made(entry: Entry) -> str:
    result = entry.result
    groups = {
        "checkpoint": result.checkpoint, "data": result.data, "sampling": result.sampling,
        "features": result.features, "version": result.versions,
    }  # fmt: skip
    lines = [(f"{group}: {name}", value) for group, values in groups.items() for name, value in values.items()]
    lines += [
        ("size", f"{result.size[0]}x{result.size[1]}"),
        ("told the actions", result.actions),
        ("device", result.device),
        ("seconds", f"{result.seconds:,.1f}"),
        *((f"missing: {key}", cause) for key, cause in result.missing),
    ]
    return f"<div><h4>{escape(entry.name)}</h4>{pairs(lines)}</div>"
