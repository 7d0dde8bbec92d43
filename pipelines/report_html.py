"""Small pieces of HTML: tables, notices, figures as text, and the style of a page. All text given is escaped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

NONE = "–"  # stands where nothing was measured
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --soft: #5d6470; --line: #d9dce1; --shade: #f4f5f7;
  --alarm: #8a4b00; --alarm-paper: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --paper: #16181b; --soft: #9aa2ae; --line: #353a42;
  --shade: #1f2226; --alarm: #ffc978; --alarm-paper: #35280f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 80rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 3rem; font-size: 1.35rem; line-height: 1.25; }
h3 { margin: 2.2rem 0 .6rem; font-size: 1.1rem; } h4 { margin: 1.2rem 0 .4rem; font-size: 1rem; }
h1, h2, h3, h4, p, li, figcaption { overflow-wrap: anywhere; }
.soft, figcaption, summary { color: var(--soft); } figcaption, .soft { font-size: .88rem; }
.notice { margin: .6rem 0; padding: .5rem .8rem; border-left: 4px solid var(--alarm); color: var(--alarm);
  background: var(--alarm-paper); border-radius: 0 4px 4px 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; width: fit-content; max-width: 100%; border: 1px solid var(--line); border-radius: 6px;
  margin: .6rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child > * { border-bottom: 0; } thead th { background: var(--shade); vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); font-weight: 500;
  min-width: 9rem; }
@media (min-width: 48rem) { th:first-child { min-width: 13rem; } }
thead th:first-child { background: var(--shade); }
.over { text-align: left; border-left: 1px solid var(--line); }
.words { text-align: left; min-width: 15rem; } td.words { color: var(--soft); font-weight: 400; }
.figure { white-space: nowrap; }
tr.own > * { background: var(--shade); font-weight: 600; }
.made { width: 100%; }
.made th:first-child { min-width: 8rem; width: 34%; position: static; font-weight: 400; color: var(--soft); }
.made td { text-align: left; overflow-wrap: anywhere; min-width: 9rem; }
.side { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.clips { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; } svg, video { display: block; width: 100%; height: auto; }
video { background: #000; border-radius: 4px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; font-size: .9rem; }
.legend svg { display: inline-block; width: 34px; height: 10px; margin-right: .4rem; }
"""


def notice(text: str) -> str:
    """A line that must not be missed."""
    return f'<p class="notice">{escape(text)}</p>'


def number(value: float | None) -> str:
    """Four digits, or all before the point where those are more; a dash for None."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(
    head: Sequence[Sequence[tuple[str, int]]], rows: Sequence[Sequence[str]], texts: int = 0, own: Collection[int] = ()
) -> str:
    """Head cells are (text, columns); the last `texts` cells of a row are sentences, and the rows `own` stand out."""
    top = ""
    for cells in head:
        first = len(cells) - texts
        top += f"<tr>{''.join(_head_cell(*cell, sentence=i >= first) for i, cell in enumerate(cells))}</tr>"
    body = ""
    for i, (name, *values) in enumerate(rows):
        kinds = ["figure"] * (len(values) - texts) + ["words"] * texts
        line = "".join(f'<td class="{kind}">{escape(value)}</td>' for kind, value in zip(kinds, values, strict=True))
        mark = ' class="own"' if i in own else ""
        body += f'<tr{mark}><th scope="row">{escape(name)}</th>{line}</tr>\n'
    return f'<div class="scroll" tabindex="0"><table><thead>{top}</thead>\n<tbody>{body}</tbody></table></div>'


def _head_cell(text: str, columns: int, sentence: bool) -> str:
    kind = "words" if sentence else "over" if columns > 1 else "figure"
    return f'<th scope="col" class="{kind}" colspan="{columns}">{escape(text)}</th>'


def pairs(lines: Sequence[tuple[str, Any]]) -> str:
    """A table of names and values, as a file says them."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{escape(words(value)) or NONE}</td></tr>\n'
        for name, value in lines
    )
    return f'<div class="scroll made"><table><tbody>{rows}</tbody></table></div>'


def words(value: Any) -> str:
    """A value of a JSON file in words; nothing for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(words(part) for part in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {words(part)}" for name, part in value.items())
    return str(value)
