"""The shard format: writer, index, reader, schedule and verify, on chunks of a few pixels."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gwm.shards import ShardError
from gwm.shards.images import decode_jpeg, encode_jpeg
from gwm.shards.index import Dataset, open_dataset
from gwm.shards.motion import integrate, window_actions
from gwm.shards.reader import MOTION_AHEAD, WindowSchedule, iterate_windows, read_chunk, read_window
from gwm.shards.schema import VIEWS, Camera, Chunk, Motion
from gwm.shards.tar import OpenShard
from gwm.shards.verify import info, verify
from gwm.shards.writer import DatasetWriter

SIZE = (32, 16)  # width, height


def make_camera(view: str, size: tuple[int, int] = SIZE) -> Camera:
    """A camera with irrational numbers, to see that all digits are kept."""
    width, height = size
    intrinsics = np.array([[width * np.pi / 4, 0, width / 2], [0, width * np.pi / 4, height / 2], [0, 0, 1]])
    return Camera(view, width, height, intrinsics, np.eye(4) + np.sqrt(2) * (np.arange(16).reshape(4, 4) == 3))


def make_chunk(index: int, length: int = 12, views: Iterable[str] = ("front",), split: str = "train") -> Chunk:
    """A chunk of noise with motion, camera and text; everything follows from `index`."""
    rng = np.random.default_rng(index)
    size = (SIZE[1], SIZE[0], 3)
    frames = {view: [encode_jpeg(rng.integers(0, 256, size, dtype=np.uint8)) for _ in range(length)] for view in views}
    speed, steering = rng.uniform(0, 20, length), rng.normal(0, 1, length)
    return Chunk(
        key=f"chunk-{index:04d}",
        scene=f"scene-{index // 2}",
        split=split,
        origin=f"seed {index}",
        frames=frames,
        timestamps=3.7 + np.arange(length) / 10,
        motion=Motion(integrate(speed, steering), speed, steering),
        cameras=tuple(make_camera(view) for view in frames),
        text="Straße, night",
        extra={"fit": "crop", "start": 0.5},
    )


def write(out: Path, chunks: Iterable[Chunk], **limits: int) -> Path:
    """A dataset of `chunks` at `out`."""
    with DatasetWriter(out, "toy", {"frames": 12}, **limits) as writer:
        for chunk in chunks:
            writer.add(chunk)
    return out


def toy(out: Path, lengths: Iterable[int] = (12,) * 10, per_shard: int = 2) -> Dataset:
    """An opened dataset of one-view chunks of these lengths."""
    return open_dataset(write(out, [make_chunk(i, n) for i, n in enumerate(lengths)], max_shard_samples=per_shard))


def same_motion(a: Motion, b: Motion) -> bool:
    pairs = [(a.pose, b.pose), (a.speed, b.speed), (a.steering, b.steering)]
    return all((x is None and y is None) or (x is not None and np.array_equal(x, y)) for x, y in pairs)  # type: ignore[arg-type]


def flip(path: Path, at: int) -> None:
    """Invert one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


# Round trip


def test_chunk_comes_back_as_it_was(tmp_path: Path) -> None:
    chunk = make_chunk(3, 7, ["front_left", "front", "back"])  # views in no particular order
    window = read_chunk(open_dataset(write(tmp_path / "out", [make_chunk(1), chunk])), 1)
    assert (window.key, window.start, window.text) == (chunk.key, 0, chunk.text)
    assert window.views == ("front", "back", "front_left")
    for k, view in enumerate(window.views):
        for t in range(7):
            assert np.array_equal(window.frames[t, k], decode_jpeg(chunk.frames[view][t]))
    assert same_motion(window.motion, chunk.motion)
    cameras = {camera.view: camera for camera in chunk.cameras}
    assert [camera.view for camera in window.cameras] == list(window.views)
    for camera in window.cameras:
        assert np.array_equal(camera.intrinsics, cameras[camera.view].intrinsics)
        assert np.array_equal(camera.extrinsics, cameras[camera.view].extrinsics)


