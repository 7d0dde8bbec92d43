"""Start a command again in several processes, as `torchrun` does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence


def inside_torchrun() -> bool:
    """Whether this process is one of several already."""
    return "WORLD_SIZE" in os.environ


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `gwm ARGUMENTS` in so many processes of this machine and wait for them; returns the exit code.

    On CPUs the processes share the cores, unless OMP_NUM_THREADS says otherwise. A signal to this process reaches them.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    child = subprocess.Popen(
        [sys.executable, *torchrun, "-m", "gwm.cli.main", *arguments], env={"OMP_NUM_THREADS": threads, **os.environ}
    )
    before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:  # the terminal sent it to them as well: they save and end
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
