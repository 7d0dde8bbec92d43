"""The preprocessing pipeline: jobs, workers, skips, resuming, adding, refusing."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from conftest import tiny_chunk
from toy_shards import Part

from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.workers import choose_workers, in_processes
from gwm.shards import ShardError, SourceError, plan
from gwm.shards.index import open_dataset
from gwm.shards.lock import locked
from gwm.shards.schema import Skipped
from gwm.shards.storage import as_path
from gwm.shards.tar import OpenShard
from gwm.shards.verify import verify


@dataclass(frozen=True)
class Toy:
    """Items 0..n-1; item 1 is bad, item 2 loses a part."""

    n: int = 5
    bad: int = 1
    stamp: str = ""
    name = "toy"

    def items(self):
        return [Part(f"{i}", stamp=self.stamp if i == 1 else "") for i in range(self.n)]

    def settings(self):
        return {"bad": self.bad}

    def files(self, item):
        return ()

    def chunks(self, item):
        i = int(item.name)
        if i == self.bad and not self.stamp:
            raise SourceError("cannot be read")
        if i == 2:
            yield Skipped("2", "half of it is gone", 15)
        yield tiny_chunk(i)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(plan, "SHARD_IMAGES", 60)


def contents(folder, without=("report.json",)):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name not in without}


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    preprocess(Toy(), tmp_path / "1")
    preprocess(Toy(), tmp_path / "2", workers=in_processes(2))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert verify(tmp_path / "1").ok


def test_bad_items_are_counted_and_named(tmp_path):
    report = preprocess(Toy(), tmp_path / "out")
    assert (report.samples, report.frames, report.shards) == (4, 120, 3)
    expected = [
        {"item": "1", "cause": "cannot be read", "frames": 0},
        {"item": "2", "cause": "half of it is gone", "frames": 15},
    ]
    assert report.skipped == expected
    assert (report.skipped_frames, report.skipped_by_cause) == (15, {"cannot be read": 1, "half of it is gone": 1})
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["skipped"] == expected
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == vars(report)


def test_strict_stops_and_keeps_the_shards_before(tmp_path):
    with pytest.raises(SourceError, match="4: cannot be read"):
        preprocess(Toy(bad=4), tmp_path / "out", strict=True, workers=lambda do, tasks: map(do, tasks[2:]))
    with pytest.raises(SourceError, match="2: half of it is gone"):
        preprocess(Toy(bad=4), tmp_path / "out", strict=True)
    assert set(contents(tmp_path / "out")) == {"toy-000000.tar"}


def test_nothing_but_bad_items_is_an_error(tmp_path):
    with pytest.raises(ShardError, match="cannot be read"):
        preprocess(Toy(1, bad=0), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_second_run_does_nothing_and_a_longer_source_adds_shards(tmp_path):
    first = preprocess(Toy(), tmp_path)
    before = contents(tmp_path)
    again = preprocess(Toy(), tmp_path)
    assert (first.new_shards, again.new_shards, again.samples) == (3, 0, 4)
    assert contents(tmp_path) == before
    grown = preprocess(Toy(8), tmp_path)
    assert (grown.new_shards, grown.shards, grown.samples) == (2, 5, 7)
    after = contents(tmp_path)
    assert {name: after[name] for name in before if name.endswith(".tar")} == {
        name: data for name, data in before.items() if name.endswith(".tar")
    }
    assert verify(tmp_path).ok


def test_a_source_file_that_changed_is_read_anew_and_nothing_else(tmp_path):
    preprocess(Toy(), tmp_path)
    old = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    report = preprocess(Toy(stamp="repaired"), tmp_path)
    new = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    assert (report.new_shards, report.samples) == (1, 5)
    assert [name for name in old if old[name] != new[name]] == ["toy-000000.tar"]
    assert verify(tmp_path).ok


def test_an_item_that_is_gone_is_reported(tmp_path):
    preprocess(Toy(), tmp_path, workers=lambda do, tasks: map(do, tasks))
    (tmp_path / "toy-000001.tar").unlink()  # so its job runs again, with item 3 gone
    report = preprocess(replace(Toy(), n=3), tmp_path)
    assert {"item": "3", "cause": "no longer in the source", "frames": 0} in report.skipped


def test_what_is_missing_from_the_start_is_reported_and_leaves_the_shards_alone(tmp_path):
    class Listed(Toy):
        def items(self):
            return [Skipped("x", "video is not there", 7), *super().items()]

    preprocess(Toy(), tmp_path)
    shards = {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")}
    report = preprocess(Listed(), tmp_path)
    assert (report.new_shards, report.skipped_frames) == (0, 22)
    assert open_dataset(tmp_path).skipped[0] == {"item": "x", "cause": "video is not there", "frames": 7}
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.tar")} == shards
    with pytest.raises(SourceError, match="x: video is not there"):
        preprocess(Listed(), tmp_path / "new", strict=True)


def test_other_settings_and_other_sources_are_refused(tmp_path):
    preprocess(Toy(), tmp_path)
    before = contents(tmp_path, ())
    with pytest.raises(ShardError, match=r"other settings: bad 1 instead of 0.*-o"):
        preprocess(Toy(bad=0), tmp_path)

    class Other(Toy):
        name = "other"

    with pytest.raises(ShardError, match=r"holds shards of 'toy'.*'other'"):
        preprocess(Other(), tmp_path)
    (tmp_path / "jobs" / "plan.json").write_text("{")
    with pytest.raises(ShardError, match=r"plan.json cannot be read"):
        preprocess(Toy(), tmp_path)
    assert contents(tmp_path, ()) == before


def test_two_items_of_one_name_are_refused(tmp_path):
    class Twice(Toy):
        def items(self):
            return [Part("a"), Part("b"), Part("a")]

    with pytest.raises(SourceError, match="more than once, such as a"):
        preprocess(Twice(), tmp_path)


def test_a_second_run_at_once_is_refused_by_another_process(tmp_path):
    (tmp_path / "jobs").mkdir()
    code = (
        "import sys; from pathlib import Path; from gwm.shards.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ShardError, match="another run is writing"):
            preprocess(Toy(), tmp_path)
        holder.kill()  # the lock goes with the process, however that ends
    assert preprocess(Toy(), tmp_path).samples == 4


def test_in_an_object_store_the_lock_is_a_lease(monkeypatch):
    out = as_path("memory://lease")
    with locked(out):
        with pytest.raises(ShardError, match=r"another run .*process \d+"), locked(out):
            pass
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 100)
        with locked(out):  # the other one gave no sign of life
            pass


def test_a_dataset_in_an_object_store_is_the_same(tmp_path):
    preprocess(Toy(), tmp_path / "out")
    out = as_path("memory://bucket/toy")
    preprocess(Toy(), out)
    assert {
        path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != "report.json"
    } == (contents(tmp_path / "out"))
    assert verify(out).ok
    assert len(open_dataset(out)) == 4


def test_a_read_only_folder_is_one_error():
    user = os.geteuid()
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        if user == 0:
            os.seteuid(65534)  # nobody: nothing is read-only for root
        try:
            with pytest.raises(ShardError, match=r"cannot write into .*: Permission denied; choose another"):
                preprocess(Toy(), Path(folder))
        finally:
            os.seteuid(user)


def test_a_file_in_the_place_of_the_folder_is_one_error(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ShardError, match="cannot write into"):
        preprocess(Toy(), tmp_path / "out")


def test_no_dataset_is_there_while_one_of_its_shards_is_written_anew(tmp_path):
    """A reader would take the new bytes for the old ones, which may be as many."""

    def stopped(do, tasks):
        raise KeyboardInterrupt

    preprocess(Toy(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        preprocess(Toy(8), tmp_path, workers=stopped)
    assert len(open_dataset(tmp_path)) == 4  # only new ones were to be written
    with pytest.raises(KeyboardInterrupt):
        preprocess(Toy(stamp="repaired"), tmp_path, workers=stopped)
    assert not (tmp_path / "dataset.json").exists()


def killed(out: Path, member: int, after: float) -> None:
    """A run in a process of its own, which is killed `after` seconds from when it writes the member of that number."""
    child = os.fork()
    if child == 0:
        append, written = OpenShard.append, itertools.count()

        def count(self: OpenShard, name: str, data: bytes) -> int:
            if next(written) == member:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process at once
                signal.setitimer(signal.ITIMER_REAL, after)
            return append(self, name, data)

        OpenShard.append = count
        with suppress(BaseException):
            preprocess(Toy(8), out)
        os._exit(0)
    os.waitpid(child, 0)


def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(tmp_path):
    """At 20 moments in all, four of them one after the other."""
    preprocess(Toy(8), tmp_path / "whole")
    rng, shards = np.random.default_rng(0), set()
    for series in range(5):
        out = tmp_path / f"{series}"
        for _ in range(4):
            killed(out, int(rng.integers(120)), float(rng.uniform(1e-6, 0.004)))
            shards.add(len([path for path in out.glob("*.tar") if ".tmp." not in path.name]))
        preprocess(Toy(8), out)
        assert contents(out) == contents(tmp_path / "whole")
        assert not [path for path in out.rglob("*") if ".tmp." in path.name]
    assert len(shards) > 2  # they were killed at work, not before or after


def test_processes_here_and_a_cluster_are_not_both_asked_for():
    with pytest.raises(SourceError, match="--workers 2 is for this machine, and --ray for a cluster: leave one out"):
        choose_workers(2, "local")
