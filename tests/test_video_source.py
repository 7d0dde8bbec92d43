"""Videos by timestamp: which source frame is shown at i/10 s, what is lost, and how a folder becomes chunks."""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, pairwise
from math import floor
from pathlib import Path

import av
import numpy as np
import pytest

from gwm.shards import SourceError
from gwm.shards.cuts import WINDOW, mark_cuts, thumbnail
from gwm.shards.images import decode_jpeg
from gwm.shards.schema import Chunk, Skipped
from gwm.shards.sources.video import VideoSource, probe, read_frames

CLOCK = Fraction(1, 90000)
WIDTH, HEIGHT = 128, 64
REAL = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "video"


def coded(number: int, dark: bool = False) -> np.ndarray:
    """A picture of eight stripes: the bits of `number`."""
    bits = np.array([number >> i & 1 for i in range(8)], bool)
    row = np.where(bits, 120 if dark else 220, 30).astype(np.uint8).repeat(WIDTH // 8)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(image: np.ndarray) -> int:
    """The number that `coded` drew; a stripe that is neither light nor dark is an error."""
    stripes = image.mean(axis=(0, 2)).reshape(8, -1).mean(axis=1)
    assert ((stripes < 60) | (stripes > 100)).all(), stripes
    return sum(int(level > 80) << i for i, level in enumerate(stripes))


def write(path, times, pictures=None, codec="libx264", pixels="yuv420p", gop=12, turn=0, shape=None, front=True):
    """A video file with the pictures (default: numbered) at the given times in s."""
    with av.open(str(path), "w", options={"movflags": "+faststart"} if front else {}) as file:
        stream = file.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.gop_size = gop
        if codec != "mpeg4":
            stream.codec_context.time_base = CLOCK
        if codec == "libx264":
            stream.options = {"crf": "12", "preset": "veryfast"}
        if turn:
            stream.set_display_rotation(turn)
        if shape:
            stream.codec_context.sample_aspect_ratio = shape
        clock = stream.codec_context.time_base or Fraction(1, 30)
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(coded(i % 256) if pictures is None else pictures[i], format="rgb24")
            frame.pts, frame.time_base = round(time / clock), clock
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def regular(rate: float | Fraction, frames: int, start: float = 0) -> list[Fraction]:
    return [Fraction(start) + i / Fraction(rate) for i in range(frames)]


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


@dataclass(frozen=True)
class Jumps:
    """A toy detector: at a cut every pixel changes."""

    name: str = "jumps"

    def __call__(self, thumbnails):
        pixels = thumbnails.reshape(len(thumbnails), -1).astype(int)
        return np.r_[False, np.abs(np.diff(pixels, axis=0)).min(axis=1) > 50]


def plain(level: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


def source(folder: Path, **settings) -> VideoSource:
    return VideoSource(folder, **({"size": (64, 32), "find_cuts": Jumps()} | settings))


def split(found):
    found = list(found)
    return [c for c in found if isinstance(c, Chunk)], [s for s in found if isinstance(s, Skipped)]


# --- timing


@pytest.mark.parametrize("rate", [30, 25, Fraction(30000, 1001), 10, 4, 60])
def test_the_frame_on_screen_is_taken(tmp_path, rate):
    path = write(tmp_path / "a.mp4", regular(rate, 63))
    got = numbers(path)
    assert got == expected(path)
    assert abs(len(got) - floor(63 / rate * 10)) <= 1


def test_the_first_indices_are_known(tmp_path):
    """ffmpeg's fps filter takes 1, 4, 7 of a 30 fps video: half a step late."""
    assert numbers(write(tmp_path / "a.mp4", regular(30, 31)))[:5] == [0, 3, 6, 9, 12]
    assert numbers(write(tmp_path / "b.mp4", regular(25, 31)))[:6] == [0, 2, 5, 7, 10, 12]
    ntsc = numbers(write(tmp_path / "c.mp4", regular(Fraction(30000, 1001), 31)))
    assert ntsc[:8] == [0, 3, 6, 9, 12, 15, 17, 20]  # frame 18 is at 0.6006 s


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mkv", "libx264"), (".webm", "libvpx-vp9"), (".avi", "mpeg4"), (".mov", "mpeg4")]
)
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
    assert losses == [Skipped("2.1 s", "time without a picture")]
    chunks, _ = split(source(path, min_scene=1).chunks(path))
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
        for use in (probe, lambda p: list(read_frames(p)), lambda p: list(source(tmp_path).chunks(p))):
            with pytest.raises(SourceError, match=f"{path.name}.*{words}|{words}.*{path.name}"):
                use(path)


def test_no_videos(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        source(tmp_path / "nowhere").items()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match=r"no video in .*\.mp4 .*\.mkv"):
        source(tmp_path).items()


# --- chunks


def test_chunks_of_a_scene(tmp_path):
    path = write(tmp_path / "drive.mp4", regular(10, 57))
    chunks, skipped = split(source(path, frames=20, min_scene=18).chunks(path))
    assert [c.length for c in chunks] == [20, 20, 17]  # the rest of a scene is kept, however short
    assert [c.key for c in chunks] == ["video-drive-0000", "video-drive-0001", "video-drive-0002"]
    assert {c.scene for c in chunks} == {"drive_00"}
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
    chunks, skipped = split(source(path, frames=25, min_scene=10).chunks(path))
    assert [(c.scene, c.length, c.extra["start_time"]) for c in chunks] == [
        ("two_00", 25, 0.0),
        ("two_00", 5, 2.5),
        ("two_01", 25, 3.5),
        ("two_01", 15, 6.0),
    ]
    assert chunks[2].timestamps[0] == 0
    assert chunks[3].timestamps[0] == 2.5
    for chunk, level in zip(chunks, (30, 30, 220, 220), strict=True):
        assert all(abs(decode_jpeg(d).mean() - level) < 5 for d in chunk.frames["front"])
    assert skipped == [Skipped("two.mp4: frames: 5, scenes: 1", "scene shorter than 10 frames")]


def test_losses_reach_the_source(tmp_path):
    whole = write(tmp_path / "a.mp4", regular(25, 250))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    chunks, skipped = split(source(tmp_path, min_scene=5).chunks(whole))
    assert chunks
    assert any(s.cause == "file ends early" and s.item.startswith("a.mp4: ") for s in skipped)


def test_keys_are_unique_and_the_split_is_by_file(tmp_path):
    """a.mp4 and a.mkv, or "a b" and "a_b", clean to the same key."""
    (tmp_path / "sub").mkdir()
    for name in ("a.mp4", "a.mkv", "b c.mp4", "b_c.mp4", "d.e.MP4", "sub/a.mp4", "sub-a.mp4"):
        write(tmp_path / name, regular(10, 12))
    videos = source(tmp_path, frames=6, min_scene=6, val_every=3)
    chunks = [c for item in videos.items() for c in videos.chunks(item)]
    assert len({c.key for c in chunks}) == len(chunks) == 14
    assert not any("." in c.key for c in chunks)
    assert len({c.scene for c in chunks}) == 7
    assert {c.origin for c in chunks if c.split == "val"} == {videos._origin(videos.items()[i]) for i in (2, 5)}
    assert videos.items() == sorted(videos.items())


def test_memory_is_flat(tmp_path):
    """Reading stays at most a window ahead of what has been handed out."""
    ahead = 0

    def frames():
        nonlocal ahead
        for i in range(2000):
            ahead += 1
            yield i, np.zeros((27, 48, 3), np.uint8)

    for _ in mark_cuts(frames(), Jumps()):
        ahead -= 1
        assert ahead <= WINDOW


@pytest.mark.parametrize("length", [1, 2, 99, 149, 150, 151, 175, 199, 200, 201, 300, 475])
def test_windows_change_nothing(length):
    draw = np.random.default_rng(length)
    levels = np.cumsum(draw.random(length) < 0.1) % 2 * 200
    thumbnails = np.broadcast_to(levels[:, None, None, None], (length, 27, 48, 3)).astype(np.uint8)
    marked = list(mark_cuts(enumerate(thumbnails), Jumps()))
    assert [i for i, _ in marked] == list(range(length))
    assert [cut for _, cut in marked] == Jumps()(thumbnails).tolist()


# --- the real detector


def view(seed: int, at: float) -> np.ndarray:
    """Smooth landscape `seed`, moved sideways by `at` pixels."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:108, :192].astype(float)
    picture = np.zeros((108, 192, 3))
    for _ in range(12):
        fx, fy, phase = draw.uniform(0.02, 0.12), draw.uniform(0.02, 0.12), draw.uniform(0, 6.3)
        picture += draw.uniform(-18, 18, 3) * np.sin(fx * (x + at) + fy * y + phase)[..., None]
    return np.clip(picture + draw.uniform(60, 190, 3), 0, 255).astype(np.uint8)


def test_transnet_finds_the_cuts_and_touches_nothing_else():
    """Its constructor reseeds every global generator and makes torch deterministic."""
    torch = pytest.importorskip("torch")
    from gwm.pipelines.cuts import transnet_cuts

    torch.manual_seed(3)
    random.seed(3)
    before = torch.get_rng_state(), random.getstate(), torch.are_deterministic_algorithms_enabled()
    images = [view(scene, 2.0 * i) for scene in range(3) for i in range(14)]
    marked = mark_cuts(enumerate(map(thumbnail, images)), transnet_cuts())
    assert [i for i, cut in marked if cut] == [14, 28]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), torch.are_deterministic_algorithms_enabled()) == before[1:]
