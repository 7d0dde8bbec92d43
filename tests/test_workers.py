"""Who does independent tasks."""

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
