"""Progress for people: a rich bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)
LOG_INTERVAL = 15.0  # s between lines where there is no terminal


class Ticker:
    """Counts `total` units of work: `with Ticker("stage 1a", 1500) as t: t.advance(note="loss 0.5")`."""

    def __init__(self, title: str, total: int | None, done: int = 0, silent: bool = False) -> None:
        self.silent = silent
        self.title, self.total, self.done, self.note = title, total, done, ""
        self._bar: Progress | None = None
        self._logged = time.monotonic()

    def __enter__(self) -> Ticker:
        if console.is_terminal and not self.silent:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(
                TextColumn("{task.description}"), *columns, TextColumn("{task.fields[note]}"), console=console
            )
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.done, note="")
            self._bar.start()
        return self

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more units; `note` stands behind the bar."""
        self.done += count
        self.note = self.note if note is None else note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self.note)
        elif time.monotonic() - self._logged >= LOG_INTERVAL:
            self._log()

    def _log(self) -> None:
        self._logged = time.monotonic()
        if not self.silent:
            console.print(f"{self.title}: {self.done}/{self.total or '?'} {self.note}", highlight=False)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            self._log()
