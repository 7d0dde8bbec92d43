"""The shard format as other tools see it, and what the writer refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_shards import SIZE, make_camera, make_chunk, toy, write, write_shard

from gwm.shards import ShardError
from gwm.shards.dataset import complete
from gwm.shards.images import decode_jpeg, encode_jpeg
from gwm.shards.index import INDEX_SCHEMA, open_dataset
from gwm.shards.plan import Job
from gwm.shards.reader import read_window
from gwm.shards.schema import VIEWS, Caption, Chunk, Motion, Skipped
from gwm.shards.tar import OpenShard
from gwm.shards.verify import info, verify
from gwm.shards.writer import SampleError, ShardWriter, _table, read_record, write_job


def test_webdataset_alone_iterates_and_decodes(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    chunks = [make_chunk(i, 3, ["front", "back_left"]) for i in range(5)]
    out = write(tmp_path / "out", chunks, per_shard=2)
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
    out = write(tmp_path / "out", chunks, per_shard=2)
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


def test_rows_come_back_as_they_were_given(tmp_path: Path) -> None:
    """They go through JSON: long lines, texts with its own signs, what looks like a date, and numbers of full size."""
    row = toy(tmp_path, range(2, 4)).row(0)
    awkward = 'a "b"\n\\ \u2028 {[ü' + "x" * 2_000_000
    rows = [
        replace(row, key="2026-01-01", text=awkward, offset=2**63 - 1),
        replace(row, views=(), json_crc32=2**32 - 1, frame_crc32=np.array([0, 2**32 - 1], np.uint32)),
    ]
    assert _table(rows).equals(pa.Table.from_pylist([vars(row) for row in rows], schema=INDEX_SCHEMA))
    assert _table([]).equals(INDEX_SCHEMA.empty_table())


def test_dataset_json_says_what_is_inside(tmp_path: Path) -> None:
    chunks = [make_chunk(i, 10 + i, split="val" if i == 4 else "train") for i in range(5)]
    lost = [Skipped("a.mp4", "no video stream"), Skipped("b.mp4", "no video stream", 7)]
    records = [write_shard(tmp_path / "out", chunks[i : i + 2], i // 2, lost if i == 2 else ()) for i in (0, 2, 4)]
    complete(tmp_path / "out", "toy", {"seed": 1}, records, lost)
    fields = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (fields["schema_version"], fields["source"], fields["settings"]) == (3, "toy", {"seed": 1})
    assert (fields["views"], fields["sizes"], fields["frame_rate"]) == (["front"], {"front": list(SIZE)}, 10.0)
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
    assert fields["skipped"][1] == {"item": "b.mp4", "cause": "no video stream", "frames": 7}
    summary = info(tmp_path / "out")
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["samples"], summary["skipped"], summary["present"]["pose"]) == (5, 2, 1.0)


def test_second_run_is_byte_identical(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, [make_chunk(i) for i in range(5)], per_shard=2)
    files = sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_file())
    assert files == ["dataset.json", "index.parquet", "toy-000000.tar", "toy-000001.tar", "toy-000002.tar"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# What the writer refuses, and what it leaves behind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "a.b"}, "clean_key"),
        ({"split": "testing"}, "split 'testing'"),
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
    bad = replace(make_chunk(1), **change)  # type: ignore[arg-type]
    with writer_of(tmp_path / "out") as writer:
        writer.add(make_chunk(0))
        with pytest.raises(SampleError, match=message):
            writer.add(bad)
        writer.add(make_chunk(2))
    write(tmp_path / "plain", [make_chunk(0), make_chunk(2)])
    shard = "toy-000000.tar"
    assert (tmp_path / "plain" / shard).read_bytes() == (tmp_path / "out" / shard).read_bytes()


def writer_of(out: Path) -> ShardWriter:
    (out / "jobs").mkdir(parents=True)
    return ShardWriter(out, Job(0, {"x": ""}), "toy")


def test_an_inconsistent_chunk_is_reported_with_its_frames(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    record = write_job(tmp_path, "toy", Job(0, {"x": ""}), [make_chunk(0), make_chunk(0)], {})
    assert record.shard.samples == 1
    (skipped,) = record.skipped
    assert (skipped.cause, skipped.frames) == ("sample is not consistent", 12)
    assert "used before" in skipped.item


def test_all_frames_of_a_view_have_one_size(tmp_path: Path) -> None:
    small = encode_jpeg(np.zeros((8, 16, 3), np.uint8))
    other = replace(make_chunk(1), frames={"front": [small] * 12}, cameras=())
    with writer_of(tmp_path / "out") as writer:
        writer.add(make_chunk(0))
        with pytest.raises(SampleError, match="16x8"):
            writer.add(other)
        writer.add(replace(make_chunk(2), frames={"side_left": [small] * 12}, cameras=()))  # another view may have
    with pytest.raises(ShardError, match="front frames of 16x8, shards before it 32x16"):
        write(tmp_path / "two", [make_chunk(0), other], per_shard=1)


def test_captions_come_back(tmp_path: Path) -> None:
    captions = (Caption(0, 5, "a junction", 1), Caption(5, 12, "a tunnel"))
    dataset = open_dataset(write(tmp_path / "out", [replace(make_chunk(0), captions=captions)]))
    for start, text in ((0, "a junction"), (4, "a tunnel"), (8, "a tunnel")):
        assert read_window(dataset, 0, start, 4).text == text
    with writer_of(tmp_path / "bad") as writer, pytest.raises(SampleError, match="caption of frames 5 to 13 of 12"):
        writer.add(replace(make_chunk(0), captions=(Caption(5, 13, ""),)))


def test_an_exception_leaves_neither_shard_nor_record(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Chunk]:
        yield make_chunk(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "out", interrupted())
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["jobs"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = OpenShard.append

    def full(self: OpenShard, name: str, data: bytes) -> int:
        if name.startswith("chunk-0003"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(self, name, data)

    monkeypatch.setattr(OpenShard, "append", full)
    with pytest.raises(ShardError, match="No space left on device; finished shards are kept"):
        write(tmp_path / "out", [make_chunk(i) for i in range(6)], per_shard=2)
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(left) == ["000000.parquet", "toy-000000.tar"]


@pytest.mark.parametrize("damage", ["record", "shard", "gone", "stamp"])
def test_a_job_whose_files_are_damaged_is_not_finished(tmp_path: Path, damage: str) -> None:
    job = write_shard(tmp_path, [make_chunk(0)]).job
    assert read_record(tmp_path, job) is not None
    shard, record = tmp_path / "toy-000000.tar", tmp_path / "jobs" / "000000.parquet"
    if damage == "record":
        record.write_bytes(record.read_bytes()[:-20])
    if damage == "shard":
        shard.write_bytes(shard.read_bytes()[:-512])
    if damage == "gone":
        shard.unlink()
    if damage == "stamp":  # the source's file has another size now
        job = Job(0, {"item 0": "123"})
    assert read_record(tmp_path, job) is None


def test_an_empty_dataset_names_what_was_skipped(tmp_path: Path) -> None:
    lost = [Skipped(f"{i}.mp4", "too short") for i in range(7)]
    record = write_shard(tmp_path, [], 0, lost)
    with pytest.raises(ShardError, match=r"7 skipped: 0.mp4: too short.*and 2 more"):
        complete(tmp_path, "toy", {}, [record], lost)


def test_a_key_in_two_shards_is_an_error_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"chunk-0000 is in toy-000000.tar and in toy-000001.tar"):
        write(tmp_path, [make_chunk(0), make_chunk(0)], per_shard=1)
