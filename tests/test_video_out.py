"""What a browser must find in the video files, and what a contact sheet shows."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from gwm.pipelines.video_out import VideoWriter, contact_sheet, write_video
from gwm.shards import ShardError
from gwm.shards.video import read_frames


def ramp(i: int, height: int = 64, width: int = 128) -> np.ndarray:
    """A smooth coloured picture that changes with `i`."""
    y, x = np.mgrid[:height, :width]
    colours = np.stack([40 + x % 160, 60 + 4 * i + 0 * x, 200 - y], -1)
    return colours.clip(0, 255).astype(np.uint8)


def left_over(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_file_is_what_browsers_play(tmp_path):
    path = tmp_path / "rollout.mp4"
    assert write_video(path, (ramp(i) for i in range(23))) == 23
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
        assert (stream.width, stream.height) == (128, 64)
        assert stream.duration * stream.time_base == Fraction(23, 10)
        assert [f.pts * f.time_base for f in file.decode(stream)] == [Fraction(i, 10) for i in range(23)]
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")  # plays before it has arrived
    assert left_over(tmp_path) == ["rollout.mp4"]


def test_frames_and_colours_survive(tmp_path):
    """The reader undoes the writer: same count, times and (the file says that it is BT.709) colours."""
    write_video(tmp_path / "a.mp4", [ramp(i) for i in range(12)])
    got = list(read_frames(tmp_path / "a.mp4"))
    assert [t for t, _ in got] == [i / 10 for i in range(12)]
    for i, (_, image) in enumerate(got):
        assert np.abs(image.astype(int) - ramp(i)).mean() < 3


@pytest.mark.parametrize("scale", [1, 4])
def test_odd_sizes_and_whole_enlargement(tmp_path, scale):
    write_video(tmp_path / "a.mp4", [ramp(i, 33, 65) for i in range(3)], scale=scale)
    images = [image for _, image in read_frames(tmp_path / "a.mp4")]
    assert len(images) == 3
    assert images[0].shape == ((34, 66, 3) if scale == 1 else (132, 260, 3))
    small = images[2][::scale, ::scale][:33, :65]
    assert np.abs(small.astype(int) - ramp(2, 33, 65)).mean() < 5


def test_nothing_is_left_of_a_rollout_that_fails(tmp_path):
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4") as video:  # noqa: PT012
        video.add(ramp(0))
        raise KeyError
    with pytest.raises(ShardError, match=r"no frame for .*a\.mp4"):
        write_video(tmp_path / "a.mp4", [])
    assert left_over(tmp_path) == []


def test_an_old_result_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, [ramp(0)] * 3)
    before = path.read_bytes()
    with pytest.raises(KeyError), VideoWriter(path) as video:  # noqa: PT012
        video.add(ramp(1))
        raise KeyError
    assert path.read_bytes() == before


@pytest.mark.parametrize("inside", ["missing/a", "file/a"])
def test_a_folder_that_cannot_be_written_to(tmp_path, inside):
    (tmp_path / "file").touch()
    with pytest.raises(ShardError, match=r"cannot write .*a\.mp4: .*-o"):
        write_video(tmp_path / f"{inside}.mp4", [ramp(0)])
    with pytest.raises(ShardError, match=r"cannot write .*a\.png: .*-o"):
        contact_sheet(tmp_path / f"{inside}.png", [("a", [ramp(0)])], ["0"])
    assert left_over(tmp_path) == ["file"]


def test_a_read_only_folder_is_refused_before_the_first_frame(tmp_path, monkeypatch):
    """The file is made on entry: a rollout of hours must not end in this message."""

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(ShardError, match="Permission denied"):
        VideoWriter(tmp_path / "a.mp4").__enter__()


def test_a_full_disk(tmp_path):
    """A limit on the size of files stands in for the disk: it fails in the same calls."""
    script = f"""
import resource, signal, numpy as np
from pathlib import Path
from gwm.shards import ShardError
from gwm.pipelines.video_out import contact_sheet, write_video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
noise = np.random.default_rng(0).integers(0, 255, (20, 96, 160, 3), dtype=np.uint8)
for act in (lambda p: write_video(p / "a.mp4", noise), lambda p: contact_sheet(p / "a.png", [("a", noise)], [""] * 20)):
    try:
        act(Path({str(tmp_path)!r}))
    except ShardError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 2, run.stderr
    assert all("cannot write" in line and "File too large" in line for line in lines)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("height", "width", "tile"), [(64, 128, (128, 64)), (36, 64, (128, 72)), (288, 512, (160, 90)), (16, 32, (160, 80))]
)
def test_a_contact_sheet(tmp_path, height, width, tile):
    path = tmp_path / "contact.png"
    real, made = [ramp(i, height, width) for i in range(8)], [ramp(9, height, width)] * 10
    contact_sheet(path, [("real", real), ("generated", made)], [f"{i / 10:.1f} s" for i in range(10)])
    sheet = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    rows, columns = sheet.shape[0] - 2 * (tile[1] + 4), sheet.shape[1] - 10 * (tile[0] + 4)
    assert 15 < rows < 40  # the line of labels
    assert 40 < columns < 120  # the rows' labels
    assert (
        np.abs(sheet[rows : rows + tile[1], columns : columns + tile[0]].mean((0, 1)) - real[0].mean((0, 1))).max() < 2
    )
    assert np.ptp(sheet[rows : rows + tile[1], columns + 9 * (tile[0] + 4) :]) == 0  # the real row ends early
    assert np.ptp(sheet[:rows, columns:]) > 100  # something is written there
    assert np.ptp(sheet[rows:, :columns]) > 100
    assert left_over(tmp_path) == ["contact.png"]
