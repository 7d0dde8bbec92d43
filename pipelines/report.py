"""One page from results of `gwm eval`: a file that needs nothing beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gwm.core import ConfigError
from gwm.pipelines.report_page import Entry, render
from gwm.pipelines.report_result import Result, read_result, result_file
from gwm.shards.files import replacing

PAGE = "report.html"
JUDGES = ("standard", "frames", "frames_sha256", "clips", "clips_sha256")  # of the features: figures of others differ


@dataclass(frozen=True)
class ReportResult:
    """What was written."""

    page: str  # path
    bytes: int
    results: int
    videos: int  # that play in it


def write_report(results: Sequence[Path], out: Path) -> ReportResult:
    """Write `out`/report.html from folders of `gwm eval` or their result.json; the same one twice counts once.

    ConfigError where there is no result, one is damaged or not finished, or the page cannot be written.
    """
    if not results:
        raise ConfigError("a report of no result: give the -o of a `gwm eval`")
    files = {file.resolve(): file for file in map(result_file, results)}
    read = [read_result(file) for file in files.values()]
    names = _names(read)
    entries = [Entry(name, result, _videos(result)) for name, result in zip(names, read, strict=True)]
    page, text = out / PAGE, render(_by_kind(entries)).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with replacing(page) as temporary:
            temporary.write_bytes(text)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot write {page}: {reason}; free some space or choose another folder with -o") from error
    videos = sum(video is not None for entry in entries for video in entry.videos)
    return ReportResult(str(page), len(text), len(entries), videos)


def _names(results: Sequence[Result]) -> list[str]:
    """The checkpoints' names, with the folder's where several share one, and a number where that is not enough."""
    names = [str(result.checkpoint["name"]) for result in results]
    shared = Counter(names)
    names = [
        f"{name} ({result.folder.resolve().name})" if shared[name] > 1 else name
        for name, result in zip(names, results, strict=True)
    ]
    shared = Counter(names)
    return [f"{name}, {i}" if shared[name] > 1 else name for i, name in enumerate(names, 1)]


def _by_kind(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Groups whose results share protocol and features, in the order given."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        rules, features = entry.result.rules, entry.result.features
        kind = json.dumps([rules.name, rules.version, [features.get(key) for key in JUDGES]])
        groups.setdefault(kind, []).append(entry)
    return list(groups.values())


def _videos(result: Result) -> tuple[bytes | None, ...]:
    """The bytes of each example's video; None where it is not in the result's folder."""
    return tuple(_read(result.folder, result.folder / example.video) for example in result.examples)


def _read(folder: Path, file: Path) -> bytes | None:
    """A file below the folder and no other: a result must not bring other files of this machine into a page."""
    try:
        return file.read_bytes() if file.resolve().is_relative_to(folder.resolve()) else None
    except (OSError, ValueError):  # ValueError: what cannot be a name
        return None
