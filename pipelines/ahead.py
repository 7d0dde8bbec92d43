"""Work that is done while what came before is in use."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def one_ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """The items, none of them None: each is made in a thread while the one before is in use, and its errors raised."""
    with ThreadPoolExecutor(1) as thread:
        yield _items(thread, items)


def _items(thread: ThreadPoolExecutor, items: Iterator[T]) -> Iterator[T]:
    coming = thread.submit(next, items, None)
    while (item := coming.result()) is not None:
        coming = thread.submit(next, items, None)
        yield item
