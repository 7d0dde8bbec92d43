"""Preprocessing that is killed, its workers with it, before any one of its files gets its name."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
from test_preprocess import Toy

from gwm.pipelines import workers
from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.workers import in_processes
from gwm.shards import plan
from gwm.shards.verify import verify

FORKING = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(plan, "SHARD_IMAGES", 60)


def contents(folder: Path) -> dict[str, bytes]:
    """All files; but the report says how long a run took."""
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return {name: data for name, data in files.items() if name != "report.json"}


def run(out: Path, items: int, last: int | None = None) -> int:
    """A run with two workers in a process of its own; its status. All of it is killed before rename number `last`.

    The workers are forked, not spawned: so they count as well, and begin at once.
    """
    child = os.fork()
    if child == 0:
        os.setpgrp()
        begun, rename = FORKING.Value("i", 0), Path.replace

        def deadly(path: Path, target: Path) -> Path:
            with begun:
                if begun.value == last:
                    os.killpg(0, signal.SIGKILL)
                begun.value += 1
            return rename(path, target)

        Path.replace = deadly
        workers.get_context = lambda _: FORKING
        try:
            preprocess(Toy(items), out, workers=in_processes(2))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with (out / "jobs/lock").open("a") as file:  # which the forked workers hold too: until all are gone
        fcntl.flock(file, fcntl.LOCK_EX)
    return status


def kill_and_go_on(folder: Path, renames: int) -> None:
    """Each of the kills, and the same command after it, beginning with what is in `begun` and ending as in `whole`."""
    plan.SHARD_IMAGES = 60
    whole = contents(folder / "whole")
    for moment in range(renames):
        out = shutil.copytree(folder / "begun", folder / f"{moment}")
        assert run(out, 8, moment) == -signal.SIGKILL
        if (out / "dataset.json").exists():
            assert all("not in dataset.json" in problem for problem in verify(out).problems)
        assert run(out, 8) == 0
        assert contents(out) == whole
    assert run(shutil.copytree(folder / "begun", folder / "all"), 8, renames) == 0


@pytest.mark.parametrize(("before", "renames"), [(0, 12), (5, 8)])
def test_killed_before_any_of_its_renames_the_same_command_ends_in_the_same_bytes(tmp_path, before, renames):
    """From the plan to the report, in a new folder and in one whose source has grown. No dataset.json is ever wrong.

    In a fresh process: a fork of one in which OpenCV had threads would wait for them for ever.
    """
    (tmp_path / "begun").mkdir()
    if before:
        preprocess(Toy(before), tmp_path / "begun")
    preprocess(Toy(8), shutil.copytree(tmp_path / "begun", tmp_path / "whole"))
    fresh = multiprocessing.get_context("spawn").Process(target=kill_and_go_on, args=(tmp_path, renames))
    fresh.start()
    fresh.join()
    assert fresh.exitcode == 0
