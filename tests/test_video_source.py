"""Videos by timestamp: which source frame is shown at i/10 s, what is lost, and how a folder becomes chunks."""

from __future__ import annotations

import random
import tarfile
from fractions import Fraction
from itertools import count, pairwise
from math import floor
from pathlib import Path

import av
import numpy as np
import pytest
from toy_video import HEIGHT, WIDTH, Jumps, number_of, plain, regular, write

from gwm.pipelines.preprocess import preprocess
from gwm.shards import SourceError, clips
from gwm.shards.clips import Cutting
from gwm.shards.images import decode_jpeg, encode_jpeg, fit
from gwm.shards.schema import Chunk, Damaged, Skipped
from gwm.shards.sources.video import VideoPart, VideoSource, split_of
from gwm.shards.video import probe, read_frames

REAL = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "video"


def numbers(path: Path, losses: list[Skipped] | None = None) -> list[int]:
    return [number_of(image) for _, image in read_frames(path, losses=losses)]


def expected(path: Path) -> list[int]:
    """The rule itself, over all frames of the file."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    times = [(f.pts - frames[0].pts) * f.time_base for f in frames]
    end = times[-1] + frames[-1].duration * frames[-1].time_base
    shown = []
    for i in count():
        at = Fraction(i, 10) + Fraction(1, 2000)
        if at >= end:
            return shown
        shown.append(max(k for k, time in enumerate(times) if time <= at))


def source(folder: Path, val_every: int = 10, **settings) -> VideoSource:
    return VideoSource(folder, Cutting(**({"size": (64, 32), "find_cuts": Jumps()} | settings)), val_every)


def read(videos: VideoSource):
    """All chunks, and all that is skipped."""
    return split(part for item in videos.items() for part in videos.chunks(item))


def split(found):
    found = list(found)
    return [c for c in found if isinstance(c, Chunk)], [s for s in found if isinstance(s, Skipped)]


# --- timing


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
@pytest.mark.parametrize("rate", [30, 25, Fraction(30000, 1001), 10, 4, 60, 50, Fraction(24000, 1001)])
def test_the_frame_on_screen_is_taken(tmp_path, rate, codec):
    path = write(tmp_path / "a.mp4", regular(rate, 63), codec=codec)
    got = numbers(path)
    assert got == expected(path)
    assert abs(len(got) - floor(63 / rate * 10)) <= 1


def test_the_first_indices_are_known(tmp_path):
    """ffmpeg's fps filter takes 1, 4, 7 of a 30 fps video: half a step late."""
    assert numbers(write(tmp_path / "a.mp4", regular(30, 31)))[:5] == [0, 3, 6, 9, 12]
    assert numbers(write(tmp_path / "b.mp4", regular(25, 31)))[:6] == [0, 2, 5, 7, 10, 12]
    ntsc = numbers(write(tmp_path / "c.mp4", regular(Fraction(30000, 1001), 31)))
    assert ntsc[:8] == [0, 3, 6, 9, 12, 15, 17, 20]  # frame 18 is at 0.6006 s
    assert numbers(write(tmp_path / "d.mp4", regular(50, 31)))[:6] == [0, 5, 10, 15, 20, 25]
    film = numbers(write(tmp_path / "e.mp4", regular(Fraction(24000, 1001), 31)))
    assert film[:10] == [0, 2, 4, 7, 9, 12, 14, 16, 19, 21]  # frame 12 is at 0.5005 s, late by what is tolerated


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mkv", "libx264"), (".webm", "libvpx-vp9"), (".avi", "mpeg4"), (".mov", "mpeg4"), (".mp4", "libsvtav1"),
    ],
)  # fmt: skip
def test_every_container(tmp_path, suffix, codec):
    path = write(tmp_path / f"a{suffix}", regular(30, 30), codec=codec)
    assert numbers(path) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("start", [0, 5.04])
def test_variable_rate_and_late_start(tmp_path, suffix, start):
    draw = random.Random(7)
    gaps = [Fraction(draw.choice([10, 33, 40, 70, 180, 450]), 1000) for _ in range(60)]
    times = [Fraction(start) + sum(gaps[:i], Fraction(0)) for i in range(61)]
    path = write(tmp_path / f"a{suffix}", times)
    got = [(t, number_of(image)) for t, image in read_frames(path)]
    assert [n for _, n in got] == expected(path)
    assert [t for t, _ in got] == [i / 10 for i in range(len(got))]


