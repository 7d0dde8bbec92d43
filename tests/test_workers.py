"""Who does independent tasks."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info

from gwm.pipelines.workers import in_processes


def threads_of(_: int) -> list[int]:
    import cv2
    import torch

    return [torch.get_num_threads(), cv2.getNumThreads(), *(pool["num_threads"] for pool in threadpool_info())]


def test_every_worker_has_one_thread():
    """All of its libraries: numpy's linear algebra too would start one for each CPU."""
    for counts in in_processes(2)(threads_of, [0, 1]):
        assert len(counts) > 3
        assert set(counts) == {1}


def knows_torch(_: int) -> bool:
    return "torch" in sys.modules


def test_no_worker_loads_pytorch_for_nothing():
    assert list(in_processes(2)(knows_torch, [0, 1])) == [False, False]


def at_work(place: Path) -> None:
    place.write_text(str(os.getpid()))
    time.sleep(100)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_workers_end_with_a_killed_parent(tmp_path):
    """Its lock is free then, and the next run writes into the same folder."""
    places = [tmp_path / "first", tmp_path / "second"]
    code = f"import test_workers, pathlib; list(test_workers.in_processes(2)(test_workers.at_work, {places!r}))"
    code = code.replace("PosixPath", "pathlib.Path")
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}) as parent:
        _wait_for(lambda: all(place.exists() and place.read_text() for place in places))
        parent.kill()
    _wait_for(lambda: not any(_lives(int(place.read_text())) for place in places))


def _wait_for(happened, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def _lives(process: int) -> bool:
    """A zombie, which nobody may have waited for yet, does not."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
