"""Sources and shards in an S3 bucket: a real server of the protocol, run here."""

import os
import time

import pytest
from test_preprocess import Toy, contents
from test_video_source import source as video_source
from test_waymo_source import NAME, frame, write_v1, write_v2
from test_waymo_source import source as waymo_source
from toy_video import regular, write

from gwm.pipelines.preprocess import preprocess
from gwm.pipelines.workers import in_processes
from gwm.shards import ShardError, SourceError, plan
from gwm.shards.index import open_dataset
from gwm.shards.reader import read_window
from gwm.shards.storage import as_path
from gwm.shards.verify import verify

server = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The URL of an empty bucket."""
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    given = {
        "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    import fsspec.config

    fsspec.config.set_conf_env(fsspec.config.conf)
    url = as_path("s3://bucket")
    url.fs.mkdir("bucket")
    yield "s3://bucket"
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    fsspec.config.conf.pop("s3", None)
    running.stop()


def upload(folder, url):
    """Everything below a folder."""
    target = as_path(url)
    target.fs.put(str(folder), target.path, recursive=True)
    return target


def test_shards_in_a_bucket_are_those_in_a_folder(bucket, tmp_path):
    preprocess(Toy(), tmp_path)
    out = as_path(f"{bucket}/toy")
    preprocess(Toy(), out)
    assert contents(out) == contents(tmp_path)
    assert verify(out).ok
    dataset = open_dataset(out)
    assert read_window(dataset, 1, 3, 5).frames.shape == (5, 1, 32, 64, 3)
    assert preprocess(Toy(8), out).new_shards == 1
    assert not [path for path in (out / "jobs").iterdir() if path.name == "lock"]


def test_sources_in_a_bucket_are_those_in_a_folder(bucket, tmp_path):
    videos, waymo = tmp_path / "videos", tmp_path / "waymo"
    videos.mkdir()
    write(videos / "a.mp4", regular(30, 90))
    write(videos / "b.webm", regular(25, 90), codec="libvpx-vp9")
    write_v1(waymo, [frame(i) for i in range(12)])
    write_v2(waymo, [frame(i, name="1_0_000_20_000") for i in range(12)], "1_0_000_20_000", "training")
    for name, source, folder in (("video", video_source, videos), ("waymo", waymo_source, waymo)):
        remote = upload(folder, f"{bucket}/{name}-source")
        preprocess(source(folder), tmp_path / "out" / name)
        preprocess(source(remote), as_path(f"{bucket}/{name}-out"))
        assert contents(as_path(f"{bucket}/{name}-out")) == contents(tmp_path / "out" / name)
    assert NAME in {row["scene"] for row in open_dataset(tmp_path / "out" / "waymo").table.to_pylist()}


def test_what_was_damaged_in_a_bucket_is_read_again_once_it_was_repaired_and_not_before(bucket, tmp_path, monkeypatch):
    """Also where it is the workers that read, who see a file by itself and not in a listing."""
    monkeypatch.setattr(plan, "SHARD_IMAGES", 1)
    for name in ("a", "b"):
        path = write_v1(tmp_path / "in", [frame(i) for i in range(12)], name)
        good = path.read_bytes()
        path.write_bytes(good[:-9] + b"?" + good[-8:])
    remote, out = upload(tmp_path / "in", f"{bucket}/damaged"), tmp_path / "out"

    def again():
        remote.fs.invalidate_cache()
        report = preprocess(waymo_source(remote), out, workers=in_processes(2))
        return report.new_shards, report.frames

    assert [again(), again()] == [(2, 22), (0, 22)]
    time.sleep(1.1)  # S3 tells whole seconds
    (remote / "validation" / path.name).write_bytes(good)
    assert [again(), again()] == [(1, 23), (0, 23)]


def test_what_is_not_in_the_bucket_is_one_error(bucket):
    with pytest.raises(ShardError, match="no dataset at s3://bucket/nowhere"):
        open_dataset(as_path(f"{bucket}/nowhere"))
    with pytest.raises(SourceError, match="s3://bucket/nowhere does not exist"):
        preprocess(waymo_source(as_path(f"{bucket}/nowhere")), as_path(f"{bucket}/new"))
    with pytest.raises(SourceError, match="cannot open nosuch://bucket"):
        as_path("nosuch://bucket")