def test_a_long_still_is_a_gap_and_said(tmp_path):
    """A frame held for seconds hides a loss: only its first second is used, and the jump shows in the times."""
    path = write(tmp_path / "a.mp4", [*regular(10, 10), *regular(10, 10, start=4)])
    losses: list[Skipped] = []
    got = [(t, number_of(image)) for t, image in read_frames(path, losses=losses)]
    assert [n for _, n in got] == [*range(10), *[9] * 9, *range(10, 20)]
    assert [round(t, 6) for t, _ in got][18:20] == [1.8, 4.0]
    assert losses == [Damaged("2.1 s", "time without a picture", 21)]
    chunks, _ = read(source(path, min_scene=1))
    assert [c.length for c in chunks] == [19, 10]
    assert chunks[0].scene != chunks[1].scene


def test_real_clips_have_ten_frames_a_second():
    if not REAL.is_dir():
        pytest.skip("no ../shared/data/video beside the repository")
    paths = sorted(REAL.glob("*.mp4"))
    assert len(paths) == 5
    for path in paths:
        frames = sum(1 for _ in read_frames(path))
        assert abs(frames - floor(probe(path).duration * 10)) <= 1, path.name


# --- pictures


def test_rotation_and_pixel_shape(tmp_path):
    picture = plain(40)
    picture[: HEIGHT // 2, : WIDTH // 2] = 200  # top left
    turned = write(tmp_path / "a.mp4", regular(30, 6), [picture] * 6, turn=90)  # counterclockwise
    image = next(read_frames(turned))[1]
    assert image.shape == (WIDTH, HEIGHT, 3)
    assert image[-10, 10, 0] > 150 > image[10, 10, 0]  # now bottom left
    assert (probe(turned).width, probe(turned).height) == (HEIGHT, WIDTH)
    wide = write(tmp_path / "b.mp4", regular(30, 6), shape=Fraction(3, 2))
    assert next(read_frames(wide))[1].shape == (HEIGHT, WIDTH * 3 // 2, 3)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "gray", "yuv420p10le"])
@pytest.mark.parametrize("factor", [2, 3])
def test_shrinking_while_decoding_is_shrinking_the_decoded_picture(tmp_path, monkeypatch, pixels, factor):
    """A grey ramp with coloured boxes: the same but for rounding, and for colours that are sampled more coarsely."""
    across, down = np.meshgrid(np.linspace(0, 255, WIDTH), np.arange(HEIGHT))
    picture = np.stack([across, across, across], axis=-1).astype(np.uint8)
    picture[8:20, 10:30] = (200, 40, 40)
    picture[(down > 20) & (across > 150)] = (20, 60, 180)
    path = write(tmp_path / "a.mkv", regular(10, 2), [picture] * 2, codec="ffv1", pixels=pixels)
    size = (WIDTH // factor, HEIGHT // factor)
    wanted = fit(next(read_frames(path))[1], size)
    monkeypatch.setattr("gwm.shards.video.fit", None)
    image = next(read_frames(path, size))[1]
    assert image.shape == wanted.shape
    difference = image.astype(float) - wanted
    assert np.abs(difference).mean() < 2
    assert np.abs(difference.mean(axis=(0, 1))).max() < 1


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "gray", "yuv420p10le"])
@pytest.mark.parametrize("size", [None, (WIDTH // 2, HEIGHT // 2), (WIDTH * 2, HEIGHT * 2)])
def test_levels_are_kept(tmp_path, pixels, size):
    """swscale's quick way from coarsely sampled colours to RGB is two levels too dark."""
    for level in (0, 60, 130, 214, 255):
        path = write(tmp_path / "a.mkv", regular(10, 2), [plain(level)] * 2, codec="ffv1", pixels=pixels)
        assert np.abs(next(read_frames(path, size))[1].astype(float) - level).max() <= 1


def test_an_archive_of_pictures_is_no_video(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(3):
            (tmp_path / f"{i}.jpg").write_bytes(encode_jpeg(plain(i)))
            archive.add(tmp_path / f"{i}.jpg", f"a.{i}.jpg")
    with pytest.raises(SourceError, match=r"a\.tar is an archive, no video; of shards give the folder"):
        probe(tmp_path / "a.tar")


@pytest.mark.parametrize("pixels", ["gray", "yuv420p10le", "yuv444p"])
def test_grey_and_deep_video(tmp_path, pixels):
    path = write(tmp_path / "a.mkv", regular(10, 5), codec="ffv1", pixels=pixels)
    frames = [image for _, image in read_frames(path)]
    assert frames[0].dtype == np.uint8
    assert [number_of(f) for f in frames] == [0, 1, 2, 3, 4]


# --- damage


def test_a_file_cut_in_half_keeps_what_decodes_and_says_what_is_missing(tmp_path):
    whole = write(tmp_path / "a.mp4", regular(25, 250))
    half = tmp_path / "half.mp4"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    losses: list[Skipped] = []
    kept = numbers(half, losses)
    assert 20 < len(kept) < 80
    assert kept == numbers(whole)[: len(kept)]
    assert "file ends early" in {loss.cause for loss in losses}
    assert any("of 10.0 s" in loss.item for loss in losses)
    reader = read_frames(half)
    for _ in kept:
        next(reader)
    with pytest.raises(SourceError, match=r"half.mp4: .*ends early"):
        next(reader)


def test_nothing_drawn_upon_a_damaged_packet_is_used(tmp_path):
    """After a damaged packet h264 decoders draw smears until the next keyframe and report no error."""
    whole = write(tmp_path / "a.mp4", regular(30, 120), gop=30)
    with av.open(str(whole)) as file:
        hurt = [packet for packet in file.demux(video=0) if packet.size][45]  # in the second of four groups
        position, size = hurt.pos, hurt.size
    data = bytearray(whole.read_bytes())
    data[position : position + size] = bytes(size)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(data)
    losses: list[Skipped] = []
    shown = [(t, number_of(image)) for t, image in read_frames(bad, losses=losses)]
    assert {loss.cause for loss in losses} == {"damaged packets or times", "time without a picture"}
    assert all(number == round(t * 30) for t, number in shown)
    assert any(b - a > 0.15 for (a, _), (b, _) in pairwise(shown))
    assert [t for t, _ in shown if t >= 2] == [i / 10 for i in range(20, 40)]


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        file.mux(stream.encode(sound))
        file.mux(stream.encode())
    return path


def test_what_is_no_video(tmp_path):
    text, empty = tmp_path / "text.mp4", tmp_path / "empty.mp4"
    text.write_text("not a video\n" * 100)
    empty.touch()
    late = write(tmp_path / "late.mp4", regular(30, 30), front=False)  # its index is at the end, and cut off
    late.write_bytes(late.read_bytes()[:-300])
    for path, words in [
        (text, "cannot be read as a video"),
        (empty, "cannot be read as a video"),
        (late, "cannot be read as a video"),
        (write_sound(tmp_path / "sound.mp4"), "no video stream"),
        (tmp_path / "none.mp4", "no video file"),
        (tmp_path, "no video file"),
    ]:
        for use in (
            probe,
            lambda p: list(read_frames(p)),
            lambda p: list(source(p).chunks(VideoPart(p, p.name, "x", "", (0, None), 1))),
        ):
            with pytest.raises(SourceError, match=f"{path.name}.*{words}|{words}.*{path.name}"):
                use(path)


def test_the_same_cause_has_the_same_words(tmp_path):
    folder = tmp_path / "some videos"
    folder.mkdir()
    write(folder / "good.mp4", regular(30, 60))
    for name in ("a: 1.mp4", "b.mp4"):
        write_sound(folder / name)
    report = preprocess(source(folder), tmp_path / "out")
    assert report.skipped_by_cause == {"no video stream": 2}
    assert [lost["item"] for lost in report.skipped] == ["a: 1.mp4", "b.mp4"]


def test_no_videos(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        source(tmp_path / "nowhere").items()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match=r"no video in .*\.mp4 .*\.mkv"):
        source(tmp_path).items()


# --- chunks


def test_chunks_of_a_scene(tmp_path):
    path = write(tmp_path / "drive.mp4", regular(10, 57))
    chunks, skipped = read(source(path, frames=20, min_scene=18))
    assert [c.length for c in chunks] == [20, 20, 17]  # the rest of a scene is kept, however short
    assert [c.key for c in chunks] == ["video-drive-000000", "video-drive-000020", "video-drive-000040"]
    assert {c.scene for c in chunks} == {"drive_000000"}
    assert chunks[1].timestamps.tolist() == [i / 10 for i in range(20, 40)]
    assert chunks[1].extra["start_time"] == 2.0
    assert chunks[0].extra["source_size"] == [WIDTH, HEIGHT]
    images = [decode_jpeg(data) for c in chunks for data in c.frames["front"]]
    assert {i.shape for i in images} == {(32, 64, 3)}
    assert [number_of(i) for i in images] == list(range(57))
    assert skipped == []


def test_a_chunk_ends_at_a_cut(tmp_path):
    pictures = [plain(30)] * 30 + [plain(120)] * 5 + [plain(220)] * 40
    path = write(tmp_path / "two.mp4", regular(10, 75), pictures)
    chunks, skipped = read(source(path, frames=25, min_scene=10))
    assert [(c.scene, c.length, c.extra["start_time"]) for c in chunks] == [
        ("two_000000", 25, 0.0),
        ("two_000000", 5, 2.5),
        ("two_000035", 25, 3.5),
        ("two_000035", 15, 6.0),
    ]
    assert chunks[2].timestamps[0] == 0
    assert chunks[3].timestamps[0] == 2.5
    for chunk, level in zip(chunks, (30, 30, 220, 220), strict=True):
        assert all(abs(decode_jpeg(d).mean() - level) < 5 for d in chunk.frames["front"])
    assert skipped == [Skipped("two.mp4: frames: 5, scenes: 1", "scene shorter than 10 frames", 5)]


def test_losses_reach_the_source(tmp_path):
    whole = write(tmp_path / "a.mp4", regular(25, 250))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    chunks, skipped = read(source(tmp_path, min_scene=5))
    assert chunks
    assert any(s.cause == "file ends early" and s.item.startswith("a.mp4: ") for s in skipped)


def test_keys_are_unique_and_the_split_is_by_file(tmp_path):
    """a.mp4 and a.mkv, or "a b" and "a_b", clean to the same key."""
    (tmp_path / "sub").mkdir()
    for name in ("a.mp4", "a.mkv", "b c.mp4", "b_c.mp4", "d.e.MP4", "sub/a.mp4", "sub-a.mp4"):
        write(tmp_path / name, regular(10, 12))
    chunks, _ = read(source(tmp_path, 3, frames=6, min_scene=6))
    assert len({c.key for c in chunks}) == len(chunks) == 14
    assert not any("." in c.key for c in chunks)
    assert len({c.scene for c in chunks}) == 7
    splits = {c.origin: c.split for c in chunks}
    assert set(splits.values()) == {"train", "val"}
    (tmp_path / "0.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())  # files that come later change nothing
    more, _ = read(source(tmp_path, 3, frames=6, min_scene=6))
    assert {c.origin: c.split for c in more if c.origin != "0.mp4"} == splits


def test_about_one_file_in_n_is_validation():
    for n in (0, 1, 4, 10):
        share = sum(split_of(f"clip{i}.mp4", n) == "val" for i in range(2000)) / 2000
        assert abs(share - (1 / n if n else 0)) < 0.03


# --- parts of long files


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_parts_of_a_file_are_together_the_whole(tmp_path, monkeypatch, suffix):
    """Also of one whose keyframes lie elsewhere, and whose first timestamp is not 0."""
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    path = write(tmp_path / f"a{suffix}", regular(Fraction(30000, 1001), 240, start=3), codec=codec, gop=37)
    whole = [(t, number_of(image)) for t, image in read_frames(path)]
    for ends in ([20, 40, 60], [1], [33, 34, 79]):
        begins = [0, *ends]
        got = [read_frames(path, begin=a, end=b) for a, b in zip(begins, [*ends, None], strict=True)]
        assert [(t, number_of(image)) for part in got for t, image in part] == whole
    monkeypatch.setattr(clips, "PART", 20)
    videos = source(path, frames=30)
    assert [item.part for item in videos.items()] == [(0, 20), (20, 40), (40, 60), (60, None)]
    assert [item.images for item in videos.items()] == [20, 20, 20, 20]
    chunks, skipped = read(videos)
    assert [number_of(decode_jpeg(data)) for c in chunks for data in c.frames["front"]] == [n for _, n in whole]
    assert len({c.key for c in chunks}) == 4
    assert skipped == []


def test_the_losses_of_parts_are_those_of_the_whole(tmp_path, monkeypatch):
    whole = write(tmp_path / "a.mp4", [*regular(30, 60), *regular(30, 60, start=5)], gop=15)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    losses: list[Skipped] = []
    shown = sum(1 for _ in read_frames(whole, losses=losses))
    monkeypatch.setattr(clips, "PART", 15)
    chunks, skipped = read(source(tmp_path))
    assert sum(c.length for c in chunks) + sum(s.frames for s in skipped if "scene" in s.cause) == shown
    for cause in ("time without a picture", "file ends early"):
        lost, lost_in_parts = (sum(s.frames for s in found if s.cause == cause) for found in (losses, skipped))
        assert abs(lost - lost_in_parts) <= 1, cause
