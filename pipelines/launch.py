"""Start a command again in several processes, as `torchrun` does."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Sequence


def inside_torchrun() -> bool:
    """Whether this process is one of several already."""
    return "WORLD_SIZE" in os.environ


def launch(processes: int, arguments: Sequence[str]) -> bool:
    """Run `gwm ARGUMENTS` in so many processes of this machine; returns whether all of them ended well.

    On CPUs they share the cores, unless OMP_NUM_THREADS says otherwise. SIGINT and SIGTERM reach all of them.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes speak for themselves
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.2, start_method="spawn",
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "gwm.cli.main", *arguments)
    except (ChildFailedError, SignalException):
        return False
    return True
