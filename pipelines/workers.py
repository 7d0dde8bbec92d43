"""Doing many independent tasks: in this process, in several of this machine, or on the machines of a Ray cluster.

A task's result depends on the task alone, so that it does not matter who does it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, Protocol, TypeVar

from gwm.shards import SourceError

T = TypeVar("T")
R = TypeVar("R")


class Workers(Protocol):
    """Who does the tasks: results come as they are ready, in any order."""

    def __call__(self, do: Callable[[T], R], tasks: Sequence[T], /) -> Iterator[R]: ...


def in_this_process(do: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
    """One job after the other."""
    yield from map(do, tasks)


def in_processes(workers: int) -> Workers:
    """Several at a time, each in a process of its own with one thread."""

    def run(do: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        if workers == 1 or len(tasks) < 2:
            yield from in_this_process(do, tasks)
            return
        fresh = get_context("spawn")  # a forked process inherits the state of threads that it does not have
        with ProcessPoolExecutor(workers, fresh, initializer=_begin_worker) as pool:
            waiting = iter(tasks)
            futures: set[Future[R]] = {pool.submit(do, task) for task in islice(waiting, 2 * workers)}
            try:
                while futures:
                    done, futures = wait(futures, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
                        futures |= {pool.submit(do, task) for task in islice(waiting, 1)}
            except BrokenProcessPool as error:
                raise SourceError("a worker process died (out of memory?); try fewer --workers") from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    return run


def on_ray(address: str | None) -> Workers:
    """On the Ray cluster at `address` (`None`: one on this machine, which ends with the run), one job for each CPU.

    Its machines read the source and write the shards themselves: both have to be URLs or folders that all of them see.
    A job whose process or machine dies is run again, up to three times. Where this process is connected to a cluster
    already, that connection is used and stays. Raises SourceError without the extra "ray", and when it runs, where no
    cluster answers or a job died every time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    try:
        import ray
    except ImportError as error:
        raise SourceError("--ray needs Ray: pip install 'gwm[ray]'") from error

    def run(do: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        if not tasks:
            return
        here = os.getcwd()

        def job(task: T) -> R:
            with suppress(OSError):  # a machine without this folder needs paths that do not begin in it
                os.chdir(here)
            one_thread()
            return do(task)

        with _connected(ray, address):
            remote = ray.remote(num_cpus=1, max_retries=3)(job)
            waiting = iter(tasks)
            futures: list[Any] = []
            try:
                while True:
                    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # a cluster may grow
                    futures += [remote.remote(task) for task in islice(waiting, max(0, most - len(futures)))]
                    if not futures:
                        return
                    done, futures = ray.wait(futures, num_returns=1)
                    yield from ray.get(done)
            except ray.exceptions.RayError as error:
                cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
                if isinstance(cause, (ray.exceptions.RayError, RuntimeError)):  # a process or its gwm is missing
                    first, *_ = str(cause).splitlines() or [repr(cause)]
                    cause = SourceError(f"a job failed on the Ray cluster: {first}")
                raise cause from error
            finally:
                for future in futures:
                    ray.cancel(future, force=True)

    return run


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to a Ray cluster, closed at the end; or the one that this process has, which stays."""
    if ray.is_initialized():
        yield
        return
    try:
        try:
            if address is None:
                with _ctrl_c_later():  # half a cluster could not be ended
                    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            else:
                if address != "auto":
                    _knock(address)
                ray.init(address, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise SourceError(f"no Ray cluster at {address}: {error}; give HOST:PORT of one, or local") from error
        yield
    finally:
        with _ctrl_c_later():
            ray.shutdown()


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Keep KeyboardInterrupt back until the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # which gets it
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _knock(address: str) -> None:
    """Raise OSError or ValueError where nothing listens at `address`: Ray itself tries for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError("this is not HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    one_thread()


def _end_with_parent() -> None:
    """A killed parent's lock is free: whoever goes on writing would be in the way of the next run."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def one_thread() -> None:
    """Leave the other cores to the other jobs; results do not depend on the number of threads then."""
    import cv2
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    else:  # most jobs never load PyTorch, whose import takes a second
        os.environ["OMP_NUM_THREADS"] = "1"
    threadpool_limits(1)  # numpy's linear algebra


def default_workers() -> int:
    """One process for each CPU that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_workers(processes: int, ray: str | None) -> Workers:
    """So many processes of this machine (0: one for each CPU), or a Ray cluster by its address (`local`: one here)."""
    if ray is None:
        return in_processes(processes or default_workers())
    if processes:
        raise SourceError(f"--workers {processes} is for this machine, and --ray for a cluster: leave one out")
    return on_ray(None if ray == "local" else ray)
