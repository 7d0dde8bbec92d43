"""Preprocessing on a Ray cluster of two CPUs: the same bytes, errors, lost workers, Ctrl-C."""

import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import tiny_chunk
from toy_evaluation import save_tiny, write_waymo
from toy_shards import Part

from gwm.core.sampler import Sampling
from gwm.pipelines.evaluate import Wanted, evaluate
from gwm.pipelines.feature_choice import FeatureChoice
from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.workers import on_ray
from gwm.shards import SourceError, plan
from gwm.shards.schema import Skipped
from gwm.shards.sources.world import WorldSource
from gwm.shards.verify import verify

ray = pytest.importorskip("ray", reason="needs the extra ray: pip install 'gwm[ray]'")

GWM = [sys.executable, "-c", "from gwm.cli.main import main; main()"]


@dataclass(frozen=True)
class Toy:
    """Items 0..5, two a shard; item `bad` cannot be read, item 2 loses a part, item 3 once ends its process."""

    bad: int = 1
    death: Path | None = None  # a file that says that its process has ended
    name = "toy"

    def items(self):
        return [Part(f"{i}") for i in range(6)]

    def settings(self):
        return {"bad": self.bad}

    def files(self, item):
        return ()

    def chunks(self, item):
        i = int(item.name)
        if i == self.bad:
            raise SourceError("cannot be read")
        if i == 2:
            yield Skipped("2", "half of it is gone", 15)
        yield tiny_chunk(i)
        if i == 3 and self.death and not self.death.exists():
            self.death.touch()
            os._exit(1)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(plan, "SHARD_IMAGES", 60)


@pytest.fixture(scope="module")
def cluster():
    """The address of a cluster to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # where its processes find Toy
        context = ray.init(
            "local", num_cpus=2, object_store_memory=1 << 27, include_dashboard=False, log_to_driver=False,
            logging_level="ERROR",
        )  # fmt: skip
        yield context.address_info["gcs_address"]
        ray.shutdown()


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("report.json", "lock")
    }


def test_bytes_are_those_of_one_process(tmp_path, cluster):
    teams = {"1": None, "ray": on_ray(cluster)}
    one, many = (preprocess(Toy(), tmp_path / name, workers=team) for name, team in teams.items())
    assert contents(tmp_path / "1") == contents(tmp_path / "ray")
    assert len(list((tmp_path / "ray").glob("*.tar"))) == 3
    different = ("out", "seconds", "frames_per_second")
    assert {k: v for k, v in vars(one).items() if k not in different} == {
        k: v for k, v in vars(many).items() if k not in different
    }
    assert verify(tmp_path / "ray").ok
    assert ray.is_initialized()  # it was not this run that connected


def test_an_evaluation_has_the_digits_of_one_process(tmp_path, cluster):
    shards, model = write_waymo(tmp_path / "shards", 3), save_tiny(tmp_path / "model.safetensors")
    wanted = Wanted("waymo", shards, FeatureChoice(kind="lite"), Sampling(steps=1, guidance=1.0), model)
    one = evaluate(wanted, tmp_path / "one", "cpu")
    many = evaluate(wanted, tmp_path / "many", "cpu", on_ray(cluster))
    assert one["figures"] == many["figures"]
    assert one["figures"][0]["n_clips"] == 3


def test_a_job_whose_process_dies_runs_again(tmp_path, cluster):
    preprocess(Toy(), tmp_path / "1")
    preprocess(Toy(death=tmp_path / "death"), tmp_path / "ray", workers=on_ray(cluster))
    assert (tmp_path / "death").exists()
    assert contents(tmp_path / "1") == contents(tmp_path / "ray")  # and no temporary file is left


def test_a_machine_without_the_code_is_one_error(tmp_path, monkeypatch, cluster):
    (tmp_path / "only_here.py").write_text("from test_ray import Toy\nclass Source(Toy):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    source = importlib.import_module("only_here").Source()
    with pytest.raises(SourceError, match=r"^a job failed on the Ray cluster: .*failed to import.*$"):
        preprocess(source, tmp_path / "ray", workers=on_ray(cluster))


def test_the_command_connects_to_a_cluster_that_began_in_another_folder(tmp_path, cluster):
    """Its paths are seen from the user's folder."""
    preprocess(WorldSource(3, frames=5, size=(64, 32)), tmp_path / "1")
    command = ["preprocess", "world", "--scenes", "3", "--frames", "5", "--size", "64x32", "-o", "ray"]
    done = subprocess.run([*GWM, *command, "--ray", cluster], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "[" not in done.stderr, done.stderr  # as lines of Ray's log begin
    assert contents(tmp_path / "1") == contents(tmp_path / "ray")
    assert ray.is_initialized()


def test_strict_stops_with_the_jobs_own_error(tmp_path, cluster):
    with pytest.raises(SourceError, match=r"^(2: half of it is gone|4: cannot be read)$"):
        preprocess(Toy(bad=4), tmp_path, strict=True, workers=on_ray(cluster))
    assert not (tmp_path / "dataset.json").exists()


@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1:1", "refused"), ("ray://127.0.0.1:1", "refused"), ("head", "not HOST:PORT"), ("head:x", "HOST:PORT")],
)
def test_a_bad_address_is_one_error_at_once(tmp_path, monkeypatch, address, why):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # the other tests' cluster
    with pytest.raises(SourceError, match=f"no Ray cluster at {address}: .*{why}.*local"):
        preprocess(Toy(), tmp_path, workers=on_ray(address))


def test_a_run_with_nothing_to_do_needs_no_cluster(tmp_path):
    preprocess(Toy(), tmp_path)
    assert preprocess(Toy(), tmp_path, workers=on_ray("nowhere")).new_shards == 0


def processes(session: int) -> list[str]:
    """The command lines of a session's processes that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                found.append((folder / "cmdline").read_text())
        except OSError:  # it ended
            continue
    return found


@pytest.fixture
def heeds_ctrl_c():
    """A shell's background job ignores Ctrl-C, and so would what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see the processes")
def test_ctrl_c_leaves_no_process(tmp_path):
    """As a terminal does it: to the command and all its children."""
    command = [*GWM, "preprocess", "world", "--scenes", "500", "--frames", "100", "-o", "out", "--ray", "local"]
    with subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as gwm:
        end = time.monotonic() + 60
        while not list(tmp_path.glob("out/.*.tmp.tar")):  # jobs are at work
            assert gwm.poll() is None, gwm.stdout.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        alive = " ".join(processes(gwm.pid))
        assert all(name in alive for name in ("gcs_server", "raylet", "ray::job")), alive
        os.killpg(gwm.pid, signal.SIGINT)
        said, _ = gwm.communicate(timeout=60)
        assert (gwm.returncode, said.splitlines()[-1:]) == (1, ["error: stopped"]), said
        end = time.monotonic() + 10
        while (left := processes(gwm.pid)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left
