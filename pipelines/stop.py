"""Ctrl-C and SIGTERM where half-written files would be a loss."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Stop:
    """Inside the `with` statement both signals raise KeyboardInterrupt in `during` alone: at once, or as it begins.

    What is done outside `during` ends undisturbed; a signal that came too late for it is raised at the end.
    """

    def __init__(self) -> None:
        self._received = self._open = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # which gets them
            self._before = {number: signal.signal(number, self._on) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _on(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        if self._open:
            raise KeyboardInterrupt

    def during(self, work: Callable[[], T]) -> T:
        """The result of `work`, which may end in KeyboardInterrupt."""
        self._open = True
        try:
            if self._received:
                raise KeyboardInterrupt
            return work()
        finally:
            self._open = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._received and error is None:
            raise KeyboardInterrupt