def test_window_is_a_cut_of_the_chunk_and_its_motion_reaches_two_seconds_on(tmp_path: Path) -> None:
    chunk = make_chunk(0, 40, ["front", "back"])
    dataset = open_dataset(write(tmp_path / "out", [chunk]))
    whole = read_chunk(dataset, 0)
    for start, length in ((0, 1), (5, 8), (39, 1), (0, 40)):
        window = read_window(dataset, 0, start, length)
        assert np.array_equal(window.frames, whole.frames[start : start + length])
        assert same_motion(window.motion, chunk.motion.window(start, length + MOTION_AHEAD))
        back = read_window(dataset, 0, start, length, ["back"])
        assert np.array_equal(back.frames[:, 0], window.frames[:, 1])
        assert [camera.view for camera in back.cameras] == ["back"]
    assert window_actions(read_window(dataset, 0, 19, 1).motion).command is not None
    assert window_actions(read_window(dataset, 0, 20, 1).motion).command is None


def test_a_sample_may_know_nothing_but_its_frames(tmp_path: Path) -> None:
    chunk = replace(make_chunk(0), motion=Motion(), cameras=(), text="", extra={})
    dataset = open_dataset(write(tmp_path / "out", [chunk]))
    window = read_chunk(dataset, 0)
    assert same_motion(window.motion, Motion())
    assert (window.cameras, window.text) == ((), "")
    assert set(info(dataset.path)["present"].values()) == {0.0}
    assert verify(dataset.path).ok


def test_another_size_crops_frames_and_camera_alike(tmp_path: Path) -> None:
    """A bright column at x = 20 of 32 is where the camera says after cropping 32x16 to a square of 8."""
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, 20:22] = 255
    chunk = replace(make_chunk(0, 2), frames={"front": [encode_jpeg(image)] * 2})
    window = read_chunk(open_dataset(write(tmp_path / "out", [chunk])), 0, size=(8, 8))
    assert window.frames.shape == (2, 1, 8, 8, 3)
    before, after = chunk.cameras[0].intrinsics, window.cameras[0].intrinsics
    x = (21 - before[0, 2]) / before[0, 0] * after[0, 0] + after[0, 2]
    brightness = window.frames[0, 0, :, :, 0].mean(axis=0)
    assert (window.cameras[0].width, window.cameras[0].height) == (8, 8)
    assert abs(float((brightness * (np.arange(8) + 0.5)).sum() / brightness.sum()) - x) < 0.1


