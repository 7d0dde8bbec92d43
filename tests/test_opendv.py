"""OpenDV: both layouts, frames at start_discard + i/10 s, losses, written and read again."""

from __future__ import annotations

import json
import random
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from toy_opendv import FOLDER, A, B, C, parts_of, put, put_frames, read, row, said, shown, source, write_list
from toy_video import HEIGHT, WIDTH, Jumps, coded, number_of, plain, regular
from typer.testing import CliRunner

from gwm.cli.main import app
from gwm.pipelines.preprocess import preprocess
from gwm.shards import SourceError, clips
from gwm.shards.images import decode_jpeg, encode_jpeg
from gwm.shards.index import open_dataset
from gwm.shards.opendv import write as writer
from gwm.shards.opendv.write import Drive, name_drive, write_opendv
from gwm.shards.reader import read_chunk
from gwm.shards.schema import Caption, Damaged, Skipped
from gwm.shards.storage import as_path
from gwm.shards.verify import verify

# --- which frames


def jittered(frames: int) -> list[Fraction]:
    draw, times = random.Random(3), [Fraction(0)]
    for _ in range(frames - 1):
        times.append(times[-1] + Fraction(draw.choice([17, 33, 41, 70, 180]), 1000))
    return times


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001), 60, None])
def test_frame_i_is_the_picture_at_start_plus_i_tenths(tmp_path, suffix, rate):
    times = jittered(60) if rate is None else regular(rate, int(4.3 * rate))
    write_list(tmp_path / "meta/OpenDV-YouTube.csv", row(duration="0:04"))
    path = put(tmp_path, A + suffix, times, codec="libx264" if suffix == ".mp4" else "libvpx-vp9")
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    clock = [(f.pts - frames[0].pts) * f.time_base for f in frames]
    end = clock[-1] + frames[-1].duration * frames[-1].time_base - 1
    expected = []
    while (at := 1 + Fraction(len(expected), 10)) < end - Fraction(1, 2000):
        expected.append(max(k for k, time in enumerate(clock) if time <= at + Fraction(1, 2000)))
    chunks, skipped = read(source(tmp_path, min_scene=1))
    assert skipped == []
    assert shown(chunks) == expected
    assert [c.extra["start_time"] for c in chunks] == [1.0]
    if rate is not None:  # the official extraction counts frames, and whole seconds
        official = [int(1 * rate) + round(i * rate / 10) for i in range(int(10 * (len(times) // rate - 2)))]
        assert 0 <= len(expected) - len(official) < 10
        assert all(abs(a - b) <= 1 for a, b in zip(expected, official, strict=False))


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
def test_parts_are_together_the_whole(tmp_path, monkeypatch, suffix):
    write_list(tmp_path / "meta/OpenDV-YouTube.csv", row(B, duration="0:08"))
    put(
        tmp_path,
        B + suffix,
        regular(Fraction(30000, 1001), 240),
        codec="libvpx-vp9" if suffix == ".webm" else "libx264",
    )
    (tmp_path / "annotations").mkdir()
    rows = [{**r, "folder": f"full_images/{FOLDER}/{B}"} for r in said("train", 90)]
    (tmp_path / "annotations/10hz_YouTube_train_split3.json").write_text(json.dumps(rows))
    (whole,), skipped = read(source(tmp_path))
    assert whole.length == 61
    monkeypatch.setattr(clips, "PART", 15)
    items = parts_of(source(tmp_path))
    assert [item.span for item in items] == [(10, 25), (25, 40), (40, 55), (55, 71)]
    assert [item.name for item in items] == [f"{FOLDER}/{B}@{i:06d}" for i in (0, 15, 30, 45)]
    parts, lost = read(source(tmp_path))
    assert shown(parts) == shown([whole])
    assert lost == skipped == []
    assert [c.key for c in parts] == [f"opendv-{B}-{i:06d}" for i in (0, 15, 30, 45)]
    assert [c.scene for c in parts] == [f"{B}_{i:06d}" for i in (0, 15, 30, 45)]
    for chunk, first in zip(parts, (0, 15, 30, 45), strict=True):
        clipped = [
            Caption(max(0, c.start - first), min(chunk.length, c.end - first), c.text, c.command)
            for c in whole.captions
            if c.end > first and c.start < first + chunk.length
        ]
        assert list(chunk.captions) == clipped


def test_scenes_end_at_cuts_in_both_layouts(tmp_path):
    levels = [30] * 20 + [120] * 4 + [220] * 36
    write_list(tmp_path / "meta/OpenDV-YouTube.csv", row(duration="0:06", start="1", end="1"))
    put(tmp_path, f"{A}.mp4", regular(10, 60), pictures=[plain(level) for level in levels])
    place = put_frames(tmp_path / "2", [])
    write_list(tmp_path / "2/meta/OpenDV-YouTube.csv", row(duration="0:06"))
    for i, level in enumerate(levels[10:50]):
        (place / f"{i:09d}.jpg").write_bytes(encode_jpeg(plain(level)))
    for folder in (tmp_path, tmp_path / "2"):
        chunks, skipped = read(source(folder, frames=20))
        assert [(c.scene, c.length) for c in chunks] == [
            (f"{A}_000000", 10), (f"{A}_000014", 20), (f"{A}_000014", 6),
        ]  # fmt: skip
        assert chunks[2].timestamps[0] == 2.0
        assert chunks[2].extra["start_time"] == 4.4
        assert skipped == [Skipped(f"{FOLDER}/{A}: frames: 4, scenes: 1", "scene shorter than 5 frames", 4)]


# --- what is there


def test_what_is_not_there_is_said(tmp_path):
    sheet = [row(A), row(B, "Val", "Mini"), row(C, duration="43:47", start="90", end="30"), row("d" * 11, start="3")]
    write_list(tmp_path / "meta/OpenDV-YouTube.csv", *sheet, row("e" * 11, duration="1:04"), row("short"))
    put(tmp_path, f"{A}.webm", regular(30, 120), codec="libvpx-vp9")
    put(tmp_path, f"{A}.mkv", regular(30, 120))
    put(tmp_path, f"{B}.mp4", regular(30, 120))
    put(tmp_path, f"{'d' * 11}.mp4", regular(30, 120))
    put(tmp_path, f"{'e' * 11}.mp4", regular(30, 120))
    (tmp_path / "videos" / FOLDER / f"{C}.mp4.part").touch()
    (tmp_path / "videos/notes.txt").touch()
    (tmp_path / "videos/.DS_Store").touch()
    chunks, skipped = read(source(tmp_path))
    assert [(c.origin, c.split, c.length) for c in chunks] == [
        (f"{FOLDER}/{A}", "train", 20), (f"{FOLDER}/{B}", "val", 20), (f"{FOLDER}/{'e' * 11}", "train", 20),
    ]  # fmt: skip
    assert set(skipped) == {
        Skipped("OpenDV-YouTube.csv, row 7: short", "id is not 11 letters, digits, - or _"),
        Skipped(f"{FOLDER}/{C}", "video is not there", 25070),
        Skipped(f"videos/{FOLDER}/{C}.mp4.part", "video is not in the list"),
        Skipped(f"videos/{FOLDER}/{A}.mkv", "another file of the same video is read"),
        Skipped("videos/notes.txt", "video is not in the list"),
        Skipped(f"{FOLDER}/{'d' * 11}: 4.0 s, discarded 3 s and 1 s", "nothing is left between the discarded ends", 0),
        Skipped(f"{FOLDER}/{'e' * 11}: 60.0 of 62.0 s", "video is shorter than listed", 600),
    }
    (chunk,), skipped = read(source(tmp_path, split="val"))
    assert chunk.key == f"opendv-{B}-000000"
    assert "video is not there" not in {s.cause for s in skipped}
    assert [c.key for c in read(source(tmp_path, subset="mini"))[0]] == [chunk.key]
    assert source(tmp_path).settings() != source(tmp_path, subset="mini").settings()


def test_a_video_that_is_there_as_mkv_alone_is_read(tmp_path):
    """By the command; the .mp4 beside it is another video."""
    write_list(tmp_path / "in/meta/OpenDV-YouTube.csv", row(A), row(B))
    put(tmp_path / "in", f"{A}.mkv", regular(30, 120))
    put(tmp_path / "in", f"{B}.mp4", regular(10, 40))
    out, size = tmp_path / "out", f"--size={WIDTH}x{HEIGHT}"
    arguments = ["preprocess", "opendv", tmp_path / "in", "-o", out, size, "--no-cuts", "--workers=1", "--json"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["skipped"] == []
    dataset, read_as = open_dataset(out), {}
    for i in range(len(dataset)):
        read_as[dataset.row(i).origin] = [number_of(picture) for picture in read_chunk(dataset, i).frames[:, 0]]
    assert read_as == {f"{FOLDER}/{A}": list(range(30, 90, 3)), f"{FOLDER}/{B}": list(range(10, 30))}


def test_a_damaged_video_is_reported_by_its_reader(tmp_path):
    write_list(tmp_path / "meta/OpenDV-YouTube.csv", row(A), row(B))
    put(tmp_path, f"{A}.mp4", regular(10, 40)).write_bytes(b"no video")
    put(tmp_path, f"{B}.mp4", regular(10, 40))
    report = preprocess(source(tmp_path), tmp_path / "out")
    assert report.frames == 20
    (skipped,) = report.skipped
    assert skipped["item"] == f"{FOLDER}/{A}@000000"
    assert "cannot be read as a video" in skipped["cause"]


def test_extracted_frames_are_passed_on_and_gaps_are_counted(tmp_path):
    write_list(tmp_path / "OpenDV-YouTube.csv", row(duration="0:16"), row(B, "Val"))
    place = put_frames(tmp_path, [i for i in range(60) if i not in (0, 21, 22)])
    (place / "000000040.jpg").write_bytes(b"\xff\xd8 damaged")
    put_frames(tmp_path, range(10), B, (90, 64), "val_images")
    chunks, skipped = read(source(tmp_path))
    assert [(c.key, c.length) for c in chunks] == [
        (f"opendv-{A}-000001", 20), (f"opendv-{A}-000023", 17), (f"opendv-{A}-000041", 19), (f"opendv-{B}-000000", 10),
    ]  # fmt: skip
    assert shown(chunks[:3]) == [i for i in range(1, 60) if i not in (21, 22, 40)]
    for chunk in chunks[:3]:
        first = int(chunk.key[-6:])
        native = [(place / f"{first + i:09d}.jpg").read_bytes() for i in range(chunk.length)]
        assert list(chunk.frames["front"]) == native
    assert {decode_jpeg(jpeg).shape for jpeg in chunks[3].frames["front"]} == {(HEIGHT, WIDTH, 3)}
    assert (chunks[3].split, chunks[3].extra["source_size"]) == ("val", [90, 64])
    name = f"{FOLDER}/{A}"
    assert skipped == [
        Skipped(f"{name}: 8.0 of 14.0 s", "sequence of extracted frames is shorter than listed", 80),
        Skipped(f"{name}: frames: 3, the first is 000000000.jpg", "extracted frame is missing", 3),
        Damaged(f"{name}: frames: 1, the first is 000000040.jpg", "extracted frame is damaged", 1),
    ]


def test_extracted_frames_in_parts(tmp_path, monkeypatch):
    write_list(tmp_path / "OpenDV-YouTube.csv", row(duration="0:06"))
    place = put_frames(tmp_path, range(40))
    (whole,), _ = read(source(tmp_path))
    monkeypatch.setattr(clips, "PART", 15)
    before = parts_of(source(tmp_path))
    assert [item.span for item in before] == [(0, 15), (15, 30), (30, 40)]
    parts, skipped = read(source(tmp_path))
    assert [jpeg for c in parts for jpeg in c.frames["front"]] == list(whole.frames["front"])
    assert skipped == []
    (place / "000000020.jpg").write_bytes(encode_jpeg(plain(9)))
    changed = [a.stamp != b.stamp for a, b in zip(before, parts_of(source(tmp_path)), strict=True)]
    assert changed == [False, True, False]


# --- written and read again


RATES = (10, Fraction(30000, 1001), 25, 60)


def drives(count=4, fps=RATES):
    for i in range(count):
        captions = [Caption(j, j + 40, f"drive {i} at {j}", j % 14) for j in range(8)]
        frames = (coded(k % 256) for k in range(int(48 * fps[i] / 10)))
        yield Drive(*name_drive(i), "val" if i == 2 else "train", frames, fps[i], captions, mini=i < 2)


def test_what_is_written_is_read_in_both_layouts(tmp_path):
    write_opendv(tmp_path, drives(), frames=True)
    assert sorted(p.suffix for p in tmp_path.glob("videos/*/*")) == [".mp4", ".mp4", ".webm", ".webm"]
    from_videos, skipped = read(source(tmp_path, find_cuts=Jumps(255)))
    assert skipped == []
    assert [c.split for c in from_videos] == ["train", "train", "val", "train"]
    assert [c.key for c in from_videos][1] == "opendv--orld_00001-000000"
    for i, chunk in enumerate(from_videos):
        assert shown([chunk]) == [int((k / 10 + 0.0005) * RATES[i]) % 256 for k in range(48)]
        assert chunk.captions == tuple(Caption(j, j + 40, f"drive {i} at {j}", j % 14) for j in range(8))
    shutil.rmtree(tmp_path / "videos")
    from_frames, skipped = read(source(tmp_path, find_cuts=Jumps(255)))
    assert skipped == []
    assert [(c.key, c.scene, c.captions, c.timestamps.tolist(), c.extra["start_time"]) for c in from_frames] == [
        (c.key, c.scene, c.captions, c.timestamps.tolist(), c.extra["start_time"]) for c in from_videos
    ]
    for i, chunk in enumerate(from_frames):  # the official rule takes the nearest frame
        assert shown([chunk]) == [round(Fraction(k, 10) * RATES[i]) % 256 for k in range(48)]


def test_shards_from_a_url_and_what_comes_later(tmp_path):
    """New videos come into new shards; the first is left alone."""
    folder = as_path("memory://opendv-test")
    write_opendv(folder, drives(3))
    place = next((folder / "videos" / "Slow_Roads_Ltd._(Video_Tours)").iterdir())
    late = place.read_bytes()
    place.unlink()
    out = tmp_path / "out"
    report = preprocess(source(folder), out)
    assert (report.frames, report.skipped_frames) == (96, 50)  # the list has whole seconds
    assert report.skipped_by_cause == {"video is not there": 1}
    first = (out / "opendv-000000.tar").read_bytes()
    place.write_bytes(late)
    report = preprocess(source(folder), out)
    assert (report.frames, report.skipped, report.shards) == (144, [], 2)
    assert (out / "opendv-000000.tar").read_bytes() == first
    assert preprocess(source(folder), out).new_shards == 0
    assert verify(out).ok
    settings = open_dataset(out).settings
    assert len(settings["list_sha256"]) == 64
    assert str(tmp_path) not in json.dumps(settings)


def test_annotations_that_change_are_read_again(tmp_path):
    write_opendv(tmp_path, drives(2))
    before = parts_of(source(tmp_path))
    path = tmp_path / "annotations/10hz_YouTube_train_split0.json"
    path.write_text(path.read_text().replace("drive 1 at 7", "drive 1 at last"))
    changed = [a.stamp != b.stamp for a, b in zip(before, parts_of(source(tmp_path)), strict=True)]
    assert changed == [False, True]


def test_what_cannot_be_written(tmp_path):
    frames = [np.zeros((64, 127, 3), np.uint8)]
    for drive, words in (
        (Drive(A, "x", "train", frames), "frames of 127x64"),
        (Drive(A, "x", "train", []), "no frames"),
        (Drive("short", "x", "train", frames), "an id has 11"),
        (Drive(A, "x", "test", frames), "split is one of"),
        (Drive(A, "x", "val", frames, 5), "at least 10 frames/s"),
    ):
        with pytest.raises(SourceError, match=words):
            write_opendv(tmp_path, [drive])
    assert not list(tmp_path.rglob("*.mp4"))
    assert len({name_drive(i)[0] for i in range(200)}) == 200
    assert writer.START_DISCARD + writer.END_DISCARD < 10
