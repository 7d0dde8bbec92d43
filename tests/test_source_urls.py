"""Sources behind a URL: the shards are those of the same files in a folder."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import toy_nuscenes
from test_preprocess import contents
from test_waymo_source import frame, write_v2
from test_waymo_source import source as waymo_source

from gwm.pipelines.preprocess import preprocess
from gwm.shards.sources.nuscenes import NuScenesSource
from gwm.shards.storage import AnyPath, as_path


@pytest.fixture
def url():
    """An empty folder in memory."""
    place = as_path(f"memory://{uuid.uuid4().hex}")
    yield place
    if place.exists():
        place.fs.rm(place.path, recursive=True)


def upload(folder: Path, url: AnyPath) -> AnyPath:
    """Move everything below a folder there: nothing of it can be read here any more."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            place = url / path.relative_to(folder).as_posix()
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
            path.unlink()
    return url


def write_nuscenes(folder: Path) -> None:
    """Two scenes with CAN bus messages; of one, the images of a camera are missing for half a second."""
    lossy = toy_nuscenes.without(toy_nuscenes.recording("scene-0061"), "back", 1.0, 1.5)
    toy_nuscenes.write(folder, toy_nuscenes.recording(), lossy)


def write_waymo(folder: Path) -> None:
    """Two segments of version 2, one of them without a camera for a while."""
    write_v2(folder, [frame(i) for i in range(12)])
    views = ("front", "side_left")
    lossy = [frame(i, views if i > 7 else (*views, "front_left"), "1_0_000_20_000") for i in range(16)]
    write_v2(folder, lossy, "1_0_000_20_000", "training")


def nuscenes(folder: AnyPath) -> NuScenesSource:
    return NuScenesSource(folder, size=(16, 16))


@pytest.mark.parametrize(
    ("write", "source", "lost"),
    [(write_nuscenes, nuscenes, "camera has a gap"), (write_waymo, waymo_source, "camera has no image")],
    ids=["nuscenes", "waymo"],
)
def test_shards_of_a_source_in_memory_are_those_of_its_folder(tmp_path, url, write, source, lost):
    write(tmp_path / "in")
    preprocess(source(tmp_path / "in"), tmp_path / "here")
    remote = upload(tmp_path / "in", url)
    report = preprocess(source(remote), tmp_path / "there")
    assert report.samples > 2
    assert lost in report.skipped_by_cause
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