def test_a_window_outside_the_chunk_or_a_view_it_lacks_is_refused(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    for start, length in ((-1, 2), (0, 13), (12, 1), (0, 0)):
        with pytest.raises(ShardError, match="frames 0 to 11"):
            read_window(dataset, 0, start, length)
    with pytest.raises(ShardError, match="views front, not back"):
        read_window(dataset, 0, 0, 1, ["front", "back"])


# The format, read by others


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
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_shards as t\n"
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


# Opening and verifying


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(ShardError, match=r"no dataset.json"):
        verify(tmp_path)
    dataset = toy(tmp_path / "out")
    file = dataset.path / "dataset.json"
    text = file.read_text()
    file.write_text(text.replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(ShardError, match="schema version 99, this gwm reads 1"):
        open_dataset(dataset.path)
    for damaged in (text[:-20], "[]", text.replace('"shards"', '"shrads"')):
        file.write_text(damaged)
        with pytest.raises(ShardError, match=r"dataset.json"):
            open_dataset(dataset.path)


def test_dataset_and_schedule_survive_pickling(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    schedule = WindowSchedule(dataset, "train", 0, min_length=4)
    again, order = pickle.loads(pickle.dumps((dataset, schedule)))
    assert np.array_equal(read_chunk(again, 2).frames, read_chunk(dataset, 2).frames)
    assert order.batch(5, 3, 4) == schedule.batch(5, 3, 4)


def test_verify_passes_and_counts(tmp_path: Path) -> None:
    report = verify(write(tmp_path / "out", [make_chunk(i, 4, ["front", "back"]) for i in range(3)]))
    assert (report.ok, report.samples, report.frames) == (True, 3, 12)
    assert report.bytes == (tmp_path / "out" / "toy-000000.tar").stat().st_size


def test_every_kind_of_flipped_byte_is_found_and_its_member_named(tmp_path: Path) -> None:
    """Also a byte in the JPEG's entropy-coded data, which may well decode: the CRC-32 in the index finds it. In the
    header each of the 512 bytes, as tarfile's checksum leaves some of them out."""
    dataset = open_dataset(write(tmp_path / "out", [make_chunk(i, 3) for i in range(3)]))
    shard, row = dataset.path / "toy-000000.tar", dataset.row(1)
    good = shard.read_bytes()
    (member,) = [m for m in row.members() if m.name.endswith("front.001.jpg")]
    padding = member.offset + member.size if member.size % 512 else None
    header = [member.offset - 512 + i for i in (0, 99, 100, 124, 148, 155, 156, 257, 265, 400, 511)]
    data = [member.offset, member.offset + member.size // 2, member.offset + member.size - 1]
    for at in header + data + ([padding] if padding else []):
        flip(shard, at)
        problems = verify(dataset.path).problems
        assert problems[0] == "toy-000000.tar: SHA-256 differs from dataset.json", at
        assert len(problems) == 2, at
        assert problems[1].startswith(f"toy-000000.tar: {member.name}: "), at
        shard.write_bytes(good)
    for at in (row.json_offset + i for i in (0, 30, row.json_size // 2, row.json_size - 1)):
        flip(shard, at)
        problems = verify(dataset.path).problems
        assert len(problems) == 2
        assert problems[1].startswith(f"toy-000000.tar: {row.key}.json: CRC-32 differs")
        shard.write_bytes(good)
    flip(shard, len(good) - 1)
    assert verify(dataset.path).problems == [
        "toy-000000.tar: SHA-256 differs from dataset.json; the damage lies outside what the index describes"
    ]


def test_any_flipped_byte_of_a_shard_is_found(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "out", [make_chunk(i, 2) for i in range(2)]))
    shard = dataset.path / "toy-000000.tar"
    good = shard.read_bytes()
    for at in np.random.default_rng(0).integers(len(good), size=60):
        flip(shard, int(at))
        assert not verify(dataset.path).ok
        shard.write_bytes(good)
    assert verify(dataset.path).ok


def test_a_flipped_byte_of_the_index_is_found(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    index = dataset.path / "index.parquet"
    good = index.read_bytes()
    for at in np.linspace(0, len(good) - 1, 80).astype(int):
        flip(index, int(at))
        try:
            found = " ".join(verify(dataset.path).problems)
        except ShardError as error:
            found = str(error)
        assert "index.parquet" in found, at
        index.write_bytes(good)


def test_a_damaged_jpeg_is_named_when_it_is_read(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    row = dataset.row(3)
    flip(dataset.path / row.shard, int(row.frame_offsets[5]))
    read_window(dataset, 3, 0, 5)
    with pytest.raises(ShardError, match=r"toy-000001.tar: chunk-0003.front.005.jpg: .*gwm shards verify"):
        read_window(dataset, 3, 0, 6)
    flip(dataset.path / row.shard, row.json_offset)
    with pytest.raises(ShardError, match=r"chunk-0003.json: damaged"):
        read_window(dataset, 3, 0, 5)


def test_truncated_and_missing_shards(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out", (4,) * 6)
    shard = dataset.path / "toy-000001.tar"
    good = shard.read_bytes()
    shard.write_bytes(good[: dataset.row(3).json_offset])
    problems = verify(dataset.path).problems
    assert problems[0] == f"toy-000001.tar: {dataset.row(3).json_offset} bytes instead of {len(good)}"
    assert "sample chunk-0003: " in problems[1]
    assert "past the end of the file" in problems[1]
    assert len(problems) == 2
    with pytest.raises(ShardError, match=r"toy-000001.tar has"):
        open_dataset(dataset.path)
    shard.unlink()
    assert verify(dataset.path).problems == ["toy-000001.tar: missing"]
    with pytest.raises(ShardError, match=r"toy-000001.tar is missing"):
        open_dataset(dataset.path)


# Order of windows


def test_each_epoch_covers_every_sample_once_in_a_new_order(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out", (12, 9, 25, 12, 7, 12, 12))
    schedule = WindowSchedule(dataset, "train", seed=5, min_length=9)
    drawn = [window for step in range(9) for window in schedule.batch(step, 4, 9 - step % 3)]  # lengths may vary
    epochs = [[row for row, _ in drawn[i : i + 6]] for i in range(0, 36, 6)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 5, 6] for epoch in epochs)  # chunk 4 is too short
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_windows_lie_inside_their_chunk_and_starts_are_uniform(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out", (12, 12))
    schedule = WindowSchedule(dataset, "train", seed=0, min_length=9)
    starts = [start for step in range(1000) for _, start in schedule.batch(step, 2, 9)]
    counts = np.bincount(starts)
    assert len(counts) == 4  # 0 .. 3
    assert np.abs(counts - 500).max() < 4 * np.sqrt(2000 * 0.25 * 0.75)


def test_schedule_is_a_function_of_seed_rank_and_step(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    unbroken = [WindowSchedule(dataset, "train", 1, min_length=6).batch(step, 3, 6) for step in range(20)]
    resumed = WindowSchedule(dataset, "train", 1, min_length=6)
    assert [resumed.batch(step, 3, 6) for step in range(10, 20)] == unbroken[10:]
    other = WindowSchedule(dataset, "train", 2, min_length=6)
    assert [other.batch(step, 3, 6) for step in range(20)] != unbroken


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_share_no_shard_and_cover_all(tmp_path: Path, world_size: int) -> None:
    dataset = toy(tmp_path / "out", (12,) * 9)  # five shards, the last with one sample
    ranks = [WindowSchedule(dataset, "train", 0, rank, world_size, 12) for rank in range(world_size)]
    shards = [{dataset.row(int(row)).shard for row in rank.rows} for rank in ranks]
    assert sum(len(of_rank) for of_rank in shards) == len(set.union(*shards)) == 5
    assert sorted(int(row) for rank in ranks for row in rank.rows) == list(range(9))
    assert max(len(rank.rows) for rank in ranks) - min(len(rank.rows) for rank in ranks) <= 2


def test_more_ranks_than_shards_and_no_sample_long_enough(tmp_path: Path) -> None:
    dataset = toy(tmp_path / "out")
    with pytest.raises(ShardError, match="5 shards with train samples for 6 processes; use at most"):
        WindowSchedule(dataset, "train", 0, 0, 6)
    with pytest.raises(ShardError, match="no train sample of 25 frames, the longest has 12"):
        WindowSchedule(dataset, "train", 0, min_length=25)
    with pytest.raises(ShardError, match="no val samples, only train"):
        iterate_windows(dataset, "val", 5, 5)


def test_evaluation_list_is_exact(tmp_path: Path) -> None:
    chunks = [make_chunk(0, 12), make_chunk(1, 4), make_chunk(2, 5, split="val"), make_chunk(3, 5)]
    dataset = open_dataset(write(tmp_path / "out", chunks, max_shard_samples=1))
    assert iterate_windows(dataset, "train", 5, 3) == [(0, 0), (0, 3), (0, 6), (3, 0)]
    assert iterate_windows(dataset, "val", 5, 5) == [(2, 0)]
