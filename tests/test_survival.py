"""Training that survives: stops, kills, signals, damaged states, full disks, two runs at once."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import training_toys as toys
from training_toys import Job, finish, plain, position, process, same_end, wait_for
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.core import ConfigError, WeightsError
from gwm.pipelines import metrics, recipe, train
from gwm.pipelines.state import newest_state, state_files
from gwm.shards import ShardError


@pytest.fixture
def job(tiny_shards: Path, autoencoder: Path, tmp_path: Path) -> Job:
    """Eight steps in four stages."""
    return Job(tiny_shards, tmp_path / "run", autoencoder, plain(2))


def unbroken(job: Job, folder: Path) -> Path:
    assert replace(job, out=folder).here().finished
    return folder


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unbroken run of eight steps."""
    return unbroken(Job(tiny_shards, Path(), autoencoder, plain(2)), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def long_whole(tiny_shards: Path, autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unbroken run of forty steps."""
    return unbroken(Job(tiny_shards, Path(), autoencoder, plain(10)), tmp_path_factory.mktemp("long") / "run")


def test_ten_random_stops_in_five_stages_change_nothing(autoencoder, tmp_path, monkeypatch):
    """The first and the last step of a stage among them. What else draws random numbers in between does not matter."""
    seed, learn, read = random.randrange(10**6), train.learn, []

    def noted(*arguments):
        read.append(arguments[3].keys)
        return learn(*arguments)

    monkeypatch.setattr(train, "learn", noted)
    data = toys.two_views(tmp_path / "data")
    job = Job(data, tmp_path / "whole", autoencoder, toys.five_stages(3))
    unbroken(job, job.out)
    order, last = list(read), job.recipe.steps
    assert len(order) == last == 15
    assert len({str(keys) for keys in order}) > 10
    border = random.Random(seed).randrange(3, 15, 3)  # where a stage ends
    others = [k for k in range(1, last) if k not in (border, border + 1)]
    for k in [border, border + 1, *random.Random(seed).sample(others, 8)]:
        broken, _ = replace(job, out=tmp_path / f"{k}"), read.clear()
        assert broken.here(stop_after=k).steps == k
        torch.manual_seed(k)
        assert broken.here().finished
        same_end(broken.out, job.out)
        assert read == order, f"stopped after {k} steps, seed {seed}"


def test_kills_at_random_moments_change_nothing(job, long_whole):
    """A state after each step: a kill costs the step in progress."""
    seed, kills = random.randrange(10**6), 4
    job, chance = replace(job, recipe=plain(10), interval=0.0), random.Random(seed)
    for _ in range(kills):
        goal = position(job.out) + chance.randint(1, 4)
        with process(job) as child:
            wait_for(lambda goal=goal: position(job.out) >= goal, child)
            time.sleep(chance.uniform(0, 2) * metrics.read(job.out / metrics.FILE)[-1].seconds_per_step)
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            assert child.exitcode == -signal.SIGKILL
        last = metrics.read(job.out / metrics.FILE)[-1].position
        assert goal <= position(job.out) == newest_state(job.out)[1]["position"] >= last - 1, f"seed {seed}"
    code, said = finish(job)
    assert (code, "warning" in said) == (0, False), said
    same_end(job.out, long_whole)


def test_no_more_than_one_interval_lies_between_two_states(job, monkeypatch):
    """By a clock that counts the steps."""
    learn, save, clock, saved = train.learn, train.Run.save, [0.0], []

    def ticking(*arguments):
        clock[0] += 1
        return learn(*arguments)

    def noted(run, learner, index, step):
        saved.append(step)
        save(run, learner, index, step)

    monkeypatch.setattr(train, "learn", ticking)
    monkeypatch.setattr(train.Run, "save", noted)
    monkeypatch.setattr(train.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(train, "SAVE_INTERVAL", 2.5)
    replace(job, recipe=plain(10)).here(stop_after=10)
    assert saved == [3, 6, 9, 10]


@pytest.mark.parametrize(
    ("method", "name", "left"),
    [
        ("replace", "recipe.json", 1),
        ("replace", "latents-*", 1),
        ("replace", "model.safetensors", 1),
        ("replace", "state-000000005.safetensors", 1),
        ("unlink", "state-000000003.safetensors", 0),
        ("replace", "1a.done", 1),
    ],
)
def test_a_kill_between_writing_and_renaming_leaves_what_was(job, whole, method, name, left):
    """A half-written file disturbs nothing, and the next run removes it."""
    code, said = finish(replace(job, interval=0.0, prepare=partial(toys.die, method, name)))
    assert code == -signal.SIGKILL, said
    assert len(toys.leftovers(job.out)) == left
    (job.out / ".tmpW2EcMj").write_bytes(b"half")  # the safetensors library's own
    assert job.here().finished
    same_end(job.out, whole)
    assert len(list((job.out / "stages").iterdir())) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(job, long_whole, number):
    job = replace(job, recipe=plain(10))
    with process(job) as child:
        wait_for(lambda: len(metrics.read(job.out / metrics.FILE)) > 3, child)
        os.kill(child.pid, number)
        child.join(toys.PATIENCE)
        assert child.exitcode == 1
    assert position(job.out) == metrics.read(job.out / metrics.FILE)[-1].position > 3
    assert "Traceback" not in job.log.read_text()
    assert finish(job)[0] == 0
    same_end(job.out, long_whole)


def saved_twice(job: Job) -> tuple[Path, Path]:
    """A run stopped after steps 2 and 4: the newest state, and the one before it."""
    for last in (2, 4):
        job.here(stop_after=last)
    newest, before = state_files(job.out)
    return newest, before


DAMAGE = {
    "half": lambda data: data[: len(data) // 2],
    "header": lambda data: data[:300],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_state_is_skipped_with_a_warning(job, whole, kind, capsys):
    newest, _ = saved_twice(job)
    newest.write_bytes(DAMAGE[kind](newest.read_bytes()))
    assert job.here(stop_after=3).steps == 3
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("warning: skipped a damaged training state") == 1
    assert newest.name in said.replace(" ", "")
    states = [newest_state_of(file) for file in state_files(job.out)]
    assert states == [3, 2]  # the damaged one takes no good one's place
    assert job.here().finished
    same_end(job.out, whole)


def newest_state_of(file: Path) -> int:
    return int(file.stem.removeprefix("state-"))


def test_no_flipped_bit_is_taken_for_a_state(job):
    """Each is found, or it changes nothing that is read."""
    newest, _ = saved_twice(job)
    data, good = newest.read_bytes(), newest_state(job.out)
    header = 8 + int.from_bytes(data[:8], "little")
    seed, found = random.randrange(10**6), 0
    chance = random.Random(seed)
    for at in [*range(8), *(chance.randrange(header) for _ in range(40)), *chance.sample(range(len(data)), 10)]:
        bit = chance.randrange(8)
        newest.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        tensors, fields = newest_state(job.out)
        if fields["position"] == 2:
            found += 1
            continue
        assert fields == good[1], f"byte {at}, bit {bit}"
        assert all(torch.equal(tensor, good[0][name]) for name, tensor in tensors.items()), f"byte {at}, bit {bit}"
    assert found > 40


def test_a_run_whose_states_are_all_damaged_does_not_start_anew(job, monkeypatch):
    files = saved_twice(job)
    for file in files:
        file.write_bytes(file.read_bytes()[:-100])
    before = {file: file.read_bytes() for file in job.out.rglob("*") if file.is_file()}
    said = refused(job, monkeypatch)
    assert "none of the training states" in said
    assert "states can be read" in said
    assert {file: file.read_bytes() for file in job.out.rglob("*") if file.is_file()} == before


def test_a_full_disk_while_saving_keeps_the_state_before(job, whole):
    """A real limit of the system, met in the middle of a state."""
    job.here(stop_after=2)
    (state,) = state_files(job.out)
    before = state.read_bytes()
    code, said = finish(replace(job, interval=0.0, prepare=partial(toys.limit, len(before) - 1000)))
    assert code == 1, said
    assert said.count("\nerror: cannot write") == 1
    assert "Traceback" not in said
    assert "state-000000003.safetensors" in said
    assert "free some space and run the same command again" in said
    assert state_files(job.out) == [state]
    assert state.read_bytes() == before
    assert not toys.leftovers(job.out)
    assert job.here().finished
    same_end(job.out, whole)


def test_a_full_disk_while_logging_is_one_error(job, whole, monkeypatch):
    """/dev/full refuses every byte."""
    monkeypatch.setattr(train, "METRICS_EVERY", 1)
    job.here(stop_after=2)
    log = job.out / metrics.FILE
    log.unlink()
    log.symlink_to("/dev/full")
    with pytest.raises(WeightsError, match=r"cannot write .*metrics\.jsonl: No space left on device; .* free some"):
        job.here()
    assert position(job.out) == 2
    log.unlink()
    assert job.here().finished
    same_end(job.out, whole)


def test_memory_does_not_grow_with_the_steps(job):
    """Within 3 % between steps 10 and 500, window lengths and masks varying."""
    stages = (replace(plain(1).stages[3], steps=500, frames=(4, 5, 6)),)
    steps = (10, 500)
    code, said = finish(replace(job, recipe=replace(plain(1), stages=stages), prepare=partial(toys.tell_memory, steps)))
    assert code == 0, said
    found = {int(step): int(size) for step, size in re.findall(r"step (\d+): (\d+) kB", said)}
    assert tuple(found) == steps
    assert found[500] <= 1.03 * found[10], found


def test_a_second_run_into_the_same_folder_is_refused(job, monkeypatch):
    job = replace(job, recipe=plain(1000), interval=0.0)
    with process(job) as child:
        wait_for(lambda: position(job.out) > 0, child)
        assert "another run is writing into" in refused(job, monkeypatch)
        assert child.is_alive()
        child.kill()
        child.join()
    at = position(job.out)
    assert job.here(stop_after=at + 1).steps == at + 1  # the lock went with the process


def refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command says: one error, exit code 1, no traceback."""
    monkeypatch.setattr(recipe, "make_recipe", lambda *_: job.recipe)
    result = CliRunner().invoke(app, job.arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/run"])
def test_a_folder_that_cannot_be_made_is_one_error(job, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("mine")
    job = replace(job, out=tmp_path / place)
    assert re.search(f"cannot write into {job.out}: .*; choose another folder with -o", refused(job, monkeypatch))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
@pytest.mark.parametrize("began", [False, True])
def test_a_read_only_folder_is_one_error(job, monkeypatch, began):
    if began:
        job.here(stop_after=1)
    job.out.mkdir(exist_ok=True)
    job.out.chmod(0o555)
    try:
        assert f"cannot write into {job.out}: Permission denied" in refused(job, monkeypatch)
    finally:
        job.out.chmod(0o755)


GARBAGE = {"text": b"no recipe", "empty": b"", "list": b"[1, 2]", "bytes": b"\xff\xfe", "null": b"null"}


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_damaged_recipe_is_one_error(job, monkeypatch, kind):
    job.here(stop_after=1)
    file, states = job.out / "recipe.json", state_files(job.out)
    file.write_bytes(GARBAGE[kind])
    said = refused(job, monkeypatch)
    assert f"{file} is damaged" in said
    assert "choose another -o" in said
    assert file.read_bytes() == GARBAGE[kind]
    assert state_files(job.out) == states


@pytest.mark.parametrize("change", ["missing", "unknown", "other"])
def test_a_recipe_of_another_version_is_one_error(job, monkeypatch, change):
    job.here(stop_after=1)
    file = job.out / "recipe.json"
    values = json.loads(file.read_text())
    if change == "missing":
        del values["ema"]
    else:
        values |= {"unknown": {"momentum": 0.5}, "other": {"ema": "a tenth"}}[change]
    file.write_text(json.dumps(values))
    said = {"missing": "ema (none there, 0", "unknown": "momentum (0.5 there, none", "other": "ema (a tenth there, 0"}
    assert f"{job.out} holds a run with other settings: {said[change]}" in refused(job, monkeypatch)
    with pytest.raises(ConfigError, match="other settings"):
        job.here()


def test_a_recipe_that_is_a_folder_is_one_error(job, monkeypatch):
    (job.out / "recipe.json").mkdir(parents=True)
    assert "recipe.json is damaged" in refused(job, monkeypatch)


def test_two_runs_in_one_process_do_not_share_a_folder_either(job):
    """The lock is released when a run ends, also by an error."""
    job.here(stop_after=1)
    with pytest.raises(ConfigError, match=r"other settings: seed \("):
        replace(job, recipe=replace(job.recipe, seed=1)).here()
    with pytest.raises(ShardError, match="another run is writing"), train.alone(job.out):
        job.here()
    assert job.here().finished
