"""The shard format as other tools see it, and what the writer refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from toy_shards import SIZE, make_camera, make_chunk, toy, write

from gwm.shards import ShardError
from gwm.shards.images import decode_jpeg, encode_jpeg
from gwm.shards.index import open_dataset
from gwm.shards.schema import VIEWS, Chunk, Motion
from gwm.shards.tar import OpenShard
from gwm.shards.verify import info, verify
from gwm.shards.writer import DatasetWriter


def test_webdataset_alone_iterates_and_decodes(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    chunks = [make_chunk(i, 3, ["front", "back_left"]) for i in range(5)]
    out = write(tmp_path / "out", chunks, max_shard_samples=2)
    shards = sorted(str(path) for path in out.glob("toy-*.tar"))
    samples = list(wds.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [chunk.key for chunk in chunks]
    for sample, chunk in zip(samples, chunks, strict=True):
        images = {f"{view}.{i:03d}.jpg" for view in chunk.frames for i in range(3)}
        assert {name for name in sample if name.endswith(".jpg")} == images
        assert sample["json"]["timestamps"] == chunk.timestamps.tolist()
        for name in images:
            view, i, _ = name.split(".")
            assert np.abs(sample[name].astype(int) - decode_jpeg(chunk.frames[view][int(i)])).max() <= 3


@pytest.mark.parametrize("key", ["short", "k" * 130])
def test_bytes_are_those_of_webdatasets_own_writer(tmp_path: Path, key: str) -> None:
    wds = pytest.importorskip("webdataset")
    out = write(tmp_path / "out", [replace(make_chunk(0, 3), key=key), make_chunk(1, 3)])
    theirs = tmp_path / "theirs.tar"
    with wds.TarWriter(str(theirs), encoder=False, mtime=0) as tar:
        for sample in wds.WebDataset(str(out / "toy-000000.tar"), shardshuffle=False):
            tar.write({name: data for name, data in sample.items() if name == "__key__" or name[0] != "_"})
    assert theirs.read_bytes() == (out / "toy-000000.tar").read_bytes()
    assert verify(out).ok


def test_more_than_999_frames_have_four_digits_and_stay_in_order(tmp_path: Path) -> None:
    jpeg = make_chunk(0).frames["front"][0]
    chunk = replace(
        make_chunk(0), frames={"front": [jpeg] * 1001}, timestamps=np.arange(1001) / 10, motion=Motion(), cameras=()
    )
    dataset = open_dataset(write(tmp_path / "out", [chunk]))
    with tarfile.open(dataset.path / "toy-000000.tar") as tar:
        names = tar.getnames()
    assert names[0] == "chunk-0000.front.0000.jpg"
    assert names[1000] == "chunk-0000.front.1000.jpg"
    assert [member.name for member in dataset.row(0).members()] == names


def test_pyarrow_alone_reads_the_index_and_offsets_are_exact(tmp_path: Path) -> None:
    chunks = [make_chunk(i, 3 + i, VIEWS[: 1 + i % 3]) for i in range(5)]
    out = write(tmp_path / "out", chunks, max_shard_samples=2)
    rows = pq.read_table(out / "index.parquet").to_pylist()
    assert [row["key"] for row in rows] == [chunk.key for chunk in chunks]
    for row, chunk in zip(rows, chunks, strict=True):
        data = (out / row["shard"]).read_bytes()
        spans = list(zip(row["frame_offsets"], row["frame_sizes"], strict=True))
        jpegs = [jpeg for view in row["views"] for jpeg in chunk.frames[view]]
        assert [data[a : a + n] for a, n in spans] == jpegs
        fields = json.loads(data[row["json_offset"] : row["json_offset"] + row["json_size"]])
        assert fields["extra"] == chunk.extra
        with tarfile.open(out / row["shard"]) as tar:
            members = [m for m in tar.getmembers() if m.name.startswith(row["key"])]
        assert members[0].offset == row["offset"]
        assert {m.offset_data for m in members} == {row["json_offset"], *row["frame_offsets"]}
        last = members[-1]
        assert row["offset"] + row["size"] == last.offset_data + last.size + -last.size % 512


def test_rows_of_the_dataset_are_those_of_the_index(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out", range(2, 8))
    for i, row in enumerate(pq.read_table(dataset.path / "index.parquet").to_pylist()):
        mine = {name: list(v) if isinstance(v, tuple | np.ndarray) else v for name, v in vars(dataset.row(i)).items()}
        assert mine == row


def test_dataset_json_says_what_is_inside(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "out", "toy", {"seed": 1}, max_shard_samples=2) as writer:
        for i in range(5):
            writer.add(make_chunk(i, 10 + i, split="val" if i == 4 else "train"))
        writer.skip("a.mp4", "no video stream")
        writer.skip("b.mp4", "no video stream")
    fields = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (fields["schema_version"], fields["source"], fields["settings"]) == (1, "toy", {"seed": 1})
    assert (fields["views"], fields["size"], fields["frame_rate"]) == (["front"], list(SIZE), 10.0)
    assert fields["counts"] == {
        "samples": 5,
        "frames": 60,
        "seconds": 6.0,
        "scenes": 3,
        "splits": {
            "train": {"samples": 4, "frames": 46, "seconds": 4.6, "scenes": 2},
            "val": {"samples": 1, "frames": 14, "seconds": 1.4, "scenes": 1},
        },
    }
    assert [shard["samples"] for shard in fields["shards"]] == [2, 2, 1]
    for shard in fields["shards"]:
        data = (tmp_path / "out" / shard["name"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert fields["skipped_by_cause"] == {"no video stream": 2}
    summary = info(tmp_path / "out")
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["samples"], summary["skipped"], summary["present"]["pose"]) == (5, 2, 1.0)


def test_shards_keep_to_their_limits(tmp_path: Path) -> None:
    one = open_dataset(write(tmp_path / "one", [make_chunk(0)])).row(0).size
    out = write(tmp_path / "out", [make_chunk(i) for i in range(6)], max_shard_bytes=2 * one + 10240)
    shards = open_dataset(out).shards
    assert [shard.samples for shard in shards] == [2, 2, 2]
    tiny = write(tmp_path / "tiny", [make_chunk(0)], max_shard_bytes=1)  # a sample larger than a shard has its own
    assert [shard.samples for shard in open_dataset(tiny).shards] == [1]


def test_second_run_is_byte_identical(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, [make_chunk(i) for i in range(5)], max_shard_samples=2)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["dataset.json", "index.parquet", "toy-000000.tar", "toy-000001.tar", "toy-000002.tar"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# What the writer refuses, and what it leaves behind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "a.b"}, "clean_key"),
        ({"split": "test"}, "split 'test'"),
        ({"frames": {}}, "missing"),
        ({"frames": {"rear": [b""] * 12}}, "rear"),
        ({"frames": {"front": [b"\xff\xd8 not a JPEG"] * 12}}, "front frame 0 is no JPEG"),
        ({"timestamps": np.arange(11) / 10}, "11 timestamps"),
        ({"timestamps": np.arange(12) / 5}, "0.1 s apart"),
        ({"timestamps": np.arange(12)[::-1] / 10}, "0.1 s apart"),
        ({"timestamps": np.full(12, np.nan)}, "timestamps are not finite"),
        ({"timestamps": np.zeros(0)}, "shape"),
        ({"motion": Motion(speed=np.zeros(11))}, "speed has shape"),
        ({"motion": Motion(steering=np.full(12, np.nan))}, "steering is not finite"),
        ({"motion": Motion(pose=np.zeros((12, 3, 4)))}, "pose has shape"),
        ({"cameras": (make_camera("back"),)}, "cameras"),
        ({"cameras": (make_camera("front", (64, 32)),)}, "64x32"),
        ({"cameras": (replace(make_camera("front"), intrinsics=np.eye(2)),)}, "3x3"),
        ({"extra": {"when": {1, 2}}}, "JSON"),
        ({"key": "chunk-0000"}, "used before"),
    ],
)
def test_inconsistent_chunks_are_refused_and_leave_no_trace(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with DatasetWriter(tmp_path / "out", "toy", {}) as writer:
        writer.add(make_chunk(0))
        with pytest.raises(ShardError, match=message):
            writer.add(replace(make_chunk(1), **change))  # type: ignore[arg-type]
        writer.add(make_chunk(2))
    assert verify(tmp_path / "out").ok
    plain = write(tmp_path / "plain", [make_chunk(0), make_chunk(2)])
    assert (plain / "toy-000000.tar").read_bytes() == (tmp_path / "out" / "toy-000000.tar").read_bytes()


def test_all_frames_of_a_dataset_have_one_size(tmp_path: Path) -> None:
    small = encode_jpeg(np.zeros((8, 16, 3), np.uint8))
    with DatasetWriter(tmp_path / "out", "toy", {}) as writer:
        writer.add(make_chunk(0))
        with pytest.raises(ShardError, match="16x8"):
            writer.add(replace(make_chunk(1), frames={"front": [small] * 12}, cameras=()))


def test_an_exception_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Chunk]:
        yield from (make_chunk(i) for i in range(5))
        raise KeyboardInterrupt

    def crash(out: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            write(out, interrupted(), max_shard_samples=2)

    crash(tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    crash(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_full_disk_is_one_clear_error_even_if_the_caller_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = OpenShard.append

    def full(self: OpenShard, name: str, data: bytes) -> int:
        if name.startswith("chunk-0003"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(self, name, data)

    monkeypatch.setattr(OpenShard, "append", full)

    def run() -> None:
        with DatasetWriter(tmp_path / "out", "toy", {}, max_shard_samples=2) as writer:
            for i in range(6):
                with suppress(ShardError):  # as a pipeline that skips bad samples
                    writer.add(make_chunk(i))

    with pytest.raises(ShardError, match="No space left"):
        run()
    assert not (tmp_path / "out").exists()


def test_an_existing_dataset_is_not_touched(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    before = {path: path.read_bytes() for path in dataset.path.iterdir()}
    with pytest.raises(ShardError, match=r"already holds a dataset; .* -o"):
        write(dataset.path, [make_chunk(0)])
    assert {path: path.read_bytes() for path in dataset.path.iterdir()} == before


def test_leftovers_of_a_killed_run_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    """A killed run leaves shards and temporary files without dataset.json; a shorter run must not keep
    the old shards."""
    out = tmp_path / "out"
    killed = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import toy_shards as t\n"
        "writer = t.DatasetWriter(Path(sys.argv[2]), 'toy', {}, max_shard_samples=2).__enter__()\n"
        "[writer.add(t.make_chunk(i)) for i in range(7)]; os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(Path(__file__).parent), str(out)], check=False)
    assert len([path for path in out.iterdir() if path.name.startswith("toy-")]) == 3
    assert len([path for path in out.iterdir() if ".tmp." in path.name]) == 2
    with pytest.raises(ShardError, match=r"no dataset.json"):
        open_dataset(out)
    (out / "other-000000.tar").write_bytes(b"not ours")
    write(out, [make_chunk(0)])
    expected = ["dataset.json", "index.parquet", "other-000000.tar", "toy-000000.tar"]
    assert sorted(path.name for path in out.iterdir()) == expected
    assert verify(out).problems == ["other-000000.tar: not in dataset.json"]


def test_an_empty_dataset_names_what_was_skipped(tmp_path: Path) -> None:
    def run() -> None:
        with DatasetWriter(tmp_path / "out", "toy", {}) as writer:
            for i in range(7):
                writer.skip(f"{i}.mp4", "too short")

    with pytest.raises(ShardError, match=r"7 skipped: 0.mp4: too short.*and 2 more"):
        run()
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ShardError, match="-o"):
            write(out, [make_chunk(0)])
