"""One run at a time may write into a folder: of a dataset, or of a training."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gwm.shards import ShardError
from gwm.shards.storage import AnyPath

LOCK_FILE = "jobs/lock"  # of a dataset
BEAT = 20.0  # s between signs of life in an object store
DEAD = 90.0  # s without one after which the run that held the lock is taken for dead


@contextmanager
def locked(out: AnyPath, name: str = LOCK_FILE) -> Iterator[None]:
    """Hold the lock of `out`, the file `name` in it. ShardError where another run has it.

    In a folder the lock goes with the process, however that ends; in an object store it lasts up to DEAD longer.
    """
    if isinstance(out, Path):
        with _flock(out, name):
            yield
    else:
        with _lease(out, name):
            yield


@contextmanager
def _flock(out: Path, name: str) -> Iterator[None]:
    with (out / name).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ShardError(f"another run is writing into {out}; wait for it, or choose another folder") from error
        yield


@contextmanager
def _lease(out: AnyPath, name: str) -> Iterator[None]:
    file, owner, over = out / name, uuid.uuid4().hex, threading.Event()

    def write() -> None:
        fields = {"owner": owner, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        file.write_text(json.dumps(fields))

    def keep_alive() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):
                write()

    held = _holder(file)
    if held is not None:
        raise ShardError(
            f"another run is writing into {out} (process {held['pid']} on {held['host']}); wait for it, or, if it was "
            f"killed, for {DEAD:.0f} s"
        )
    write()
    if (_holder(file) or {}).get("owner") != owner:
        raise ShardError(f"another run began to write into {out} at the same moment; start this one again later")
    thread = threading.Thread(target=keep_alive, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(OSError):
            file.unlink()


def _holder(file: AnyPath) -> dict[str, object] | None:
    """Who holds the lease, if somebody alive does."""
    try:
        fields = dict(json.loads(file.read_text()))
        return fields if time.time() - fields["time"] < DEAD else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
